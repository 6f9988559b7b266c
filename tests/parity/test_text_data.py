"""Texts as tokens by MiniLM's real tokenizer, through the hub's adapter, against transformers' own."""

import numpy as np
import pytest
import transformers

from fusionjax.data import text
from fusionjax.data.text import Tokenise, descriptions
from fusionjax.errors import UserError
from fusionjax.pretrained import hub

MINILM = "package:all-minilm-l6-v2"


@pytest.fixture(scope="module")
def folder():
    return hub.files(MINILM)


@pytest.fixture(scope="module")
def adapter(folder):
    return hub.tokenizer(folder)


@pytest.fixture(scope="module")
def reference(folder):
    return transformers.BertTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), model_max_length=512)


def bank(adapter, folder, **fields) -> text.Texts:
    found = descriptions.read("plant_village")
    tokenise = Tokenise(adapter, text.fingerprint(folder), **fields)
    return text.bank_texts(descriptions.match(found, tuple(found), shown="plant_village"), tokenise)


@pytest.mark.parametrize("limit", [512, 33, 20])
def test_bank_of_plant_village(adapter, folder, reference, limit, tmp_path):
    texts = bank(adapter, folder, max_tokens=limit, cache=tmp_path)
    written = [t for own in descriptions.read("plant_village").values() for t in own]
    rows = [reference(t, truncation=True, max_length=limit)["input_ids"] for t in written]
    assert len(texts.tokens) == len(rows) and texts.tokens.shape[1] == min(
        -(-max(map(len, rows)) // 16) * 16, limit
    )
    for tokens, mask, row in zip(texts.tokens, texts.mask, rows, strict=True):
        assert tokens[mask].tolist() == row and mask[: len(row)].all()
        assert (tokens[~mask] == 0).all()  # BERT's [PAD]
    over = sum(len(reference(t)["input_ids"]) > limit for t in written)
    assert bool(over) == bool(texts.notes)
    if over:
        assert texts.notes[0].startswith(
            f"{over} of {len(written)} descriptions are longer than {limit} tokens"
        )
    again = bank(adapter, folder, max_tokens=limit, cache=tmp_path)
    np.testing.assert_array_equal(again.tokens, texts.tokens)
    assert len(list(tmp_path.iterdir())) == 1


def test_long_and_empty_captions(adapter, folder, reference):
    tokenise = Tokenise(adapter, text.fingerprint(folder), max_tokens=512)
    long = "leaf spot rust " * 200
    # None of the last three has a word: the tokenizer drops white space and control characters.
    captions = ["a leaf with rust", long, "", " \t\n", "\x00\x7f"]
    with pytest.raises(UserError, match="the caption of 2 has no word in it, nor have 2 others"):
        text.instance_texts(captions, range(5), tokenise)
    texts = text.instance_texts(captions, range(5), tokenise, allow_empty=True)
    rows = texts.rows(None, range(5))
    assert texts.tokens.shape[1] == 512
    assert texts.mask[rows].sum(1).tolist() == [6, 512, 0, 0, 0]
    assert texts.tokens[rows[1]].tolist() == reference(long, truncation=True, max_length=512)["input_ids"]
    assert texts.tokens[rows[0], :6].tolist() == reference(captions[0])["input_ids"]
    assert texts.notes[-1].startswith("1 of 5 captions are longer than 512 tokens")
