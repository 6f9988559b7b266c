"""Files of descriptions: how names match, what each damage says, and the one that comes with the package."""

import ast
import importlib.util
import json
from pathlib import Path

import pytest

from fusionjax.data import class_names as names_lib
from fusionjax.data.text import Descriptions, descriptions
from tests.support.fake_tokenizer import fails

CLASSES = ("ash", "beech", "cedar")


def write(path: Path, content) -> Path:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_descriptions_follow_the_labels(tmp_path):
    path = write(tmp_path / "d.json", {"beech": [" smooth "], "ash": ["grey", "ébène"]})
    found = descriptions.load(path, ("ash", "beech"))
    assert found == Descriptions(("ash", "beech"), (("grey", "ébène"), ("smooth",)), ())
    assert descriptions.load(str(path), ("beech", "ash")).texts == (("smooth",), ("grey", "ébène"))
    write(path, b"\xef\xbb\xbf" + path.read_bytes())
    assert descriptions.load(path, ("ash", "beech")) == found


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b'{"ash": ["\xff"]}', r"not UTF-8 \(byte 10\): save it as UTF-8"),
        ('{"ash": ["grey"],\n "beech": [}', "not JSON: line 2"),
        ("", "not JSON: line 1"),
        ("[]", r"not of the form \{"),
        ("{}", r"not of the form \{"),
        ('"ash"', r"not of the form \{"),
        ("[" * 100_000, "not of the form|not JSON"),
        ('{"ash": ' + "1" * 5000 + "}", "not of the form"),
        ({"ash": "grey"}, "class 'ash': a list of descriptions was expected"),
        ({"ash": {"a": "grey"}}, "class 'ash': a list of descriptions was expected"),
        ({"ash": {}}, "class 'ash': a list of descriptions was expected"),
        ({"ash": None}, "class 'ash': a list of descriptions was expected"),
        ({"ash": ["grey"], "beech": []}, "class 'beech' has no description"),
        ({"ash": ["grey", " \n"]}, "class 'ash': description 2 is empty"),
        ({"ash": ["grey", 3]}, "class 'ash': description 2 is not a text but int"),
        ({"ash": ["grey", ["x"]]}, "class 'ash': description 2 is not a text but list"),
        ({"ash": ["grey", "x", "grey "]}, "class 'ash': description 3 repeats description 1"),
        ('{"ash": ["grey"], "ash": ["smooth"]}', "class 'ash' is listed twice"),
        (r'{"ash": ["\ud800"]}', "class 'ash': description 1 holds half of a surrogate pair"),
        (r'{"\ud800": ["grey"]}', "name of class .* holds half of a surrogate pair"),
    ],
)  # fmt: skip
def test_damaged_descriptions(content, match, tmp_path):
    fails(match, descriptions.read, write(tmp_path / "d.json", content))


def test_descriptions_that_are_not_there(tmp_path, monkeypatch):
    fails("no such file of descriptions; its form is", descriptions.read, tmp_path / "no.json")
    fails("ends in .json, or one of openmoji, plant_village", descriptions.read, tmp_path / "d.yaml")
    fails("did you mean 'plant_village'", descriptions.read, "plantvillage")
    (tmp_path / "folder.json").mkdir()
    fails("no such file", descriptions.read, tmp_path / "folder.json")
    monkeypatch.setattr(descriptions, "MAX_BYTES", 2**20)
    path = write(tmp_path / "d.json", {"ash": ["x" * 2**20]})
    fails("more than 1 MiB", descriptions.read, path)
    path = write(path, {"ash": ["x" * (2**20 - len('{"ash": [""]}'))]})
    assert path.stat().st_size == 2**20 and len(descriptions.read(path)["ash"][0]) > 1_000_000


def matched(found, class_names, **options):
    return descriptions.match({k: (k,) for k in found}, class_names, shown="d.json", **options).texts


def test_names_match_but_for_their_separators():
    tfds = ("Tomato___Late_blight", "Pepper,_bell___healthy", "Corn___Cercospora_leaf_spot Gray_leaf_spot")
    written = ("Pepper, bell: healthy", "Corn :Cercospora leaf  spot Gray leaf spot", "Tomato: Late blight")
    assert matched(written, tfds) == ((written[2],), (written[0],), (written[1],))
    assert matched(tfds, written) == ((tfds[1],), (tfds[2],), (tfds[0],))
    # An exact name goes first, and what is then left over is unknown.
    fails("describes class 'Tomato: Late blight' \\(did you mean 'Tomato___Late_blight'\\?\\), which the data set does not",
          matched, (*tfds, "Tomato: Late blight"), tfds)  # fmt: skip
    fails("'a_b' and 'a  b' both describe class 'a b'", matched, ("a_b", "a  b"), ("a b",))
    # Classes that only separators tell apart must be named exactly.
    assert matched(("a_b", "a b"), ("a b", "a_b")) == (("a b",), ("a_b",))
    fails("no description of class 'a_b'", matched, ("a b", "a  b"), ("a b", "a_b"))
    fails("no description of class 'Ash' \\(did you mean 'ash'\\?\\)", matched, ("ash",), ("Ash",))


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("Tomato___Late_blight", "Tomato: Late blight"),
        ("Corn___Cercospora_leaf_spot Gray_leaf_spot", "Corn: Cercospora leaf spot Gray leaf spot"),
        ("Grape___Esca_(Black_Measles)", "Grape: Esca (Black Measles)"),
        ("  a :b\t c ", "a: b c"),
        ("Black-footed Albatross", "Black-footed Albatross"),
        ("001.Black_footed_Albatross", "001.Black footed Albatross"),
    ],
)
def test_readable(name, form):
    assert names_lib.readable(name) == form == names_lib.readable(form)


def test_missing_and_unknown_classes():
    fails(r"d\.json: no description of 2 classes, 'beech', 'cedar' \(did you mean 'ceder'\?\): each of the 3 classes",
          matched, ("ash", "ceder"), CLASSES)  # fmt: skip
    fails(r"d\.json: describes 2 classes, 'aash' \(did you mean 'ash'\?\), 'zelkova', which",
          matched, (*CLASSES, "aash", "zelkova"), CLASSES)  # fmt: skip
    many = [f"class {i}" for i in range(9)]
    fails("'class 4' and 4 more: each of the 9", matched, (), many)
    assert matched(CLASSES, ("cedar", "ash"), also=CLASSES) == (("cedar",), ("ash",))
    fails("describes class 'beech'", matched, CLASSES, ("cedar", "ash"))
    fails("no description of class 'ash'", matched, ("cedar", "beech"), ("cedar", "ash"), also=CLASSES)


def test_shared_descriptions_are_named():
    def notes(*texts):
        names = [chr(ord("a") + i) for i in range(len(texts))]
        return descriptions.match(dict(zip(names, texts, strict=True)), names, shown="d.json").notes

    assert notes(("x", "y"), ("z",), ("v", "w")) == ()
    assert notes(("x", "y"), ("z",), ("v", "Y ")) == ("d.json: a description is shared by 'a' and 'c'",)
    same = "d.json: the text does not distinguish these classes, their descriptions are the same: "
    assert notes(("x", "y"), ("z",), ("Y", "x")) == (same + "'a' = 'c'",)
    assert notes(("x",), ("x",), ("x", "y"), ("x",)) == (
        same + "'a' = 'b'; 'a' = 'd'", "d.json: a description is shared by 'a' and 'c'",
    )  # fmt: skip
    assert notes(*[("x",)] * 9)[0].endswith("'a' = 'f' and 3 more")


def test_plant_village_has_every_class_of_tfds():
    spec = importlib.util.find_spec("tensorflow_datasets")
    (folder,) = spec.submodule_search_locations
    program = Path(folder) / "datasets" / "plant_village" / "plant_village_dataset_builder.py"
    (labels,) = [
        ast.literal_eval(node.value)
        for node in ast.parse(program.read_text()).body
        if isinstance(node, ast.Assign) and node.targets[0].id == "_LABELS"
    ]
    assert len(labels) == 38
    assert sorted(descriptions.read("plant_village")) == sorted(labels)
    found = descriptions.load("plant_village", labels)
    assert found.class_names == tuple(labels) and found.notes == ()
    written = [t for own in found.texts for t in own]
    assert len(set(written)) == len(written)
    for name, own in zip(labels, found.texts, strict=True):
        crop = name.partition("___")[0].partition(",")[0].lower()
        assert 3 <= len(own) <= 4
        for t in own:
            assert 15 <= len(t.split()) <= 45 and t.endswith(".") and t.count(". ") <= 1, t
            assert (crop in t.lower()) or (crop == "orange" and "citrus" in t), (name, t)
            assert "healthy" not in t or name.endswith("healthy"), (name, t)


def test_plant_village_texts_name_no_other_class():
    found = descriptions.read("plant_village")
    named = {"scab": "Apple_scab", "black rot": "Black_rot", "rust of": "Common_rust", "cedar": "Cedar_apple_rust",
             "powdery mildew": "Powdery_mildew", "gray leaf spot": "Gray_leaf_spot", "northern": "Northern_Leaf_Blight",
             "esca": "Esca_", "isariopsis": "Isariopsis", "bacterial": "Bacterial_spot", "early blight": "Early_blight",
             "late blight": "Late_blight", "scorch of": "Leaf_scorch", "leaf mold": "Leaf_Mold", "septoria": "Septoria",
             "spider mite": "Spider_mites", "target spot": "Target_Spot", "mosaic virus": "mosaic_virus",
             "leaf curl": "Leaf_Curl", "citrus greening": "Citrus_greening"}  # fmt: skip
    for disease, part in named.items():
        mine = [name for name, own in found.items() if any(disease in t.lower() for t in own)]
        assert mine, disease
        if disease != "scab":  # also a word for a crust
            assert all(part in name for name in mine), (disease, mine)
