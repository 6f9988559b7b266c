"""A tokenizer of whole words, and what its tokens must be."""

import numpy as np
import pytest

from fusionjax.data.text import Tokenise
from fusionjax.errors import UserError

CLS, SEP, PAD, VOCAB = 1, 2, 3, 1000
"""The padding token is not 0, so that zeros are no accident."""
FINGERPRINT = "f" * 64


def word(w: str) -> int:
    return 10 + sum((i + 1) * ord(c) for i, c in enumerate(w)) % (VOCAB - 10)


class FakeTokenizer:
    """As `pretrained.hub.Tokenizer`: [CLS] words [SEP], cut and padded to one length; a "~" is no word."""

    vocab, pad = VOCAB, PAD

    def __init__(self, pad_left: bool = False):
        self.calls, self.pad_left = 0, pad_left

    def __call__(self, texts, max_length):
        self.calls += 1
        ids = np.full((len(texts), max_length), PAD, np.int32)
        mask = np.zeros_like(ids)
        for i, t in enumerate(texts):
            words = [word(w) for w in t.split() if w != "~"]
            own = [CLS, *words[: max_length - 2], SEP]
            at = slice(max_length - len(own), None) if self.pad_left else slice(len(own))
            ids[i, at], mask[i, at] = own, 1
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def expected(t: str, limit: int = 512) -> list[int]:
    """The tokens of a text without padding, written without the tokenizer."""
    words = [word(w) for w in t.split() if w != "~"][: limit - 2]
    return [CLS, *words, SEP] if words else []


def plain(**fields) -> Tokenise:
    return Tokenise(FakeTokenizer(), FINGERPRINT, **fields)


def fails(match: str, function, *args, **kwargs) -> None:
    """The call is a user's mistake, of one line."""
    with pytest.raises(UserError, match=match) as e:
        function(*args, **kwargs)
    assert "\n" not in str(e.value)
