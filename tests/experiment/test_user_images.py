"""What a user may name as an image, and how predictions are written."""

import csv
import io
import json
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from fusionjax.data.image.decode import decode
from fusionjax.errors import UserError
from fusionjax.experiment import answers
from fusionjax.experiment.prediction import Prediction
from fusionjax.experiment.user_images import named

PIXELS = np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.PNG", "deep/c.png", "notes.txt", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        with (tmp_path / name).open("wb") as f:
            Image.fromarray(PIXELS).save(f, format="png")
    return tmp_path


def test_one_or_many(folder):
    path = folder / "b.png"
    for images in (str(path), path, path.read_bytes(), PIXELS, Image.fromarray(PIXELS), [path], (str(path),)):
        (image,) = named(images)
        np.testing.assert_array_equal(image.read(10**6, ())[0], PIXELS)
    assert [i.name for i in named([PIXELS, path, PIXELS])] == ["image 1", str(path), "image 3"]
    assert len(named(np.stack([PIXELS] * 3))) == 3 and named([]) == []


def test_folders_and_patterns(folder):
    inside = [str(folder / name) for name in ("a.PNG", "b.png", "deep/c.png")]
    assert [i.name for i in named(folder)] == inside == [i.name for i in named([str(folder)])]
    assert [i.name for i in named(f"{folder}/*.png")] == [str(folder / "b.png")]
    assert [i.name for i in named(f"{folder}/**/*.png")] == inside[1:]
    (folder / "[1].png").write_bytes((folder / "b.png").read_bytes())
    assert [i.name for i in named(str(folder / "[1].png"))] == [str(folder / "[1].png")], (
        "a file of that name"
    )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_a_pil_picture_is_read_as_its_file(tmp_path, mode):
    if mode == "I;16":
        picture = Image.fromarray((PIXELS[..., 0].astype(np.uint16)) << 8)
    else:
        picture = Image.fromarray(PIXELS).convert(mode)
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    picture.save(path)
    np.testing.assert_array_equal(named(picture)[0].read(10**6, ())[0], decode(path, 10**6))


@pytest.mark.parametrize(
    ("images", "message"),
    [("no*.png", "no file matches"), ([3], "image 1 is int"), (3, "int is no image"), ([None], "NoneType")],
)
def test_what_is_no_image(images, message):
    with pytest.raises(UserError, match=message):
        named(images)


def test_an_empty_folder_and_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="has no images"):
        named(tmp_path)
    (image,) = named(str(tmp_path / "nothing.png"))
    assert image.read(10**6, ()) == (None, "there is no such file")
    for name in ("x" * 300 + ".png", "a\0b.png"):
        (image,) = named(name)
        assert image.read(10**6, ())[0] is None and image.read(10**6, ())[1]


FOUND = [
    Prediction("=1+1.png", None, ("a", "b"), np.asarray([0.75, 0.25], np.float32), None, None),
    Prediction("bad.png", None, (), np.zeros(0, np.float32), None, None, "it is not an image"),
]


def test_answers_as_csv(capsys):
    assert answers.write(FOUND, "csv", top=2, maps=None) == 1
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert rows[0] == {
        "image": "'=1+1.png", "error": "",
        "class_1": "a", "probability_1": "0.750000", "class_2": "b", "probability_2": "0.250000",
    }  # fmt: skip
    assert rows[1]["error"] == "it is not an image" and not rows[1]["class_1"]


def test_answers_as_json_and_text(capsys):
    answers.write(FOUND, "json", top=2, maps=None)
    assert json.loads(capsys.readouterr().out) == [f.to_dict() for f in FOUND]
    answers.write(FOUND, "text", top=2, maps=Path("unused"))
    assert (
        "   75.0 %  a" in (said := capsys.readouterr().out) and "cannot be read: it is not an image" in said
    )


def test_files_that_cannot_be_read_say_why(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "text.jpg").write_text("no image")
    for name, why in (
        ("none.jpg", "there is no such file"),
        ("pipe.jpg", "it is a named pipe, not a regular file"),
        ("text.jpg", "it is not an image of a known format"),
    ):
        (image,) = named(tmp_path / name)
        assert image.read(10**6, ()) == (None, why)


def test_floating_point_has_the_range_of_the_run(tmp_path):
    grey = Image.fromarray(np.full((4, 4), 51, np.float32))
    grey.save(tmp_path / "caf\udce9.tif")
    (image,) = named(tmp_path / "caf\udce9.tif")
    assert set(np.unique(image.read(10**6, (0, 255))[0])) == {51}
    (image,) = named(Image.fromarray(np.full((4, 4), 0.2, np.float32)))
    assert set(np.unique(image.read(10**6, ())[0])) == {51}
    with pytest.raises(UserError, match="image 1 cannot be read: its grey values are 51 to 51, not 0 to 1"):
        named(grey)


class Column(list):
    """As a column of names of pandas, which also converts to an array."""

    def __array__(self, dtype=None, copy=None):
        return np.asarray(list(self), dtype or object)


def test_images_as_other_libraries_hold_them(folder):
    """Open files, as of a web form; arrays of JAX; arrays and columns of names."""
    encoded, path = (folder / "b.png").read_bytes(), str(folder / "b.png")
    opened = (io.BytesIO(encoded), [io.BytesIO(encoded)], memoryview(encoded))
    for images in (*opened, jnp.asarray(PIXELS), [jnp.asarray(PIXELS)]):
        (image,) = named(images)
        np.testing.assert_array_equal(image.read(10**6, ())[0], PIXELS)
    assert len(named(jnp.stack([PIXELS] * 3))) == 3
    for names in (np.asarray([path, path]), Column([path, path])):
        assert [i.name for i in named(names)] == [path, path]


def test_a_closed_picture_is_one_line(folder):
    picture = Image.open(folder / "b.png")
    picture.close()
    with pytest.raises(UserError, match="image 1 cannot be read: "):
        named(picture)


def test_a_home_folder_is_found(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert [i.name for i in named("~/b.png")] == [str(folder / "b.png")]
