"""Checks a data set and converts it, once: python -m fusionjax.prepare market1501 --root=/data/market --out=prepared/market"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from fusionjax import cli, config
from fusionjax.errors import UserError

ROOT = flags.DEFINE_string("root", None, "Folder (or manifest file) of the data set.")
OUT = flags.DEFINE_string("out", None, "Folder to write, for data.source=prepared; without it, only check.")
SPLITS = flags.DEFINE_list("splits", [], "Splits to prepare; all by default.")
SHARDS = flags.DEFINE_integer("shards", 1, "Files per split.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the splits where there are no official ones.", lower_bound=0)
FRACTIONS = flags.DEFINE_list("fractions", [], "Fractions of train, val and test where the splits are drawn.")
CHECK_COUNTS = flags.DEFINE_boolean("check_counts", True, "Compare with the published number of images.")
MAX_BAD = flags.DEFINE_float(
    "max_bad_fraction", None, "Fraction of unreadable images of a split above which nothing is written."
)
OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Prepare a finished --out again.")
VERIFY = flags.DEFINE_boolean("verify", False, "Compare the sha256 of every file of --out; write nothing.")


def main(rest: Sequence[str]) -> None:
    """Prints one line per split; every image that cannot be read is logged."""
    if len(rest) > 1:
        raise UserError(f"unexpected argument {rest[1]!r}")
    if VERIFY.value and not OUT.value:
        raise UserError("--out is missing: --verify needs the folder of a prepared data set")
    if not rest and not VERIFY.value:
        raise UserError("the data set is missing: python -m fusionjax.prepare market1501 --root=…")
    from fusionjax.data.prepared import records, writer

    out = Path(OUT.value).expanduser() if OUT.value else None
    if out is not None and VERIFY.value:
        content = records.read_index(out, f"--out={OUT.value!r}")
        if rest:
            writer.same_request(out, content, {"source": rest[0]})
        records.verify(out, content)
        print(f"{out} is complete: {records.summary(content)}")
        return
    if out is not None and (out / records.INDEX).exists() and not OVERWRITE.value:
        content = records.read_index(out, f"--out={OUT.value!r}")
        writer.same_request(out, content, _asked(rest[0]))
        print(f"{out} is finished: {records.summary(content)}; --overwrite prepares it again")
        return
    if not ROOT.value:
        raise UserError(f"--root is missing: name the folder of {rest[0]}")
    try:
        work = writer.Preparation(_data(rest[0]), seed=SEED.value, wanted=SPLITS.value)
        rows = work.check() if out is None else work.write(out, shards=SHARDS.value)
    except UserError as e:  # the readers name fields of the config, which are flags here
        raise UserError(str(e).replace("config.data.", "--")) from None
    print(writer.table(rows))
    if out is None:
        print("checked; nothing was written: --out=<folder> does")
    else:
        print(f"{out} is written; use it by --config.data.source=prepared --config.data.root={out}")


def _data(source: str) -> ConfigDict:
    data = config.default().data
    data.source, data.root, data.check_counts = source, ROOT.value, CHECK_COUNTS.value
    if FRACTIONS.value:
        data.fractions = _fractions()
    if MAX_BAD.value is not None:
        data.max_bad_fraction = MAX_BAD.value
    return data


def _fractions() -> tuple[float, ...]:
    try:
        shares = tuple(float(v) for v in FRACTIONS.value)
    except ValueError:
        shares = ()
    if len(shares) != 3 or not min(shares) >= 0 or shares[0] <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise UserError("--fractions must be three shares (train, val, test) that add up to 1")
    return shares


def _asked(source: str) -> dict[str, object]:
    """What the flags specify about the output."""
    asked: dict[str, object] = {"source": source} | ({"splits": SPLITS.value} if SPLITS.value else {})
    asked |= {"root": str(Path(ROOT.value).expanduser().resolve())} if ROOT.value else {}
    asked |= {"fractions": list(_fractions())} if FRACTIONS.value else {}
    return asked | {f.name: f.value for f in (SEED, SHARDS, CHECK_COUNTS) if flags.FLAGS[f.name].present}


if __name__ == "__main__":
    cli.run(main)
