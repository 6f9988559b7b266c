"""Tux Paint's stamps on a small tree in their layout: what is read, what stays together, what a mistake says."""

import numpy as np
import pytest

from fusionjax import config
from fusionjax.data import datasets
from fusionjax.data.audio import waveform
from fusionjax.data.datasets import stamp_files, stamp_words
from fusionjax.data.datasets import stamps as stamps_lib
from fusionjax.data.source import Source, Subset
from fusionjax.data.text import translations
from fusionjax.data.unreadable import DecodeError
from fusionjax.data.vqa import questions
from fusionjax.errors import UserError
from tests.support import stamp_tree


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return stamp_tree.stamps(tmp_path_factory.mktemp("stamps"))


def settings(root, **fields):
    data = config.default().data
    defaults = dict(languages=("en",), audio_languages=("fr",), sound="description")
    with data.unlocked():
        data.update(dict(source="stamps", root=str(root), check_counts=False, resize=32) | defaults | fields)
    return data


def open_split(root, split="train", seed=0, **fields):
    return datasets.create(settings(root, **fields), split, seed=seed)


def everything(root, **fields):
    return open_split(root, fractions=(1.0, 0.0, 0.0), **fields)


def test_splits_are_whole_and_stratified(tree):
    parts = {s: open_split(tree, s) for s in ("train", "val", "test")}
    names = [n for p in parts.values() for n in p.names]
    assert len(names) == len(set(names)) == 20
    assert [len(p) for p in parts.values()] == [14, 3, 3]
    assert all(set(np.bincount(p.labels)) <= {1, 2, 6, 7, 8} for p in parts.values())
    for part in parts.values():
        assert isinstance(part, Source) and part.class_names == ("animals", "vehicles")
        assert part.labels.dtype == np.int32 and len(part) == len(part.names) == len(part.captions)
        assert [n.split("/")[0] for n in part.names] == [part.class_names[k] for k in part.labels]
    assert parts["test"].names == open_split(tree, "test").names != open_split(tree, "test", seed=1).names


def test_captions_and_folders(tree):
    every = everything(tree, languages=("en", "de", "zh_CN"))
    i = every.names.index("animals/mammals/dogs/cthing")
    assert every.captions[i] == every.columns["caption"][i] == "A dog, kind 02."
    assert translations(every)[i] == ("A dog, kind 02.", "Ein Ding 2.", "东西 2")
    assert (every.columns["folder"][i], every.columns["subfolder"][i]) == ("mammals/dogs", "mammals")
    car = every.names.index("vehicles/athing")
    assert every.columns["folder"][car] == every.columns["subfolder"][car] == ""
    assert [every.columns[k][i] for k in ("category", "kind")] == ["an animal", "dog"]
    assert [every.columns[k][car] for k in ("category", "kind")] == ["a vehicle", ""]
    german = everything(tree, languages=("de", "en"))
    assert german.captions[i] == "Ein Ding 2." and translations(german)[i][1] == "A dog, kind 02."
    assert translations(everything(tree))[i] == ("A dog, kind 02.",)
    part = Subset(every, [i])
    assert translations(part) == [translations(every)[i]]


def test_the_picture_is_on_a_white_square(tree):
    every = everything(tree)
    i = every.names.index("animals/mammals/dogs/jthing")
    image = every.load(i)
    assert image.shape == (32, 32, 3) and image.dtype == np.uint8
    assert image[16, 16].tolist() == [255, 0, 0]
    assert (image[:, [0, 1, 2, -3, -2, -1]] == 255).all() and (image[[0, -1]] == 255).all()
    np.testing.assert_array_equal(every.load(i), image)  # the second time from memory


def test_an_svg_is_drawn_whole_and_a_png_comes_before_it(tmp_path):
    stamp_tree.stamp(tmp_path, "town/house", 1, "A house.", spoken=False)
    (tmp_path / "town" / "house.svg").write_text(stamp_tree.SVG)
    (tmp_path / "town" / "flag.svg").write_text(stamp_tree.SVG)
    (tmp_path / "town" / "bad.svg").write_text("<svg")
    every = everything(tmp_path)
    assert every.names == ["town/bad", "town/flag", "town/house"] and every.captions == ["", "", "A house."]
    flag = every.load(1)
    assert flag.shape == (32, 32, 3) and (flag[9:23] == [0, 0, 255]).all() and (flag[:8] == 255).all()
    assert every.load(2)[16, 16].tolist() == [255, 0, 0]
    with pytest.raises(DecodeError):
        every.load(0)


def test_questions_about_stamps_never_seen(tree):
    parts = {s: open_split(tree, s) for s in ("train", "test")}
    asked = {
        s: questions.generate(p.columns["category"], p.columns["kind"], p.captions, seed=0)
        for s, p in parts.items()
    }
    words = questions.vocabulary(asked["train"])
    assert {"animal", "vehicle", "dog", "car", "yes", "no"} == set(words)
    share = questions.answerable(asked["test"], words)
    assert share[""][1] == 1 and share["is_it"][0] == 2 * min(np.bincount(parts["test"].labels)) * 2
    source = questions.QuestionSource(parts["test"], asked["test"], words)
    assert "group" in source.columns and "kind" not in source.columns and source.load(0).shape == (32, 32, 3)


def test_words_for_folders():
    assert stamp_words.kind(("animals", "mammals", "dogs")) == "dog"
    assert stamp_words.kind(("animals", "mammals", "bears", "toys")) == "bear"
    assert stamp_words.kind(("symbols", "alphabets", "german", "filled", "lowercase")) == "letter"
    assert (
        stamp_words.kind(("animals",)) == stamp_words.kind(("town", "cartoon")) == stamp_words.kind(()) == ""
    )
    assert all(key.split("/")[0] in stamp_words.NOUNS for key in stamp_words.KINDS)


def heard(source, i):
    return source.columns["audio"][i].split("|")


def test_sounds_by_language_and_kind(tree):
    i, odd = 2, 3  # the third has a sound and English speech, the fourth French speech only
    french = everything(tree)
    assert heard(french, i) == ["animals/mammals/dogs/cthing_desc_fr.ogg"]
    assert french.audio(i) == french.root / "animals/mammals/dogs/cthing_desc_fr.ogg"
    assert len(waveform.read(french.audio(i))) == 3_200
    both = everything(tree, audio_languages=("fr", "en"))
    assert heard(both, i) == [
        "animals/mammals/dogs/cthing_desc_fr.ogg",
        "animals/mammals/dogs/cthing_desc.ogg",
    ]
    assert heard(both, odd) == ["animals/mammals/dogs/dthing_desc_fr.ogg"]
    effect = everything(tree, sound="effect")
    assert heard(effect, i) == ["animals/mammals/dogs/cthing.ogg"] and effect.audio(odd) is None
    mixed = everything(tree, sound="any", audio_languages=("fr", "en"))
    assert heard(mixed, i) == ["animals/mammals/dogs/cthing.ogg"] and heard(mixed, odd) == heard(both, odd)


def test_the_language_of_a_test_is_fixed(tree):
    for part in (open_split(tree, s, audio_languages=("en", "fr")) for s in ("val", "test")):
        for i in range(len(part)):
            assert heard(part, i) in ([""], [f"{part.names[i]}_desc.ogg"])
            assert part.audio(i) is None or part.audio(i).name.endswith("_desc.ogg")
    train = open_split(tree, audio_languages=("en", "fr"))
    assert {len(heard(train, i)) for i in range(len(train))} == {1, 2}


def test_sounds_of_a_language_or_a_country(tmp_path):
    stamp_tree.stamp(tmp_path, "symbols/seven", 1, "The number 7.", spoken=False)
    stamp_tree.stamp(tmp_path, "symbols/eight", 3, "The number 8.", spoken=False)
    for name in ("seven", "seven_de", "seven_en_GB", "seven_zh_tw", "eight_desc_pt_BR"):
        stamp_tree.sound(tmp_path / "symbols" / f"{name}.{'wav' if 'BR' in name else 'ogg'}", 300 + len(name))

    def file_of(tag):
        return heard(everything(tmp_path, sound="effect", audio_languages=(tag,)), 1)[0].removeprefix(
            "symbols/"
        )

    assert [file_of(tag) for tag in ("de", "en", "zh", "pt_BR")] == [
        "seven_de.ogg", "seven_en_GB.ogg", "seven_zh_tw.ogg", "seven.ogg"]  # fmt: skip
    assert heard(everything(tmp_path, audio_languages=("pt_BR",)), 0) == ["symbols/eight_desc_pt_BR.wav"]
    table = stamp_files.counts(stamp_files.stamps(tmp_path))
    assert (
        table["pt_BR"] == (0, 1, 0) and table["zh_TW"] == table[""] == (0, 0, 1) and table["en"] == (2, 0, 0)
    )


def test_look_alikes_are_one_group(tmp_path):
    made = {
        "animals/horse": "A horse.", "animals/horse_mirror": None, "animals/cow": "A cow.", "animals/cow-2": "Another one.",
        "animals/cowboy": "A boy.", "town/mare": "a  HORSE", "town/echo": "A loud thing.", "town/house": "A house.",
        "town/copy": "The same picture.", "numbers/001": "One.", "numbers/002": "Two.",
    }  # fmt: skip
    for seed, (name, caption) in enumerate(made.items()):
        stamp_tree.stamp(tmp_path, name, 2 * seed + 1, caption or "", spoken=False)
    (tmp_path / "animals/horse_mirror.txt").unlink()
    (tmp_path / "town/copy.png").write_bytes((tmp_path / "town/house.png").read_bytes())
    stamp_tree.sound(tmp_path / "town/echo_desc_ro.ogg", 440)
    (tmp_path / "numbers/002.ogg").write_bytes((tmp_path / "town/echo_desc_ro.ogg").read_bytes())
    found = stamp_files.stamps(tmp_path)
    group = {s.name: s.group for s in found}
    assert set(made) - set(group) == {"animals/horse_mirror"}, "what a mirrored stamp looks like is no stamp"
    alike = [{"animals/horse", "town/mare"}, {"animals/cow", "animals/cow-2"}, {"town/echo", "numbers/002"},
             {"town/house", "town/copy"}, {"animals/cowboy"}, {"numbers/001"}]  # fmt: skip
    for names in alike:
        assert {name for name in group if group[name] == group[min(names)]} == names
    for seed in range(5):
        parts = [
            open_split(tmp_path, s, seed, audio_languages=("ro",), fractions=(0.4, 0.3, 0.3))
            for s in ("train", "val", "test")
        ]
        groups = [set(p.columns["group"].tolist()) for p in parts]
        assert sum(map(len, groups)) == len(set.union(*groups)) == 6


def test_the_same_words_in_a_spoken_language_are_one_group(tmp_path):
    for name, french, german in (
        ("crow", "Un oiseau.", "Rabe."),
        ("hen", "un oiseau", "Huhn."),
        ("owl", "Un hibou.", "Huhn."),
    ):
        stamp_tree.stamp(tmp_path, f"animals/{name}", len(name) + ord(name[0]), f"A {name}.", spoken=False)
        (tmp_path / f"animals/{name}.txt").write_text(f"A {name}.\nfr.utf8={french}\nde.utf8={german}\n")
    crow, hen, owl = stamp_files.stamps(tmp_path)
    assert crow.group == hen.group != owl.group, "nobody speaks German here"


def fails(match, root, split="train", **fields):
    with pytest.raises(UserError, match=match) as e:
        open_split(root, split, **fields)
    assert "\n" not in str(e.value)


def test_mistakes(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(stamps_lib, "ROOT", str(tmp_path / "none"))
    fails(
        "the stamps are not at .*none: apt-get install tuxpaint-stamps-default, or set config.data.root", ""
    )
    fails("does not exist: it must be the folder of the Tux Paint stamps .apt-get install", tmp_path / "none")
    fails(r"has no stamps \(images in class folders\): apt-get install", tmp_path)
    fails("has 20 of 956 stamps: apt-get install", tree, check_counts=True)
    fails("no split 'dev'", tree, "dev")
    fails(r"data\.languages: no stamp has 'xx'; there are de, en, fr, zh_CN", tree, languages=("en", "xx"))
    fails(r"data\.languages is empty", tree, languages=())
    fails(r"data\.audio_languages: no stamp has 'de'; there are en, fr", tree, audio_languages=("de",))
    fails(r"data\.sound='music' is not possible: allowed are description, effect, any", tree, sound="music")
    stamp_tree.stamp(tmp_path, "town/house", 1, "A house.")
    (tmp_path / "town/house.txt").write_bytes(b"\xff\xfe\n")
    fails(r"the caption file .*house\.txt cannot be read", tmp_path)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    (tmp_path / "town").mkdir()
    (tmp_path / "town" / "flag.svg").write_text(stamp_tree.SVG)
    stamps_lib._resvg.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "resvg_py", None)
    fails("needs the package resvg_py for SVG: pip install resvg-py", tmp_path)


def test_a_caption_with_a_byte_order_mark(tmp_path):
    (tmp_path / "crow.txt").write_bytes(b"\xef\xbb\xbfA crow.\nde.utf8=Eine Kr\xc3\xa4he.\n")
    assert stamp_files._captions(tmp_path / "crow.txt") == {"en": "A crow.", "de": "Eine Krähe."}
