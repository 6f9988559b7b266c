"""Texts → token arrays of one shape, computed once and kept on disk."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from fusionjax import disk_cache
from fusionjax.errors import UserError

SHORTEST, LONGEST = 8, 512
"""Allowed values of `max_tokens`; 512 is the number of positions of BERT-like encoders."""
MULTIPLE = 16
"""Lengths are rounded up to a multiple of this, so that few different shapes are compiled."""
FILES = ("added_tokens.json", "config.json", "merges.txt", "sentencepiece.bpe.model", "special_tokens_map.json",
         "spiece.model", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt")  # fmt: skip
"""The files that a tokenizer is read from; config.json names its class."""

_VERSION = 2
_CHUNK = 512
# Most texts are short: padding all to the maximum length costs more than tokenising the few long ones again.
_PROBES = (32, 128)


class Tokenizer(Protocol):
    """The interface of `pretrained.hub.Tokenizer` that is used here.

    Attributes:
        vocab: size of the vocabulary.
        pad: id of the padding token.
    """

    vocab: int
    pad: int

    def __call__(self, texts: Sequence[str], max_length: int) -> Mapping[str, np.ndarray]: ...


class Tokens(NamedTuple):
    """M texts as tokens.

    Attributes:
        tokens: (M, T) int32; the tokenizer's padding token where `mask` is False.
        mask: (M, T) bool, False at padding, which comes last; all False for a text without a word.
        cut: (M,) bool, True where a text was truncated.
    """

    tokens: np.ndarray
    mask: np.ndarray
    cut: np.ndarray


def fingerprint(folder: str | Path) -> str:
    """The sha256 of the names and content of the files of a tokenizer, independent of their folder.

    Args:
        folder: a folder from `pretrained.hub.files`.

    Returns:
        Hexadecimal digest.

    Raises:
        UserError: the folder holds no tokenizer, or a file cannot be read.
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


def check_text(text: object, what: str) -> str:
    """Returns the text if it can be tokenised.

    Args:
        text: any value.
        what: its name in the message.

    Raises:
        UserError: the value is not a text, or cannot be encoded as UTF-8 (half of a surrogate pair).
    """
    if not isinstance(text, str):
        raise UserError(f"{what} is not a text but {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{what} holds half of a surrogate pair, which is not a character: save it as UTF-8"
        ) from None
    return text


@dataclasses.dataclass(frozen=True)
class Tokenise:
    """Texts → `Tokens`; a list of texts is tokenised once and then read from the cache.

    Attributes:
        tokenizer: tokenizer of the text encoder.
        fingerprint: digest of the files of the tokenizer, see `fingerprint`.
        max_tokens: maximum length of a text in tokens, including special ones; a longer text is truncated and marked in
            `Tokens.cut`.
        cache: folder of the entries (see `disk_cache`), one per list of texts; None for no cache.

    Raises:
        UserError: `max_tokens` is not an integer from `SHORTEST` to `LONGEST`.

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
            raise UserError(f"max_tokens={self.max_tokens!r} must be an integer, {SHORTEST} to {LONGEST}")

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Tokenises M texts.

        Args:
            texts: M texts.

        Returns:
            Tokens of width T, the longest length rounded up to a multiple of 16, at most `max_tokens`.

        Raises:
            UserError: the tokenizer pads at the start of a text.
            TypeError: a single str.
        """
        if isinstance(texts, str):
            raise TypeError("texts is one str; pass a list of texts")
        if self.cache is None:
            return self._compute(texts)
        entry = disk_cache.Entry(self.cache, "tokens", self._depends_on(texts))
        return Tokens(**entry.arrays(lambda: self._compute(texts)._asdict()))

    def _compute(self, texts: Sequence[str]) -> Tokens:
        bare = self._encode([""], SHORTEST)[0]
        rows: list[np.ndarray] = [bare] * len(texts)
        pending = list(range(len(texts)))
        # A text that fills a probe may be longer; one that fills the last probe exceeds max_tokens.
        for length in (*(p for p in _PROBES if p < self.max_tokens), self.max_tokens + 1):
            encoded = self._encode([texts[i] for i in pending], length)
            rows_of = dict(zip(pending, encoded, strict=True))
            pending = [i for i in pending if len(rows_of[i]) == length]
            for i in rows_of.keys() - set(pending):
                rows[i] = rows_of[i]
        for i, row in zip(pending, self._encode([texts[i] for i in pending], self.max_tokens), strict=True):
            rows[i] = row
        # Only special tokens: there is no word to attend to.
        rows = [row[:0] if np.array_equal(row, bare) else row for row in rows]
        return self._padded(rows, np.isin(np.arange(len(texts)), pending))

    def _encode(self, texts: Sequence[str], length: int) -> list[np.ndarray]:
        """The tokens of each text without padding, truncated to `length`."""
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
        # At most max_tokens: the encoder may have no positions beyond.
        width = min(-(-longest // MULTIPLE) * MULTIPLE, self.max_tokens)
        mask = np.arange(width) < lengths[:, None]
        tokens = np.full(mask.shape, self.tokenizer.pad, np.int32)
        tokens[mask] = np.concatenate([*rows, np.zeros(0, np.int32)])
        return Tokens(tokens, mask, cut)

    def _depends_on(self, texts: Sequence[str]) -> dict[str, Any]:
        """Everything that the tokens depend on."""
        total = hashlib.sha256()
        for text in texts:
            content = text.encode()
            total.update(len(content).to_bytes(8, "little") + content)
        return {
            "version": _VERSION,
            "tokenizer": self.fingerprint,
            "max_tokens": self.max_tokens,
            "multiple": MULTIPLE,
            "count": len(texts),
            "texts": total.hexdigest(),
        }
