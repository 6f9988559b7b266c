"""Where the maps of a prediction go, whatever an image is called."""

import io
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from fusionjax import arguments, predict
from fusionjax.errors import UserError
from fusionjax.experiment import inference
from fusionjax.experiment.prediction import Prediction


class Run:
    """A run of two classes that looks at nothing."""

    exported = False

    def __init__(self, folder):
        self.folder = folder
        self.task = SimpleNamespace(
            inputs=SimpleNamespace(reads_text=False), scorer=SimpleNamespace(output_names=())
        )

    def predictions(self, images, **_):
        return [
            Prediction(
                name, np.zeros((8, 8, 3), np.uint8), ("a", "b"), np.float32([0.7, 0.3]), np.ones((2, 2)), None
            )
            for name in images
        ]


def run(monkeypatch, tmp_path, *words):
    monkeypatch.setattr(inference, "load", lambda folder: Run(tmp_path / "run"))
    monkeypatch.setattr("sys.stdout", io.StringIO())  # takes what a command prints in any locale
    return predict.COMMAND.main(arguments.parse(predict.COMMAND, [f"--workdir={tmp_path}", *words]))


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("photo.jpg", "photo"),
        ("a" * 250 + ".jpg", "a" * 80),
        ("漢" * 84 + ".jpg", "漢" * 66),
        ("caf\udce9.jpg", "caf\udce9"),
    ],
)
def test_any_name_of_an_image_has_room_for_its_map(monkeypatch, tmp_path, name, stem):
    run(monkeypatch, tmp_path, f"--out={tmp_path / 'maps'}", name)
    assert os.listdir(tmp_path / "maps") == [f"001_{stem}.png"]


@pytest.mark.parametrize("out", ["file", "file/maps", "x" * 300])
def test_a_folder_that_cannot_be_is_one_line(monkeypatch, tmp_path, out):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="--out=.* cannot be a folder: (.*file is a file|File name too long)"):
        run(monkeypatch, tmp_path, f"--out={tmp_path / out}", "photo.jpg")
    assert (tmp_path / "file").read_text() == "mine" and os.listdir(tmp_path) == ["file"]


def test_a_list_on_standard_input(monkeypatch, tmp_path):
    """One name per line, or as `find -print0` separates them; a name may hold U+2028."""
    for text in ("a.png\nb\u2028c.png\n", "a.png\r\n\r\nb\u2028c.png", "a.png\0b\u2028c.png\0"):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        run(monkeypatch, tmp_path, "-", "--csv", f"--out={tmp_path / 'maps'}")
        names = [line.split(",")[0] for line in sys.stdout.getvalue().split("\n")[1:] if line]
        assert names == ["a.png", "b\u2028c.png"]
