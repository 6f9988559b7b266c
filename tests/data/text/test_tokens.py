"""Texts as tokens: at every length, from the cache and without it."""

import numpy as np
import pytest

from fusionjax.data import text
from fusionjax.data.text import Tokenise
from tests.support.fake_tokenizer import FINGERPRINT, PAD, FakeTokenizer, expected, fails, plain


@pytest.mark.parametrize("limit", [8, 31, 32, 33, 100, 128, 130, 512])
def test_tokens_equal_the_tokenizers_at_every_length(limit):
    sizes = sorted(
        {0, 1, 2, 5, 6, 7, 14, 29, 30, 31, 98, 99, 126, 127, 300, limit - 2, limit - 1, limit + 40}
    )
    texts = [" ".join(f"w{k % 7}{k}" for k in range(n)) for n in sizes]
    out = plain(max_tokens=limit)(texts)
    rows = [expected(t, limit) for t in texts]
    longest = max(map(len, rows))
    assert out.tokens.dtype == np.int32 and out.mask.dtype == out.cut.dtype == np.bool_
    assert out.tokens.shape == out.mask.shape == (len(texts), min(-(-longest // 16) * 16, limit))
    for i, row in enumerate(rows):
        assert out.tokens[i, : len(row)].tolist() == row
        assert (out.tokens[i, len(row) :] == PAD).all()
        assert out.mask[i].tolist() == [True] * len(row) + [False] * (out.mask.shape[1] - len(row))
    assert out.cut.tolist() == [n + 2 > limit for n in sizes]


def test_length_is_the_longest_rounded_up_to_16():
    for n, width in ((1, 16), (14, 16), (15, 32), (30, 32), (31, 48)):
        assert plain()([" ".join(["a"] * n), "b"]).tokens.shape == (2, width)
    assert plain()([]).tokens.shape == (0, 16)


def test_many_texts_keep_their_order():
    texts = [f"t{i} " * (1 + i % 50) for i in range(1300)]
    out = plain(max_tokens=40)(texts)
    for i in (0, 37, 511, 512, 1023, 1024, 1299):
        assert out.tokens[i][out.mask[i]].tolist() == expected(texts[i], 40)


def test_tokens_mistakes():
    for wrong in (7, 513, 64.0, True, "64"):
        fails(r"max_tokens=.* must be an integer, 8 to 512", plain, max_tokens=wrong)
    fails("pads at the start", Tokenise(FakeTokenizer(pad_left=True), FINGERPRINT), ["one"])
    with pytest.raises(TypeError, match="a list of texts"):
        plain()("one")


def test_cache_saves_the_work_and_changes_nothing(tmp_path):
    texts = ["grey bark", "smooth " * 40, "~", "naïve Zürich"]
    first = plain(max_tokens=20, cache=tmp_path / "a" / "b")
    out = first(texts)
    again = plain(max_tokens=20, cache=tmp_path / "a" / "b")
    for found in (again(texts), plain(max_tokens=20)(texts)):
        for a, b in zip(out, found, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
    assert first.tokenizer.calls and again.tokenizer.calls == 0
    assert len(list((tmp_path / "a" / "b").iterdir())) == 1


def test_cache_is_keyed_by_all_that_matters(tmp_path):
    settings = [
        (FINGERPRINT, 20, ["ab", "c"]),
        ("e" * 64, 20, ["ab", "c"]),
        (FINGERPRINT, 21, ["ab", "c"]),
        (FINGERPRINT, 20, ["a", "bc"]),
        (FINGERPRINT, 20, ["c", "ab"]),
        (FINGERPRINT, 20, ["ab", "c", ""]),
    ]
    for n, (mark, limit, texts) in enumerate(settings, 1):
        Tokenise(FakeTokenizer(), mark, limit, tmp_path)(texts)
        assert len(list(tmp_path.iterdir())) == n


def test_damaged_cache_is_made_anew(tmp_path):
    texts = ["grey bark", "smooth"]
    wanted = plain(cache=tmp_path)(texts)
    (path,) = tmp_path.glob("*/tokens.npy")
    whole = path.read_bytes()
    np.save(path, np.zeros_like(wanted.tokens))
    for calls in (True, False):
        tokenise = plain(cache=tmp_path)
        for a, b in zip(wanted, tokenise(texts), strict=True):
            np.testing.assert_array_equal(a, b)
        assert bool(tokenise.tokenizer.calls) == calls and path.read_bytes() == whole


def test_cache_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert plain(cache=tmp_path / "file" / "below")(["a"]).mask.sum() == 3


def test_fingerprint(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    for folder in (a, b):
        folder.mkdir()
        (folder / "tokenizer.json").write_text("{}")
        (folder / "vocab.txt").write_text("one\ntwo")
    assert text.fingerprint(a) == text.fingerprint(str(b)) and len(text.fingerprint(a)) == 64
    (b / "model.safetensors").write_bytes(b"weights")
    assert text.fingerprint(a) == text.fingerprint(b)
    (b / "vocab.txt").write_text("one\ntwO")
    assert text.fingerprint(a) != text.fingerprint(b)
    (b / "vocab.txt").rename(b / "merges.txt")
    (b / "merges.txt").write_text("one\ntwo")
    assert text.fingerprint(a) != text.fingerprint(b)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "config.json").write_text("{}")
    fails("holds no tokenizer", text.fingerprint, tmp_path / "none")
