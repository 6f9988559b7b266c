"""`python -m fusionjax.prepare` as a user types it, each time in a process of its own."""

import functools
import os
import re
from pathlib import Path

import pytest

from tests.data.prepared.test_writer import prepare, reopened, snapshot
from tests.support import process, trees

run = functools.partial(process.python, "-m", "fusionjax.prepare")


def test_the_command(tmp_path):
    root, out = trees.market(tmp_path), tmp_path / "out"
    data_set = ("market1501", f"--root={root}", "--nocheck_counts")
    checked = run(*data_set)
    assert checked.stdout.splitlines()[3].split()[:3] == ["gallery", "7", "3"]
    assert "nothing was written" in checked.stdout
    written = run(*data_set, f"--out={out}")
    assert written.stdout.splitlines()[:4] == checked.stdout.splitlines()[:4] and written.stderr == ""
    assert f"--config.data.source=prepared --config.data.root={out}" in written.stdout
    before = snapshot(out)
    again = run("market1501", f"--out={out}")
    assert "is finished: market1501, images: 10 train, 2 query, 7 gallery, files: 3" in again.stdout
    assert "is complete" in run(f"--out={out}", "--verify").stdout
    assert snapshot(out) == before
    trees.jpeg(root / "query" / "0004_c2s1_000003_00.jpg")
    run(*data_set, f"--out={out}", "--overwrite")
    assert len(reopened(out, "query")) == 3
    (out / next(n for n in os.listdir(out) if n.startswith("train"))).write_bytes(b"")
    assert "has 0 bytes instead of" in run("market1501", f"--out={out}", expect=2).stderr


@pytest.fixture(scope="module")
def market(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("mistakes")
    prepare("market1501", trees.market(folder), folder / "out")
    return {"root": folder, "out": folder / "out"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the data set is missing"),
        (["cub"], "--root is missing: name the folder of cub"),
        (["cub", "stray", "--root=x"], "unexpected argument 'stray'"),
        (
            ["cub", "--root=/nowhere"],
            "--root='/nowhere' does not exist: it must be the folder of CUB-200-2011",
        ),
        (["tfds", "--root=/nowhere"], "data set 'tfds' cannot be prepared; allowed are market1501"),
        (["folder", "--root=x", "--fractions=1,1,1"], "--fractions must be three shares"),
        (["--verify"], "--out is missing"),
        (["--verify", "--out=/nowhere"], "--out='/nowhere' holds no prepared data set"),
        (["cub", "--root=x", "--shards=0"], "shards"),
        (
            ["market1501", "--out={out}", "--root=/elsewhere"],
            "was prepared with root=.*, not '/elsewhere'",
        ),
        (["folder", "--out={out}"], "was prepared with source='market1501', not 'folder'"),
        (
            ["market1501", "--out={out}", "--shards=2"],
            "was prepared with shards=1, not 2; name another",
        ),
        (["market1501", "--root={root}"], "expected 12,936, found 10; .* .--check_counts=False accepts it"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, market):
    done = run(*(a.format(**market) for a in arguments), expect=2)
    assert done.stderr.count("\n") == 1 and re.search(message, done.stderr), done.stderr
