"""Tables as people save them, read as pandas reads them, and refused in one line where a cell has no one meaning."""

import csv
import datetime
import decimal
import json
import os

import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest

from fusionjax import config
from fusionjax.data import datasets
from fusionjax.data.datasets import manifest, tables
from fusionjax.data.text import texts
from fusionjax.errors import UserError
from tests.support import trees

KNOWN = manifest.COLUMNS


def parquet(to, **columns):
    pyarrow.parquet.write_table(pyarrow.table(columns), to)
    return to


def fails(match, path):
    with pytest.raises(UserError, match=match) as e:
        tables.read(path, KNOWN)
    assert "\n" not in str(e.value) and str(path) in str(e.value)


# --- a property: random small tables are read as pandas reads them

NAMES = ("path", "label", "split", "caption", "identity", "camera", "weight", "Unnamed: 0", "")
CELLS = ("a", "b c", "é", "1", "01", "-3", "2.50", "", "x,y", "x;y", 'say "so"', "tab\there", "two\nlines", "a|b", "NA", "nan",
         "[note]", "日本")  # fmt: skip


def random_table(rng) -> tuple[list[str], list[list[str]]]:
    """A header, in which columns may be missing or twice and names have any case, and its rows."""
    count = int(rng.integers(1, len(NAMES) + 1))
    header = rng.choice(NAMES, count, replace=bool(rng.random() < 0.3)).tolist()
    spelt = [rng.choice([name, name.upper(), name.capitalize(), f" {name} "]) for name in header]
    return list(map(str, spelt)), [rng.choice(CELLS, count).tolist() for _ in range(int(rng.integers(0, 6)))]


@pytest.mark.parametrize("seed", range(150))
def test_random_tables_are_read_as_pandas_reads_them(tmp_path, seed):
    rng = np.random.default_rng(seed)
    header, rows = random_table(rng)
    kind, delimiter = str(rng.choice([".csv", ".tsv", ".parquet"])), str(rng.choice(list(",;\t|")))
    path = tmp_path / f"t{kind}"
    if kind == ".parquet":
        columns = [
            pyarrow.array([row[k] or None for row in rows], pyarrow.string()) for k in range(len(header))
        ]
        pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, names=header), path)
    else:
        quoting = csv.QUOTE_ALL if rng.random() < 0.5 or len(header) == 1 else csv.QUOTE_MINIMAL
        with open(path, "w", newline="", encoding=str(rng.choice(["utf-8", "utf-8-sig"]))) as file:
            csv.writer(file, delimiter=delimiter, quoting=quoting).writerows([header, *rows])
    known = [name.strip().lower() for name in header]
    known = [name for name in known if name in KNOWN.names]
    twice = next((name for k, name in enumerate(known) if name in known[:k]), None)
    if twice:
        return fails(f"has the column {twice!r} twice, as columns \\d+ and \\d+: remove or rename one", path)
    found = tables.read(path, KNOWN)
    if kind == ".parquet":
        expected = pandas.DataFrame(rows, columns=range(len(header)), dtype=str)
    else:
        expected = pandas.read_csv(
            path, sep=delimiter if known else ",", header=None, skiprows=1, dtype=str, keep_default_na=False,
            names=range(len(header)), skip_blank_lines=False, encoding="utf-8-sig",
        ) if known and rows else pandas.DataFrame(rows, columns=range(len(header)), dtype=str)  # fmt: skip
    if kind != ".parquet":  # lines of nothing but delimiters are left out
        expected = expected[(expected.map(str.strip) != "").any(axis=1)] if len(expected) else expected
    assert sorted(found.columns) == sorted(known)
    for k, name in enumerate(name.strip().lower() for name in header):
        if name in KNOWN.names:
            assert found.columns[name] == [cell.strip() for cell in expected[k].tolist()], name
    if known:
        assert len(found.rows) == len(expected) and list(found.present) in (
            header,
            [n.strip() for n in header],
        )


# --- CSV


@pytest.mark.parametrize("delimiter", list(",;\t|"))
@pytest.mark.parametrize("start", ["", "\ufeff", "\n\n"])
def test_any_delimiter_case_and_byte_order_mark(tmp_path, delimiter, start):
    path = tmp_path / "t.csv"
    lines = ["Path,LABEL, Split ,n", "a.jpg,x,train,1", "", "b.jpg,y,test,2"]
    lines.append(",,,")  # what spreadsheets leave
    path.write_text(start + "\n".join(lines).replace(",", delimiter) + "\n", encoding="utf-8")
    found = tables.read(path, KNOWN)
    assert found.columns == {"path": ["a.jpg", "b.jpg"], "label": ["x", "y"], "split": ["train", "test"]}
    first = 2 + start.count("\n")
    assert found.rows == [f"line {first}", f"line {first + 2}"] and found.present == (
        "Path",
        "LABEL",
        "Split",
        "n",
    )


@pytest.mark.parametrize("cell", ["['x']", '["x"]', "[1, 2]", "{'bytes': b'x', 'path': 'a'}", "[]"])
@pytest.mark.parametrize("name", ["path", "label", "split", "identity"])
def test_a_list_in_a_cell_of_csv(tmp_path, name, cell):
    path = tmp_path / "t.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(
            [["path", name] if name != "path" else ["label", name], ["a", "b"], ["c", cell]]
        )
    fails(f"line 3: {name!r} holds ", path)


def test_several_values_in_a_cell_of_csv(tmp_path):
    def read(cell, name="answers"):
        with open(tmp_path / "t.csv", "w", newline="") as file:
            csv.writer(file).writerows([["path", name], ["a", cell]])
        return tables.read(tmp_path / "t.csv", KNOWN).columns[name]

    assert read("yes|no") == read(json.dumps(["yes", "no"])) == ["yes|no"]
    assert read("[sic]") == ["[sic]"] and read("['a', 'b']", "caption") == ["['a', 'b']"]
    for cell in ("['yes' 'no']", "['yes', 'no']"):  # as NumPy and as pandas write a list
        with pytest.raises(UserError, match="separate several values by |, or write a JSON list"):
            read(cell)


def test_the_columns_that_are_there_are_listed(tmp_path):
    path = listed(tmp_path, '"Pfad";"Klasse, neu"', ['"a.jpg";"x"'])
    refused("has no column 'path'; its columns are 'Pfad', 'Klasse, neu'", path)


def test_a_csv_file_that_is_no_utf8(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("path,label\na,é\n".encode("latin-1"))
    fails("cannot be read as CSV: byte 13 is not UTF-8; save it as UTF-8", path)


def test_utf_16_with_a_byte_order_mark(tmp_path):
    """As spreadsheets save "Unicode text"."""
    path, text = tmp_path / "t.csv", "path\tlabel\ncafé.png\t日本\n"
    for encoding in ("utf-16-le", "utf-16-be"):
        path.write_bytes(("\ufeff" + text).encode(encoding))
        assert tables.read(path, KNOWN).columns == {"path": ["café.png"], "label": ["日本"]}
    path.write_bytes(("\ufeff" + text).encode("utf-16-le")[:-1])
    fails("cannot be read as CSV: byte .* is not UTF-16; save it as UTF-8", path)


def test_a_long_cell_is_read_and_one_without_end_is_named(tmp_path, monkeypatch):
    path, long = tmp_path / "t.csv", "word " * 40_000
    path.write_text(f"path,label,caption\na.png,x,{long}\nb.png,x,y\n")
    assert tables.read(path, KNOWN).columns["caption"] == [long.strip(), "y"]
    assert csv.field_size_limit() == 131_072
    monkeypatch.setattr(tables, "_MAX_CELL", 1000)
    fails("line 2: the row that begins there cannot be read .field larger than field limit", path)
    path.write_text('path,label,caption\na.png,x,ok\nb.png,x,"never\nclosed\n')
    fails("line 3: the row that begins there cannot be read .* is a quote not closed", path)


def test_a_message_lists_the_columns_of_the_table_not_those_that_are_read(tmp_path):
    """Also path, label and columns that fusionjax does not know."""
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"x")
    path = tmp_path / "t.csv"
    path.write_text("path,label,split,Beschreibung\na.png,x,train,rot\nb.png,y,train,blau\n")
    data = config.default().data
    data.source, data.root = "manifest", str(path)
    source = datasets.create(data, "train", seed=0)
    with pytest.raises(
        UserError, match="no column caption; its columns are path, label, split, Beschreibung: add one"
    ):
        texts.captions(source)


# --- Parquet


def test_missing_values_and_numbers_of_parquet(tmp_path):
    path = parquet(
        tmp_path / "t.parquet", Path=["a", "b", None], label=[0.0, float("nan"), 2.5], identity=[1, None, 2**62],
        camera=[decimal.Decimal("1.00"), decimal.Decimal("2.50"), None], caption=[b"x", b"\xc3\xa9", None],
    )  # fmt: skip
    assert tables.read(path, KNOWN).columns == {
        "path": ["a", "b", ""], "label": ["0", "", "2.5"], "identity": ["1", "", str(2**62)], "camera": ["1", "2.50", ""],
        "caption": ["x", "é", ""],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([["x"], ["y"]], "row 1: 'label' holds .* a list, where text or a number is expected"),
        ([{"bytes": b"x" * 99, "path": "p"}] * 2, "row 1: 'label' holds .* …, a dict, where"),
        ([None, datetime.date(2020, 1, 1)], "row 2: 'label' holds .* a date, where"),
        ([b"x", b"\xff"], "row 2: 'label' holds bytes that are not text"),
        ([1.0, 2.0**53], "row 2: 'label' holds 9007199254740992.0, a float that may have been rounded"),
    ],
)
def test_values_of_parquet_that_are_neither_text_nor_number(tmp_path, values, shown):
    fails(shown, parquet(tmp_path / "t.parquet", path=["a", "b"], label=values))


def test_a_folder_named_like_a_column_adds_none(tmp_path):
    folder = tmp_path / "split=train"
    folder.mkdir()
    assert tables.read(parquet(folder / "t.parquet", path=["a"]), KNOWN).columns == {"path": ["a"]}


# --- what a manifest makes of them


def open_split(path, split="train", **fields):
    data = config.default().data
    data.source, data.root = "manifest", str(path)
    data.update(fields)
    return datasets.create(data, split, seed=0)


def listed(root, header, rows, name="list.csv"):
    trees.folder(root, ("ash",), images=6)
    (root / name).write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return root / name


def refused(match, path, split="train", **fields):
    with pytest.raises(UserError, match=match) as e:
        open_split(path, split, **fields)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["caption", "identity", "label", "path"])
def test_a_column_twice(tmp_path, name):
    header = f"path,label,split,caption,identity,{name.upper()}"
    path = listed(tmp_path, header, [f"ash/0{i}.jpg,x,train,c{i},{i},{i}" for i in range(4)])
    refused(f"list.csv has the column '{name}' twice, as columns . and 6", path)


def test_the_classes_have_one_order(tmp_path):
    rows = [f"ash/0{i}.jpg,{label},train" for i, label in enumerate(("2", "1", "01", "10", "-1"))]
    path = listed(tmp_path, "path,label,split", rows)
    assert open_split(path).class_names == ("-1", "01", "1", "2", "10")
    path.write_text(path.read_text() + f"ash/05.jpg,{'9' * 5000},train\n")
    assert open_split(path).class_names[-1] == "9" * 5000  # more digits than Python converts: sorted as text


def test_a_missing_label_is_missing(tmp_path):
    trees.folder(tmp_path, ("ash",), images=2)
    path = parquet(tmp_path / "t.parquet", path=["ash/00.jpg", "ash/01.jpg"], label=[1.0, float("nan")])
    refused("row 2: 'label' is empty", path)


def test_identities_without_labels(tmp_path):
    rows = [f"ash/0{i}.jpg,{i // 2},{i % 2},train" for i in range(6)]
    path = listed(tmp_path, "path,identity,camera,split", rows)
    assert open_split(path).class_names == ("0", "1", "2")
    assert open_split(path, label="identity").labels.tolist() == [0, 0, 1, 1, 2, 2]
    path.write_text(path.read_text().replace("ash/03.jpg,1,", "ash/03.jpg,,"))
    refused("line 5: '(label|identity)' is empty", path, label="identity")


def test_identities_of_any_size_and_of_text(tmp_path):
    for names in (("1" * 20, "2" * 20, "3"), ("anna", "ben", "7")):
        rows = [f"ash/0{i}.jpg,{names[i // 2]},{i % 2},{'train' if i < 4 else 'test'}" for i in range(6)]
        path = listed(tmp_path, "path,identity,camera,split", rows)
        train, test = (open_split(path, s, label="identity") for s in ("train", "test"))
        assert (
            sorted(np.bincount(train.labels).tolist()) == [2, 2]
            and train.columns["identity"].dtype == np.int64
        )
        assert not set(train.columns["identity"]) & set(test.columns["identity"])


def test_splits_of_any_spelling(tmp_path):
    values = ("Training", "Training", "Valid", "test", "", "other")
    path = listed(tmp_path, "path,label,split", [f"ash/0{i}.jpg,{i % 2},{v}" for i, v in enumerate(values)])
    train = open_split(path)
    assert train.names == ["ash/00.jpg", "ash/01.jpg"] and open_split(path, "val").names == ["ash/02.jpg"]
    assert train.notes == (
        f"split 'train' is the rows of {path} with split 'Training'",
        f"not read, as their column 'split' is empty: 1 of 6 rows of {path}",
    )
    path.write_text(path.read_text().replace("other", "TRAIN"))
    refused("'TRAIN' and 'Training' both mean the split 'train'", path)


def test_labels_that_differ_only_in_unicode_composition(tmp_path):
    path = listed(tmp_path, "path,label", ["ash/00.jpg,caf\u00e9", "ash/01.jpg,cafe\u0301"])
    refused(
        r"the labels 'caf\\xe9' and 'cafe\\u0301' look the same|the labels 'cafe\\u0301' and 'caf\\xe9'", path
    )


def test_a_missing_file_with_a_name_that_is_there(tmp_path):
    path = listed(tmp_path, "path,label", ["ash/00.JPG,x", "ash/01.jpg,y"])
    refused(
        "00.JPG is missing; it is listed in list.csv, line 2; the folder has '00.jpg'",
        path,
        fractions=(1.0, 0, 0),
    )
    path = listed(tmp_path, "path,label", ["ash\\00.jpg,x", "ash/01.jpg,y"])
    refused("write the folders of a path with /", path, fractions=(1.0, 0, 0))
    # Of a row before it the file is there, but no regular one; and a name may be longer than the system allows.
    os.mkfifo(tmp_path / "ash" / "pipe.jpg")
    path = listed(tmp_path, "path,label", ["ash/pipe.jpg,x", "ash/gone.jpg,y"])
    refused("gone.jpg is missing; it is listed in list.csv, line 3", path, fractions=(1.0, 0, 0))
    path = listed(tmp_path, "path,label", [f"{'a' * 5000}.jpg,x", "ash/01.jpg,y"])
    refused("is missing; it is listed in list.csv, line 2", path, fractions=(1.0, 0, 0))


@pytest.mark.parametrize("url", ["https://example.com/1.jpg", "file:///images/1.jpg", "s3://bucket/1.jpg"])
def test_a_url_is_no_path(tmp_path, url):
    (tmp_path / "m.csv").write_text(f"path,label\n{url},a\n{url},b\n")
    data = config.default().data
    data.source, data.root, data.fractions = "manifest", str(tmp_path / "m.csv"), (1.0, 0.0, 0.0)
    with pytest.raises(
        UserError, match=r"m.csv, line 2; it is a URL, and nothing is downloaded: download the"
    ) as e:
        datasets.create(data, "train", seed=0)
    assert str(tmp_path / "http") not in str(e.value) and "\n" not in str(e.value)
