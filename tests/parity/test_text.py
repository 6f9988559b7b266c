"""BERT and DistilBERT against transformers' torch models: random weights, and MiniLM's real ones."""

import importlib.metadata
import warnings

import jax
import numpy as np
import pytest
import torch
import transformers

from fusionjax.models.backbones import text
from fusionjax.pretrained import encoders, hub

# Absolute, in float32.
TOLERANCE = 1e-4
GRADIENT = 1e-3
SIZES = dict(vocab_size=67, max_position_embeddings=24)
BERT = dict(hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=80)
DISTILBERT = dict(dim=48, n_layers=3, n_heads=4, hidden_dim=80)
MINILM = "package:all-minilm-l6-v2"
SENTENCES = [
    "A leaf with orange pustules of rust along its veins.",
    "Rust-coloured spots on the foliage.",
    "The stock market closed higher on Friday.",
    "Shares rose at the end of the week; Zürich's index too (+1.3 %).",
    "healthy",
]


def randomise(model):
    """Weights of full size: at transformers' initial ones attention is nearly uniform and hides mistakes."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.3 if parameter.ndim == 1 else 1.5 * parameter.shape[-1] ** -0.5
            parameter.normal_(0, scale, generator=generator)
            if name.endswith(("LayerNorm.weight", "layer_norm.weight")):
                parameter.add_(1)
    return model.eval()


def make(kind, activation="gelu"):
    if kind == "bert":
        return transformers.BertModel(
            transformers.BertConfig(**SIZES, **BERT, hidden_act=activation, attn_implementation="eager")
        )
    return transformers.DistilBertModel(
        transformers.DistilBertConfig(
            **SIZES, **DISTILBERT, activation=activation, attn_implementation="eager"
        )
    )


@pytest.fixture(params=["bert", "distilbert"])
def pair(request, tmp_path, monkeypatch):
    """The torch model, and ours as read from the folder that transformers saved."""
    reference = randomise(make(request.param))
    reference.save_pretrained(tmp_path)
    monkeypatch.setattr(hub, "tokenizer", lambda folder: None)
    module, variables, _ = encoders.load_text(tmp_path)
    return reference, module, variables


def batch(types=True):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 67, (3, 17)).astype(np.int32)
    mask = (np.arange(17) < np.array([17, 9, 1])[:, None]).astype(np.int32)
    return ids, mask, rng.integers(0, 2, ids.shape).astype(np.int32)


def run_torch(reference, ids, mask, types=None):
    inputs = dict(input_ids=torch.from_numpy(ids).long(), attention_mask=torch.from_numpy(mask).long())
    if types is not None and reference.config.model_type == "bert":
        inputs["token_type_ids"] = torch.from_numpy(types).long()
    return reference(**inputs, output_attentions=True)


def test_tokens_pooler_and_maps_equal_transformers(pair):
    reference, module, variables = pair
    ids, mask, types = batch()
    with torch.inference_mode():
        want = run_torch(reference, ids, mask, types)
    got, aux = jax.jit(lambda v: module.apply(v, ids, mask, types, capture=("attention",)))(variables)
    tokens = want.last_hidden_state.numpy()
    assert np.abs(tokens[0, 0] - tokens[1, 0]).max() > 0.5
    assert np.abs(got - tokens)[mask == 1].max() < TOLERANCE
    maps = np.stack([layer.numpy() for layer in want.attentions])
    rows = np.broadcast_to(mask[None, :, None, :] == 1, maps.shape[:-1])
    # Attention says something: it is far from uniform.
    assert maps.max() > 0.5
    assert np.abs(aux["attention"] - maps)[rows].max() < TOLERANCE
    if reference.config.model_type == "bert":
        assert np.abs(aux["pooled"] - want.pooler_output.numpy()).max() < TOLERANCE
    else:
        assert "pooled" not in aux
    count = sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert count == sum(p.numel() for p in reference.parameters())


def test_gradient_of_the_embedding_equals_transformers(pair):
    reference, module, variables = pair
    ids, mask, types = batch()
    weight = np.random.default_rng(3).standard_normal((3, 17, 48)).astype(np.float32) * mask[..., None]
    (run_torch(reference, ids, mask, types).last_hidden_state * torch.from_numpy(weight)).sum().backward()
    want = reference.embeddings.word_embeddings.weight.grad.numpy()
    got = jax.grad(lambda v: (module.apply(v, ids, mask, types)[0] * weight).sum())(variables)["params"]
    assert np.abs(want).max() > 1
    # torch leaves the padding word's row without a gradient.
    keep = np.arange(67) != reference.config.pad_token_id
    assert np.abs(got["words"] - want)[keep].max() < GRADIENT


def test_every_head_s_checkpoint_gives_the_same_encoder(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "tokenizer", lambda folder: None)
    for name, config, base in (
        ("BertForPreTraining", transformers.BertConfig(**SIZES, **BERT), "bert"),
        ("BertForSequenceClassification", transformers.BertConfig(**SIZES, **BERT), "bert"),
        ("BertForMaskedLM", transformers.BertConfig(**SIZES, **BERT), "bert"),
        (
            "DistilBertForMaskedLM",
            transformers.DistilBertConfig(**SIZES, **DISTILBERT, tie_word_embeddings=False),
            "distilbert",
        ),
        (
            "DistilBertForQuestionAnswering",
            transformers.DistilBertConfig(**SIZES, **DISTILBERT),
            "distilbert",
        ),
    ):
        model = randomise(getattr(transformers, name)(config))
        model.save_pretrained(tmp_path / name)
        module, variables, _ = encoders.load_text(tmp_path / name)
        ids, mask, _ = batch()
        with torch.inference_mode():
            want = run_torch(getattr(model, base), ids, mask).last_hidden_state.numpy()
        assert np.abs(module.apply(variables, ids, mask)[0] - want)[mask == 1].max() < TOLERANCE
        # BertForMaskedLM has no pooler, DistilBERT never.
        assert module.config.pooler == (getattr(getattr(model, base), "pooler", None) is not None)


def test_bin_checkpoints_are_read_without_running_them(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "tokenizer", lambda folder: None)
    reference = randomise(make("bert"))
    reference.config.save_pretrained(tmp_path)
    torch.save(reference.state_dict(), tmp_path / "pytorch_model.bin")
    module, variables, _ = encoders.load_text(tmp_path)
    ids, mask, _ = batch()
    with torch.inference_mode():
        want = run_torch(reference, ids, mask).last_hidden_state.numpy()
    assert np.abs(module.apply(variables, ids, mask)[0] - want)[mask == 1].max() < TOLERANCE


def test_minilm_with_its_real_weights():
    """The sentence embedding as sentence-transformers defines it: masked mean, unit."""
    folder = hub.files(MINILM)
    reference = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()
    words = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    inputs = words(SENTENCES, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = reference(**inputs)
    weight = inputs["attention_mask"][..., None].float()
    mean = (hidden.last_hidden_state * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
    want = torch.nn.functional.normalize(mean).numpy()

    module, variables, tokens = encoders.load_text(MINILM, output="mean", normalise=True)
    # Ours are padded further than transformers': the embedding may not depend on it.
    got = tokens(SENTENCES, max_length=32)
    length = inputs["input_ids"].shape[1]
    assert np.array_equal(got["input_ids"][:, :length], inputs["input_ids"].numpy())
    out, aux = jax.jit(module.apply)(variables, got["input_ids"], got["attention_mask"])
    assert np.abs(out - want).max() < TOLERANCE
    assert np.abs(aux["pooled"] - hidden.pooler_output.numpy()).max() < TOLERANCE
    cosines = np.asarray(out @ out.T)
    assert np.abs(cosines - want @ want.T).max() < TOLERANCE
    # Leaves with leaves, markets with markets.
    assert cosines[0].argsort()[-2] == 1 and cosines[2].argsort()[-2] == 3
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 22_713_216
    assert module.config == text.CONFIGS["all_minilm_l6_v2"]


if importlib.metadata.version("transformers").startswith("4."):
    # Version 5 has no Flax models; this runs in an environment with transformers 4.57.6.

    def test_bert_equals_flax_bert():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = transformers.BertConfig(**SIZES, **BERT)
            reference = transformers.FlaxBertModel(config, seed=0)
            rng = np.random.default_rng(0)
            params = jax.tree.map(
                lambda leaf: leaf + 0.2 * rng.standard_normal(leaf.shape).astype(np.float32), reference.params
            )
            ids, mask, types = batch()
            want = reference(ids, mask, types, params=params)
        layers = params["encoder"]["layer"]

        def stack(*path):
            leaves = [layers[str(i)] for i in range(3)]
            for part in path:
                leaves = [leaf[part] for leaf in leaves]
            return jax.tree.map(lambda *x: np.stack(x), *leaves)

        attention = {key: stack("attention", "self", key) for key in ("query", "key", "value")}
        embeddings = params["embeddings"]
        ours = {
            "words": embeddings["word_embeddings"]["embedding"],
            "positions": embeddings["position_embeddings"]["embedding"],
            "types": embeddings["token_type_embeddings"]["embedding"],
            "norm": embeddings["LayerNorm"],
            "pooler": params["pooler"]["dense"],
            "layers": {
                "attention": {**attention, "out": stack("attention", "output", "dense")},
                "norm1": stack("attention", "output", "LayerNorm"),
                "fc1": stack("intermediate", "dense"),
                "fc2": stack("output", "dense"),
                "norm2": stack("output", "LayerNorm"),
            },
        }
        sizes = dict(vocab=67, width=48, layers=3, heads=4, ffn=80, positions=24)
        got, aux = text.make(text.TextConfig(**sizes)).apply({"params": ours}, ids, mask, types)
        difference = np.abs(got - want.last_hidden_state)[mask == 1].max()
        print(f"FlaxBertModel: max abs difference {difference:.2e}")
        assert difference < TOLERANCE
        assert np.abs(aux["pooled"] - want.pooler_output).max() < TOLERANCE
