"""metrics.jsonl: a damaged line stops neither a resume nor a report."""

import json

import pytest

from fusionjax.errors import UserError
from fusionjax.train import metrics

WHOLE = [{"step": s, "train/loss": 1.0 / s} for s in (1, 2, 3)]


@pytest.mark.parametrize(
    "line",
    [b"\xff\xfe", b'{"train/loss": 1}', b'{"step": "2"}', b'{"step": true}', b"[2]", b"{", b"[" * 200_000],
)
def test_a_damaged_line_is_named_and_left_out(tmp_path, line, caplog):
    lines = [json.dumps(r).encode() for r in WHOLE]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([lines[0], line, *lines[1:], b""]))
    assert metrics.read(tmp_path) == WHOLE
    assert "metrics.jsonl: damaged lines are left out: 2" in caplog.text
    writer = metrics.Writer(tmp_path, start=2)  # a resume
    writer.write(3, {"train/loss": 5.0})
    writer.close()
    assert metrics.read(tmp_path) == [*WHOLE[:2], {"step": 3, "train/loss": 5.0}]


def test_half_a_line_at_the_end_is_no_damage(tmp_path, caplog):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in WHOLE) + '{"step": 4, "tr')
    assert metrics.read(tmp_path) == WHOLE and not caplog.messages
    assert metrics.read(tmp_path / "none") == []


def test_a_folder_in_its_place_is_one_line(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match="metrics.jsonl cannot be read: it is a folder"):
        metrics.Writer(tmp_path)
