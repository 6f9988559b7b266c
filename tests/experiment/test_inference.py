"""What a user's images say when they cannot be read."""

import os

import numpy as np
import pytest
from PIL import Image

from fusionjax import config
from fusionjax.errors import UserError
from fusionjax.experiment import inference

DATA = config.default().data


def test_what_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "text.jpg").write_text("no image")
    for name, why in (
        ("none.jpg", "there is no such file"),
        ("pipe.jpg", "it is a named pipe, not a regular file"),
        (".", "it is a folder, not a regular file"),
        ("text.jpg", "it is not an image of a known format"),
    ):
        with pytest.raises(UserError, match=f"^{name} cannot be read: {why}$"):
            inference._read(tmp_path / name, name, DATA)

    def full(*_):
        raise MemoryError

    monkeypatch.setattr(inference, "decode", full)
    with pytest.raises(UserError, match="^there is not enough memory to read a.jpg"):
        inference._read(tmp_path / "a.jpg", "a.jpg", DATA)


def test_the_range_of_the_run_is_that_of_its_images(tmp_path):
    data = config.default().data
    data.value_range = (0, 255)
    Image.fromarray(np.full((4, 4), 51, np.float32)).save(tmp_path / "caf\udce9.tif")
    assert set(np.unique(inference._read(tmp_path / "caf\udce9.tif", "a", data))) == {51}
