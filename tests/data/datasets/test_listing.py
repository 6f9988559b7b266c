"""What is listed of a folder, and what cannot be."""

import os

import pytest

from fusionjax.data.datasets import listing
from fusionjax.errors import UserError


def test_visible_files_below_a_folder(tmp_path):
    for name in (
        "a/1.jpg",
        "a/b/2.JPG",
        "a/.hidden/3.jpg",
        "a/__MACOSX/4.jpg",
        "a/.5.jpg",
        "a/6.txt",
        "7.jpg",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "a" / "c.jpg").mkdir()  # a folder whatever its name
    assert listing.files_below(tmp_path, "a", (".jpg",)) == ["a/1.jpg", "a/b/2.JPG"]
    assert listing.all_below(tmp_path) == ["7.jpg", "a/1.jpg", "a/6.txt", "a/b/2.JPG"]
    assert listing.files(tmp_path / "a", (".jpg",)) == ["1.jpg"]
    assert [f.name for f in listing.folders(tmp_path / "a")] == ["b", "c.jpg"]


def test_a_name_that_is_not_utf8(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / os.fsdecode(b"\xff.jpg")).write_bytes(b"x")
    assert listing.files_below(tmp_path, "a", (".jpg",)) == ["a/\udcff.jpg"]


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    def denied(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(UserError, match=f"the folder {tmp_path} cannot be listed: Permission denied"):
        listing.folders(tmp_path)
