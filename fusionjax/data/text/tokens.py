"""Texts → token arrays of one shape, made once and kept on disk."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from fusionjax import files
from fusionjax.errors import UserError

SHORTEST, LONGEST = 8, 512
"""Allowed values of `max_tokens`; 512 is the number of positions of BERT and its kin."""
MULTIPLE = 16
"""Lengths are rounded up to a multiple of it, so that few different shapes are compiled."""
FILES = ("added_tokens.json", "config.json", "merges.txt", "sentencepiece.bpe.model", "special_tokens_map.json",
         "spiece.model", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt")  # fmt: skip
"""What a tokenizer is read from; config.json names its class."""

_FORMAT = "fusionjax tokens 1"
_CHUNK = 512
# Most texts are short, and padding every one to the longest that is allowed costs more than asking again for the few.
_PROBES = (32, 128)


class Tokenizer(Protocol):
    """What is needed of `pretrained.hub.Tokenizer`, the one way to a tokenizer.

    Attributes:
        vocab: number of words.
        pad: number of the padding token.
    """

    vocab: int
    pad: int

    def __call__(self, texts: Sequence[str], max_length: int) -> Mapping[str, np.ndarray]: ...


class Tokens(NamedTuple):
    """M texts as tokens.

    Attributes:
        tokens: (M, T) int32; the tokenizer's padding token where `mask` is False.
        mask: (M, T) bool, True for a text's tokens, which come first; False everywhere for a text without a word.
        cut: (M,) bool, True where a text was longer than allowed.
    """

    tokens: np.ndarray
    mask: np.ndarray
    cut: np.ndarray


def fingerprint(folder: str | Path) -> str:
    """sha256 of the content of a tokenizer's files, whatever folder they are in.

    Args:
        folder: that `pretrained.hub.files` gives.

    Raises:
        UserError: none of `FILES` is there, or one cannot be read.
    """
    total, found = hashlib.sha256(), False
    for name in FILES:
        path = Path(folder) / name
        if not path.is_file():
            continue
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
        found = found or name != "config.json"
        total.update(f"{name} {len(content)}\n".encode() + content)
    if not found:
        raise UserError(f"{folder}: holds no tokenizer: tokenizer.json or vocab.txt was expected")
    return total.hexdigest()


def check_text(text: Any, what: str) -> str:
    """The text, if it is one that can be tokenised; `what` names it in the error.

    Raises:
        UserError: not a text, or not one that UTF-8 can hold (half of a surrogate pair).
    """
    if not isinstance(text, str):
        raise UserError(f"{what} is not a text but {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{what} holds half of a surrogate pair, which is no character: write it as UTF-8"
        ) from None
    return text


@dataclasses.dataclass(frozen=True)
class Tokenise:
    """Texts → `Tokens`; the same texts are tokenised once and then read from the cache.

    Attributes:
        tokenizer: of the text encoder.
        fingerprint: of the tokenizer's files, see `fingerprint`.
        max_tokens: longest text, in tokens with the special ones; a longer text is cut, and `Tokens.cut` says so.
        cache: folder of the files, one for each list of texts; None for no cache. A file is named by what it depends on, a
            damaged one is made anew, and where none can be written the texts are tokenised the next time again.

    Raises:
        UserError: `max_tokens` is not a whole number from `SHORTEST` to `LONGEST`.

    Example:
        >>> tokenise = Tokenise(hub.tokenizer(folder), fingerprint(folder), max_tokens=64)
        >>> tokenise(["a leaf with rust"]).tokens.shape
        (1, 16)
    """

    tokenizer: Tokenizer
    fingerprint: str
    max_tokens: int = LONGEST
    cache: Path | None = None

    def __post_init__(self) -> None:
        whole = isinstance(self.max_tokens, int) and not isinstance(self.max_tokens, bool)
        if not (whole and SHORTEST <= self.max_tokens <= LONGEST):
            raise UserError(f"max_tokens={self.max_tokens!r} must be a whole number, {SHORTEST} to {LONGEST}")

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Tokens of M texts; T is the longest one's length rounded up to a multiple of 16, and `max_tokens` at most.

        Raises:
            UserError: the tokenizer pads at the start of a text.
        """
        if isinstance(texts, str):
            raise TypeError("texts is one str; pass a list of texts")
        if self.cache is None:
            return self._compute(texts)
        path = Path(self.cache) / f"tokens-{self._key(texts)}.npz"
        found = self._open(path, len(texts))
        if found is None:
            found = self._compute(texts)
            _write(path, found)
        return found

    def _compute(self, texts: Sequence[str]) -> Tokens:
        bare = self._encode([""], SHORTEST)[0]
        rows: list[np.ndarray] = [bare] * len(texts)
        pending = list(range(len(texts)))
        # A text that fills a probe may be longer; one that fills the last probe is longer than allowed.
        for length in (*(p for p in _PROBES if p < self.max_tokens), self.max_tokens + 1):
            encoded = self._encode([texts[i] for i in pending], length)
            rows_of = dict(zip(pending, encoded, strict=True))
            pending = [i for i in pending if len(rows_of[i]) == length]
            for i in rows_of.keys() - set(pending):
                rows[i] = rows_of[i]
        for i, row in zip(pending, self._encode([texts[i] for i in pending], self.max_tokens), strict=True):
            rows[i] = row
        # Nothing but special tokens: no word to attend to.
        rows = [row[:0] if np.array_equal(row, bare) else row for row in rows]
        return self._padded(rows, np.isin(np.arange(len(texts)), pending))

    def _encode(self, texts: Sequence[str], length: int) -> list[np.ndarray]:
        """The tokens of each text, without padding, cut at `length`."""
        out = []
        for start in range(0, len(texts), _CHUNK):
            arrays = self.tokenizer(texts[start : start + _CHUNK], length)
            mask = np.asarray(arrays["attention_mask"]) != 0
            if np.any(mask[:, 1:] & ~mask[:, :-1]):
                raise UserError(
                    "the tokenizer pads at the start of a text; one that pads at the end is needed"
                )
            ids = np.asarray(arrays["input_ids"], np.int32)
            out += [row[:n] for row, n in zip(ids, mask.sum(1), strict=True)]
        return out

    def _padded(self, rows: Sequence[np.ndarray], cut: np.ndarray) -> Tokens:
        lengths = np.asarray([len(row) for row in rows], np.int64)
        longest = max(int(lengths.max(initial=0)), 1)
        # Never above max_tokens: an encoder has no positions beyond it.
        width = min(-(-longest // MULTIPLE) * MULTIPLE, self.max_tokens)
        mask = np.arange(width) < lengths[:, None]
        tokens = np.full(mask.shape, self.tokenizer.pad, np.int32)
        tokens[mask] = np.concatenate([*rows, np.zeros(0, np.int32)])
        return Tokens(tokens, mask, cut)

    def _key(self, texts: Sequence[str]) -> str:
        """Digest of everything that the tokens are a function of."""
        head = [_FORMAT, self.fingerprint, self.max_tokens, MULTIPLE, len(texts)]
        total = hashlib.sha256(json.dumps(head).encode())
        for text in texts:
            content = text.encode()
            total.update(len(content).to_bytes(8, "little") + content)
        return total.hexdigest()

    def _open(self, path: Path, size: int) -> Tokens | None:
        """What the file holds; None if it is not there, or not whole."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                found = Tokens(*(arrays[name] for name in Tokens._fields))
        # Whatever a damaged archive makes of it: zipfile, zlib and NumPy each raise their own. It is made anew.
        except Exception:
            return None
        tokens, mask, cut = found
        fits = (
            (tokens.dtype, mask.dtype, cut.dtype) == (np.int32, np.bool_, np.bool_)
            and tokens.ndim == 2
            and tokens.shape == mask.shape
            and len(tokens) == size
            and cut.shape == (size,)
            and 0 <= tokens.min(initial=0) <= tokens.max(initial=0) < self.tokenizer.vocab
        )
        return found if fits else None


def _write(path: Path, found: Tokens) -> None:
    """All or nothing: another process sees the whole file or none."""
    # A cache that cannot be written costs time, not the run.
    with contextlib.suppress(OSError), files.replacing(path) as part, part.open("wb") as file:
        np.savez(file, **found._asdict())
