"""Files are replaced whole, whatever happens in between."""

import csv
import hashlib
import io
import os
from pathlib import Path

import pytest

from fusionjax import files


@pytest.mark.parametrize("durable", [False, True])
def test_replacing_shows_the_old_file_until_the_new_one_is_whole(tmp_path, durable):
    path = tmp_path / "new" / "a.npy"
    for old, new in ((None, b"one"), (b"one", b"two")):
        with files.replacing(path, durable=durable) as part:
            part.write_bytes(new)
            assert part.parent == path.parent and part.name.startswith(".a.npy.") and part.suffix == ".part"
            assert (path.read_bytes() if path.exists() else None) == old
        assert path.read_bytes() == new
    assert os.listdir(path.parent) == ["a.npy"]


def test_replacing_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), files.replacing(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_writers_of_one_path_do_not_share_a_temporary_file(tmp_path):
    path = tmp_path / "a.txt"
    with files.replacing(path) as first:
        with files.replacing(path) as second:
            first.write_text("first")
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first" and os.listdir(tmp_path) == ["a.txt"]


def test_new_files_have_the_permissions_of_any_other(tmp_path):
    (tmp_path / "plain").write_text("")
    files.write_text(tmp_path / "replaced", "")
    assert (tmp_path / "replaced").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_durable_files_are_flushed_before_they_get_their_name(tmp_path, monkeypatch):
    path, flushed = tmp_path / "a", []
    monkeypatch.setattr(files, "sync", lambda p: flushed.append((p, path.exists())))
    files.write_text(path, "x", durable=True)
    (part, before), (folder, after) = flushed
    assert part.suffix == ".part" and not before and folder == tmp_path and after


def test_write_text_encodes_as_asked(tmp_path):
    path = tmp_path / "a"
    files.write_text(path, "é\udce9", errors="replace")
    assert path.read_text(encoding="utf-8") == "é?"
    with pytest.raises(UnicodeEncodeError):
        files.write_text(path, "é", encoding="ascii")
    assert os.listdir(tmp_path) == ["a"]


def test_only_regular_files_below_a_limit_are_read(tmp_path):
    """A named pipe would block for ever, and a link to /dev/zero fill the memory."""
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "whole.jpg").write_bytes(b"12345")
    (tmp_path / "link.jpg").symlink_to("whole.jpg")
    for name, why in (("pipe.jpg", "a named pipe"), ("zero.jpg", "a device"), (".", "a folder")):
        with pytest.raises(OSError, match=f"it is {why}, not a regular file"):
            files.read_bytes(tmp_path / name)
    for name in ("whole.jpg", "link.jpg"):
        assert files.read_bytes(tmp_path / name) == files.read_bytes(str(tmp_path / name), 5) == b"12345"
        with pytest.raises(OSError, match="its 5 bytes are more than the 4 that are read"):
            files.read_bytes(tmp_path / name, 4)
    with pytest.raises(FileNotFoundError):
        files.read_bytes(tmp_path / "none.jpg")


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_user_cache_honours_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files.user_cache("xla") == tmp_path / "fusionjax" / "xla"
    for unset in ("", None):
        monkeypatch.setenv("XDG_CACHE_HOME", "") if unset == "" else monkeypatch.delenv("XDG_CACHE_HOME")
        assert files.user_cache("xla") == Path.home() / ".cache" / "fusionjax" / "xla"


def test_csv_holds_no_formulas():
    rows = [
        ["=1+1", "+a", "-a", "@a", "\ta", "a\rb", "a=1", ""],
        ["-1.5", "+2", -1.5, None, True, "1e-3", "-inf", "'"],
    ]
    found = list(csv.reader(io.StringIO(files.csv_text(rows), newline="")))
    assert found == [
        ["'=1+1", "'+a", "'-a", "'@a", "'\ta", "a b", "a=1", ""],
        ["-1.5", "+2", "-1.5", "", "True", "1e-3", "-inf", "'"],
    ]


def test_json_that_cannot_be_read_is_a_value_error(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(FileNotFoundError):
        files.read_json(path)
    for content in (b"", b"{", b"\xff", b"[" * 200_000):
        path.write_bytes(content)
        with pytest.raises(ValueError) as e:
            files.read_json(path)
        assert "\n" not in str(e.value)
    path.write_text('{"a": [1]}')
    assert files.read_json(path) == {"a": [1]}
    with pytest.raises(ValueError, match="it is a folder"):
        files.read_json(tmp_path)
