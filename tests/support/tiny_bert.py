"""A BERT of a few words as transformers saves it: what a test reads in place of a published encoder."""

import json

import safetensors.numpy

from fusionjax.models.backbones import text
from tests.models.backbones.test_text import TINY, draw, reference

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write(folder, words, *, positions=24):
    """Writes config, vocabulary and random weights of width 16 into `folder`; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab = [*SPECIAL, *words]
    module = text.make(TINY, vocab=len(vocab), positions=positions)
    config = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24, type_vocab_size=2,
                  layer_norm_eps=1e-12, hidden_dropout_prob=0.1, model_type="bert", vocab_size=len(vocab),
                  max_position_embeddings=positions)  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n")
    settings = dict(tokenizer_class="BertTokenizer", do_lower_case=True)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tensors = {f"bert.{k}": v for k, v in reference(module, draw(module)).items()}
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    return folder
