"""Some classes of a data set: their labels, names and files, and what each mistake says."""

import json
from pathlib import Path

import numpy as np
import pytest

from fusionjax.data import text
from fusionjax.data.sampling.class_selection import SelectedClasses
from fusionjax.data.source import FileSource, Source, Subset
from fusionjax.data.text import descriptions
from tests.support.fake_tokenizer import expected, fails, plain

LABELS = np.array([0, 1, 2, 1, 0, 2, 2, 0], np.int32)
CLASSES = ("ash", "beech", "cedar")
TEXTS = (
    ("grey bark", "paired buds of black"),
    ("smooth bark",),
    ("flat sprays", "cones", "scent of pencils"),
)


def trees_of(columns=None) -> FileSource:
    names = [f"{CLASSES[c]}/{i}.jpg" for i, c in enumerate(LABELS)]
    return FileSource("Trees", "train", CLASSES, LABELS, names, Path("nowhere"), columns or {})


def test_selected_classes_are_relabelled_in_their_order():
    whole = trees_of(columns={"caption": np.asarray([f"c{i}" for i in range(8)], object)})
    part = SelectedClasses(whole, ("cedar", "ash"))
    assert isinstance(part, Source) and part.class_names == ("cedar", "ash")
    kept = [i for i in range(8) if LABELS[i] != 1]
    assert part.labels.dtype == np.int32 and part.labels.tolist() == [[1, None, 0][LABELS[i]] for i in kept]
    assert part.names == [whole.names[i] for i in kept] and len(part) == len(kept)
    assert part.columns["caption"].tolist() == [f"c{i}" for i in kept]
    assert (part.name, part.split) == ("Trees", "train") and part.source is whole
    for i, name in enumerate(part.names):
        assert name.startswith(part.class_names[part.labels[i]])
    inner = Subset(part, np.array([2, 0]))
    assert inner.class_names == ("cedar", "ash") and inner.names == [part.names[2], part.names[0]]
    assert inner.labels.tolist() == part.labels[[2, 0]].tolist()
    again = SelectedClasses(part, ("ash", "cedar"))
    assert again.labels.tolist() == (1 - part.labels).tolist() and again.names == part.names


def test_selected_classes_read_the_right_files(tmp_path):
    for name in trees_of().names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    whole = FileSource("Trees", "train", CLASSES, LABELS, trees_of().names, tmp_path)
    part = SelectedClasses(whole, ("beech", "cedar"))
    assert [part.load(i).decode() for i in range(len(part))] == part.names


def test_selected_classes_mistakes():
    def select(*classes, source=None):
        return SelectedClasses(source or trees_of(), classes)

    fails(
        r"Trees has no class 'aash' \(did you mean 'ash'\?\), 'zelkova'; write",
        select,
        "aash",
        "beech",
        "zelkova",
    )
    fails(r"'Cedar' \(did you mean 'cedar'\?\)", select, "ash", "Cedar")
    fails("class 'ash' is listed twice", select, "ash", "beech", "ash")
    fails("two or more classes of Trees must be selected, 1 listed", select, "ash")
    fails("two or more .*, 0 listed", select)
    only = Subset(trees_of(), np.flatnonzero(LABELS == 0), split="val")
    fails(
        "split 'val' of Trees has no example of class 'beech', 'cedar'", select, "beech", "cedar", source=only
    )
    twins = FileSource("Trees", "train", ("ash", "ash", "beech"), LABELS, trees_of().names, Path("nowhere"))
    fails("Trees has several classes named 'ash'", select, "ash", "beech", source=twins)
    with pytest.raises(TypeError, match="a sequence of names"):
        SelectedClasses(trees_of(), "ash")


def test_selected_classes_take_the_descriptions_of_all(tmp_path):
    path = tmp_path / "d.json"
    path.write_text(json.dumps(dict(zip(CLASSES, TEXTS, strict=True))))
    part = SelectedClasses(trees_of(), ("cedar", "ash"))
    found = descriptions.load(path, part.class_names, also=part.source.class_names)
    texts = text.class_texts(found, part.labels, plain(), allow_label_leak=True)
    for i, c in enumerate(part.labels):
        row = texts.row(None, i)
        assert texts.tokens[row][texts.mask[row]].tolist() == expected(
            TEXTS[CLASSES.index(part.class_names[c])][0]
        )
