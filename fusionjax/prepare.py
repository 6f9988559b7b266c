"""Checks a data set and converts it, once: python -m fusionjax.prepare market1501 --root=/data/market --out=prepared/market"""

from argparse import SUPPRESS, ArgumentParser, BooleanOptionalAction, Namespace
from pathlib import Path

from ml_collections import ConfigDict

from fusionjax import cli, config
from fusionjax.arguments import Command, at_least, comma_separated, needed
from fusionjax.errors import UserError


def add(parser: ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("source", nargs="?", help="the data set, e.g. market1501, or folder, manifest")
    parser.add_argument("--root", metavar="PATH", help="folder (or manifest file) of the data set")
    parser.add_argument(
        "--out", metavar="DIR", help="folder to write, for data.source=prepared; without it, only check"
    )
    parser.add_argument(
        "--splits", metavar="A,B", type=comma_separated, default=[], help="splits to prepare; all by default"
    )
    parser.add_argument("--shards", type=at_least(1), default=1, metavar="N", help="files per split (1)")
    parser.add_argument(
        "--seed", type=at_least(0), default=0, metavar="N", help="of the splits, where they are drawn (0)"
    )
    parser.add_argument(
        "--fractions",
        metavar="A,B,C",
        type=comma_separated,
        default=[],
        help="of train, val and test, where they are drawn",
    )
    parser.add_argument(
        "--check_counts",
        action=BooleanOptionalAction,
        default=True,
        help="compare with the published number of images",
    )
    parser.add_argument("--nocheck_counts", dest="check_counts", action="store_false", help=SUPPRESS)
    parser.add_argument(
        "--max_bad_fraction",
        type=float,
        metavar="X",
        help="unreadable share of a split above which nothing is written",
    )
    parser.add_argument("--allow_outside", action="store_true", help="copy images outside of --root too")
    parser.add_argument("--overwrite", action="store_true", help="prepare a finished --out again")
    parser.add_argument(
        "--verify", action="store_true", help="compare the sha256 of every file of --out; write nothing"
    )


def main(options: Namespace) -> None:
    """Prints one line per split; every image that cannot be read is logged."""
    if options.verify:
        needed(options.out, "--out is missing: --verify needs the folder of a prepared data set")
    else:
        needed(options.source, "the data set is missing: python -m fusionjax.prepare market1501 --root=…")
    from fusionjax.data.prepared import records, writer

    source, out = options.source, Path(options.out).expanduser() if options.out else None
    if out is not None and options.verify:
        content = records.read_index(out, f"--out={options.out!r}")
        if source:
            writer.same_request(out, content, {"source": source})
        records.verify(out, content)
        print(f"{out} is complete: {records.summary(content)}")
        return
    if out is not None and (out / records.INDEX).exists() and not options.overwrite:
        content = records.read_index(out, f"--out={options.out!r}")
        writer.same_request(out, content, _asked(options))
        print(f"{out} is finished: {records.summary(content)}; --overwrite prepares it again")
        return
    if not options.root:
        raise UserError(f"--root is missing: name the folder of {source}")
    try:
        work = writer.Preparation(_data(options), seed=options.seed, wanted=options.splits)
        for line in work.notes():
            print(line)
        if out is None:
            rows = work.check()
        else:
            rows = work.write(out, shards=options.shards, allow_outside=options.allow_outside)
    except UserError as e:  # the readers name fields of the config, which are flags here
        raise UserError(str(e).replace("config.data.", "--")) from None
    print(writer.table(rows))
    if out is None:
        print("checked; nothing was written: --out=<folder> does")
    else:
        print(f"{out} is written; use it by --config.data.source=prepared --config.data.root={out}")


def _data(options: Namespace) -> ConfigDict:
    data = config.default().data
    data.source, data.root, data.check_counts = options.source, options.root, options.check_counts
    if options.fractions:
        data.fractions = _fractions(options)
    if options.max_bad_fraction is not None:
        data.max_bad_fraction = options.max_bad_fraction
    return data


def _fractions(options: Namespace) -> tuple[float, ...]:
    try:
        shares = tuple(float(v) for v in options.fractions)
    except ValueError:
        shares = ()
    if len(shares) != 3 or not min(shares) >= 0 or shares[0] <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise UserError("--fractions must be three shares (train, val, test) that add up to 1")
    return shares


def _asked(options: Namespace) -> dict[str, object]:
    """What the flags specify about the output."""
    asked: dict[str, object] = {"source": options.source} | (
        {"splits": options.splits} if options.splits else {}
    )
    asked |= {"root": str(Path(options.root).expanduser().resolve())} if options.root else {}
    asked |= {"fractions": list(_fractions(options))} if options.fractions else {}
    return asked | {n: getattr(options, n) for n in ("seed", "shards", "check_counts") if n in options.given}


COMMAND = Command(
    "prepare",
    "Checks a data set and, with --out, converts it once for fast reading.",
    add,
    main,
    (
        "fusionjax prepare market1501 --root=/data/Market-1501",
        "fusionjax prepare folder --root=photos --out=prepared/photos --fractions=0.8,0.1,0.1",
    ),
)

if __name__ == "__main__":
    cli.run(COMMAND)
