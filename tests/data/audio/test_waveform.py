"""Reading sound: formats, rates, channels; and that whatever is wrong with a file is named."""

import io
import os
import struct
import tracemalloc

import numpy as np
import pytest
from transformers import Wav2Vec2FeatureExtractor

from fusionjax.data.audio import integrity, waveform
from fusionjax.data.unreadable import DecodeError
from fusionjax.errors import UserError
from fusionjax.types import SAMPLE_RATE
from tests.support.sounds import encoded, sine


def loudest(samples: np.ndarray, rate: int = SAMPLE_RATE) -> float:
    """The frequency of most power, Hz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * rate / len(samples))


def fails(match: str, source, **settings) -> None:
    with pytest.raises(DecodeError, match=match) as e:
        waveform.read(source, **settings)
    assert "\n" not in str(e.value)


FORMATS = (("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("AIFF", "PCM_24"),
           ("MP3", "MPEG_LAYER_III"))  # fmt: skip


@pytest.mark.parametrize(("format", "subtype"), FORMATS)
def test_every_format_is_read_from_bytes_and_from_a_path(tmp_path, format, subtype):
    data = encoded(sine(440), format=format, subtype=subtype)
    (tmp_path / "a").write_bytes(data)
    samples = waveform.read(data)
    assert samples.dtype == np.float32 and samples.shape == (16_000,)
    assert abs(loudest(samples) - 440) < 1.5 and abs(np.abs(samples).max() - 0.5) < 0.05
    np.testing.assert_array_equal(waveform.read(tmp_path / "a"), samples)
    assert waveform.header(data) == waveform.header(str(tmp_path / "a")) == (16_000, 16_000, 1)
    assert waveform.header(data).seconds == 1


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_a_sine_stays_a_sine_of_the_same_frequency(rate):
    samples = waveform.read(encoded(sine(1_000, 1.0, rate), rate))
    assert len(samples) == 16_000
    middle, ideal = samples[2_000:-2_000], sine(1_000)[2_000:-2_000]
    assert loudest(samples) == 1_000
    # In phase and as high: soxr's delay is taken off, and its pass band is flat.
    np.testing.assert_allclose(middle, ideal, atol=2e-3)


def test_what_the_new_rate_cannot_hold_is_filtered_out():
    above = waveform.read(encoded(sine(11_000, 1.0, 44_100) + sine(500, 1.0, 44_100, 0.2), 44_100))
    assert loudest(above) == 500  # 11 kHz would come back as 5 kHz
    assert np.abs(above[2_000:-2_000] - sine(500, 1.0, 16_000, 0.2)[2_000:-2_000]).max() < 2e-3


def test_stereo_is_the_mean_of_its_channels():
    left, right = sine(300, height=0.6), sine(700, height=0.2)
    data = encoded(np.stack([left, right], 1), subtype="FLOAT")
    np.testing.assert_allclose(waveform.read(data), (left + right) / 2, atol=1e-6)
    assert waveform.header(data).channels == 2


def test_a_window_of_a_long_clip(rng):
    ramp = np.linspace(-0.9, 0.9, 40_000, dtype=np.float32)
    data = encoded(ramp, subtype="FLOAT")
    np.testing.assert_array_equal(waveform.read(data, longest=10_000), ramp[15_000:25_000])
    starts = set()
    for _ in range(5):
        window = waveform.read(data, longest=10_000, rng=rng)
        start = int(np.searchsorted(ramp, window[0]))
        np.testing.assert_array_equal(window, ramp[start : start + 10_000])
        starts.add(start)
    assert len(starts) > 3
    np.testing.assert_array_equal(waveform.read(data, longest=50_000, rng=rng), ramp)
    for rate in (8_000, 44_100):
        assert len(waveform.read(encoded(sine(100, 3.0, rate), rate), longest=10_001)) == 10_001


def test_what_is_wrong_is_named(tmp_path):
    fails("the file is empty", b"")
    (tmp_path / "empty.ogg").write_bytes(b"")
    for name in ("empty.ogg", "none.ogg"):
        with pytest.raises(DecodeError, match="the file is empty|there is no such file"):
            waveform.header(tmp_path / name)
    fails("there is no such file", tmp_path / "none.ogg")
    fails("(?i)format", b"\x89PNG" + bytes(500))
    fails("it holds no samples", encoded(np.zeros(0, np.float32)))
    fails(r"1 s of audio are more than max_seconds=0\.5", encoded(sine(440)), max_seconds=0.5)
    assert len(waveform.read(encoded(sine(440)), longest=800, max_seconds=0.5)) == 800
    broken = sine(440)
    broken[4_000] = np.nan
    fails(r"sample 4000 \(0.250 s\) is not a finite number", encoded(broken, subtype="FLOAT"))
    broken[4_000] = -np.inf
    fails("not a finite number", encoded(broken, subtype="FLOAT"))
    fails("its rate of 500 Hz is not within", encoded(sine(50, 1, 500), 500))
    fails("shorter than one sample at 16000 Hz", encoded(np.float32([0.5, -0.5]), 192_000))


@pytest.mark.parametrize("make", [
    lambda: np.zeros(8_000, np.float32), lambda: np.full(8_000, 0.25, np.float32),
    lambda: np.stack([sine(440), -sine(440)], 1),
], ids=["zeros", "constant", "opposite channels"])  # fmt: skip
def test_silence_is_named_and_told_from_damage(make):
    with pytest.raises(waveform.SilentError, match="it is silent: .* s without a sound"):
        waveform.read(encoded(make(), subtype="FLOAT"))
    quiet = sine(440, height=2.0**-13)
    assert len(waveform.read(encoded(quiet, subtype="FLOAT"))) == 16_000


@pytest.mark.parametrize(
    ("format", "subtype"), (*FORMATS, ("RF64", "PCM_16"), ("W64", "PCM_16"), ("AU", "PCM_16"))
)
@pytest.mark.parametrize("share", [0.95, 0.5, 0.02])
def test_a_cut_off_file_is_named(rng, format, subtype, share):
    sound = (sine(440, 4) + 0.1 * rng.standard_normal(64_000)).astype(np.float32)
    data = encoded(sound, format=format, subtype=subtype)
    assert len(waveform.read(data)) == 64_000
    with pytest.raises(DecodeError):
        waveform.read(data[: int(len(data) * share)])


def test_a_damaged_page_of_an_ogg_file_is_named(rng):
    data = bytearray(encoded(0.1 * rng.standard_normal(200_000).astype(np.float32), format="OGG"))
    assert not integrity.damage(io.BytesIO(data), len(data)) and data.count(b"OggS") > 4
    data[len(data) // 2] ^= 0x10
    fails("page . of the Ogg stream is damaged: its checksum is wrong", bytes(data))
    second = data.find(b"OggS", 4)
    fails(
        "page 2 of the Ogg stream is damaged: it does not begin", bytes(data[:second] + b"??" + data[second:])
    )
    flac = bytearray(encoded(sine(440, 4), format="FLAC"))
    flac[len(flac) // 2] ^= 0x10
    with pytest.raises(DecodeError, match="flac"):
        waveform.read(bytes(flac))


def test_whatever_the_damage_it_is_one_line(rng, capfd):
    """Random bytes, most of them in the header: an error of one line or samples that are numbers, and nothing on stderr."""
    kinds = (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("AIFF", "PCM_24"), ("CAF", "PCM_16"))
    whole = [encoded(sine(440, 0.2), format=f, subtype=s) for f, s in kinds]
    refused = 0
    for k in range(200):
        data = bytearray(whole[k % len(whole)])
        for _ in range(rng.integers(1, 6)):
            data[rng.integers(80 if rng.random() < 0.5 else len(data))] = rng.integers(256)
        try:
            assert np.isfinite(waveform.read(bytes(data))).all()
        except DecodeError as e:
            refused += 1
            assert str(e) and "\n" not in str(e)
    assert refused > 50 and capfd.readouterr().err == ""


def test_of_a_long_file_only_the_window_is_read(tmp_path):
    """256 MB, nearly all of them a hole of the file system."""
    path, samples = tmp_path / "long.wav", 2**27
    data = bytearray(encoded(sine(440, 4)))
    place = data.find(b"data") + 4
    data[4:8], data[place : place + 4] = (
        struct.pack("<I", n) for n in (place + 2 * samples - 4, 2 * samples)
    )
    path.write_bytes(data)
    with open(path, "r+b") as file:
        file.truncate(place + 4 + 2 * samples)
        file.seek(place + 4 + samples)
        file.write(data[place + 4 :])
    assert waveform.header(path).samples == samples
    tracemalloc.start()
    try:
        found = waveform.read(path, longest=32_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert abs(loudest(found) - 440) < 1.5 and peak < 2**20


@pytest.mark.parametrize(("format", "subtype"), [("WAV", "GSM610"), ("AIFF", "DWVW_16"), ("AU", "G721_32")])
def test_a_format_that_cannot_seek_is_decoded_from_its_beginning(rng, format, subtype):
    data = encoded(sine(440, 20.0, 8_000), 8_000, format=format, subtype=subtype)
    whole = waveform.read(data, rate=8_000)
    start = (len(whole) - 8_000) // 2
    np.testing.assert_array_equal(
        waveform.read(data, rate=8_000, longest=8_000), whole[start : start + 8_000]
    )
    assert len(waveform.read(data, rate=8_000, longest=8_000, rng=rng)) == 8_000


def test_flac_that_does_not_state_its_length_is_read_to_the_end(rng):
    noise = (0.1 * rng.standard_normal(160_123)).astype(np.float32)
    data = bytearray(encoded(noise, format="FLAC"))
    whole = waveform.read(bytes(data))
    data[21] &= 0xF0
    data[22:26] = bytes(4)  # as an encoder writes that cannot go back
    np.testing.assert_array_equal(waveform.read(bytes(data)), whole)
    np.testing.assert_array_equal(waveform.read(bytes(data), longest=16_000), whole[72_061:88_061])
    fails(r"s of audio are more than max_seconds=2", bytes(data), max_seconds=2)
    fails("flac", bytes(data[: len(data) // 2]))


def test_names_need_not_be_utf_8_and_a_pipe_is_not_opened(tmp_path):
    path = tmp_path / "caf\udce9.wav"
    path.write_bytes(encoded(sine(440)))
    assert len(waveform.read(path)) == len(waveform.read(str(path))) == 16_000
    os.mkfifo(tmp_path / "pipe.wav")
    fails("it is a named pipe, not a regular file", tmp_path / "pipe.wav")


def test_a_wav_file_of_unknown_size_is_read():
    data = bytearray(encoded(sine(440)))
    data[4:8] = struct.pack("<I", 0xFFFFFFFF)  # as a program writes that does not know the end yet
    assert len(waveform.read(bytes(data))) == 16_000


def test_fit_and_its_mask(rng):
    x = np.arange(1, 8, dtype=np.float32)
    out, mask = waveform.fit(x, 10)
    assert out.tolist() == [1, 2, 3, 4, 5, 6, 7, 0, 0, 0] and mask.tolist() == [True] * 7 + [False] * 3
    out, mask = waveform.fit(x, 3)
    assert out.tolist() == [3, 4, 5] and mask.all()
    windows = {tuple(waveform.fit(x, 3, rng)[0]) for _ in range(60)}
    assert windows == {tuple(x[i : i + 3]) for i in range(5)}


def test_normalise_is_that_of_wav2vec2(rng):
    clips = [
        ((rng.normal(size=n) + 0.3) * s).astype(np.float32) for n, s in ((900, 0.2), (1_600, 1e-4), (411, 3))
    ]
    theirs = Wav2Vec2FeatureExtractor(return_attention_mask=True)(
        clips, sampling_rate=16_000, padding=True, return_tensors="np"
    )
    samples, mask = (np.stack(a) for a in zip(*(waveform.fit(c, 1_600) for c in clips), strict=True))
    ours = waveform.normalise(samples, mask)
    np.testing.assert_array_equal(mask, theirs["attention_mask"] == 1)
    np.testing.assert_allclose(ours, theirs["input_values"], atol=2e-5)
    samples[~mask] = np.nan  # what is behind the sound does not count
    np.testing.assert_array_equal(waveform.normalise(samples, mask), ours)
    np.testing.assert_array_equal(waveform.normalise(clips[1]), ours[1])
    assert not waveform.normalise(np.ones(5), np.zeros(5, bool)).any()


def test_a_clip_as_the_encoder_takes_it(rng):
    data = encoded(sine(440, 0.5, 8_000), 8_000)
    samples, mask = waveform.clip(data, 16_000)
    assert samples.dtype == np.float32 and mask.sum() == 8_000 and not samples[8_000:].any()
    assert abs(samples[:8_000].mean()) < 1e-6 and abs(samples[:8_000].std() - 1) < 1e-4
    calls = []

    def double(x, generator):
        calls.append(generator)
        return np.concatenate([x, x])

    longer, mask = waveform.clip(data, 16_000, rng=rng, augment=double)
    assert calls == [rng] and mask.all() and abs(longer.std() - 1) < 1e-4
    waveform.clip(data, 16_000, augment=double)
    assert len(calls) == 1, "nothing is drawn at test"
    with pytest.raises(DecodeError, match=r"24\.9 ms are less than the 25 ms of a frame"):
        waveform.clip(encoded(sine(440, 399 / 16_000)), 16_000)
    assert waveform.clip(encoded(sine(440, 400 / 16_000)), 16_000)[1].sum() == 400


@pytest.mark.parametrize("name", ["soundfile", "soxr"])
def test_a_missing_package_is_named(monkeypatch, name):
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(UserError, match=rf'needs the package {name}: pip install "fusionjax\[audio\]"'):
        waveform.read(encoded_before)


encoded_before = encoded(sine(440, 1, 8_000), 8_000)
