"""MP3 files are read to their end, whether or not a header states their length."""

import io

import numpy as np
import pytest
import soundfile

from fusionjax.data.audio import mp3, waveform
from fusionjax.data.unreadable import DecodeError

RATE = 16_000


def encoded(samples: np.ndarray, mode: str = "VARIABLE") -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, RATE, format="MP3", bitrate_mode=mode, compression_level=0.2)
    return out.getvalue()


def without_header(data: bytes) -> bytes:
    frame = mp3._frame(data, 0)
    assert frame and data[frame.xing : frame.xing + 4] in (b"Xing", b"Info")
    return data[frame.size :]


@pytest.fixture(scope="module")
def sounds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.25, 3 * RATE).clip(-1, 1).astype(np.float32)
    half = noise[: len(noise) // 2]
    tone = (0.3 * np.sin(2 * np.pi * 300 * np.arange(3 * RATE) / RATE)).astype(np.float32)
    return {"noise": noise, "noise, then silence": np.concatenate([half, 0 * half]),
            "silence, then noise": np.concatenate([0 * half, half]), "tone": tone}  # fmt: skip


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
@pytest.mark.parametrize("name", ["noise", "noise, then silence", "silence, then noise", "tone"])
def test_without_a_header_the_end_is_the_end(sounds, tmp_path, name, mode):
    data = without_header(encoded(sounds[name], mode))
    expected = waveform.read(encoded(sounds[name], mode))
    (tmp_path / "a.mp3").write_bytes(data)
    (tmp_path / "a").write_bytes(data)
    for source in (data, tmp_path / "a.mp3", tmp_path / "a"):
        found = waveform.read(source)
        assert abs(len(found) - 3 * RATE) < 0.1 * RATE and waveform.header(source).samples == len(found)
        # Without the delay that the header states, the sound begins a little later.
        shift = (
            max(range(1200), key=lambda k: float(found[k : k + 20_000] @ expected[:20_000]))
            if name == "noise"
            else 0
        )
        assert shift < 1200 and np.isclose(np.std(found), np.std(expected), rtol=0.05)
    assert len(waveform.read(data, longest=RATE)) == RATE


def test_a_stated_length_needs_no_help(sounds):
    data = encoded(sounds["tone"])
    assert mp3.completed(io.BytesIO(data), len(data), named=True) is None
    wav = io.BytesIO()
    soundfile.write(wav, sounds["tone"], RATE, format="WAV")
    assert mp3.completed(wav, len(wav.getvalue()), named=False) is None


def test_tags_and_gaps_are_no_frames(sounds):
    data = without_header(encoded(sounds["noise"]))
    frame = mp3._frame(data, 0)
    count = waveform.header(data).samples
    tag = b"ID3\x04\0\0\0\0\x01\x00" + b"\xff\xfb" * 64
    assert waveform.header(tag + data).samples == count
    assert waveform.header(data + b"TAG" + bytes(125)).samples == count
    second = frame.size + mp3._frame(data, frame.size).size
    gap = data[:second] + b"\0\xff\xfb gap" + data[second:]
    assert waveform.header(gap).samples == count


def test_files_that_were_appended_to_each_other_are_read_to_the_end(sounds):
    data = encoded(sounds["noise"])
    found = waveform.read(data + data)
    assert abs(len(found) - 6 * RATE) < 0.3 * RATE


def test_a_file_that_is_shorter_than_its_header_says_is_still_named(sounds):
    data = encoded(sounds["noise"])
    with pytest.raises(DecodeError, match="the file is truncated"):
        waveform.read(data[: len(data) // 2])


def test_damage_is_one_line(sounds):
    data, rng = without_header(encoded(sounds["noise"][:4000])), np.random.default_rng(0)
    for _ in range(60):
        changed = bytearray(data)
        for _ in range(rng.integers(1, 20)):
            changed[rng.integers(len(changed))] = rng.integers(256)
        try:
            assert np.isfinite(waveform.read(bytes(changed))).all()
        except DecodeError as e:
            assert str(e) and "\n" not in str(e)
