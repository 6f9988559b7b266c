"""CLIP: sizes, unit vectors, the causal mask, the end of the text, the key map. No torch, no network."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from fusionjax import pretrained
from fusionjax.errors import UserError
from fusionjax.models.backbones import clip
from fusionjax.models.backbones.clip import Tower
from fusionjax.models.backbones.records import clip as keys_clip
from fusionjax.pretrained import encoders, hub
from fusionjax.pretrained.convert import abstract

TINY = dict(
    image_size=8, patch=4, image=Tower(16, 2, 4, 24), text=Tower(12, 2, 3, 20), vocab=30, positions=9, projection=10
)  # fmt: skip
PARAMETERS = {"clip_vit_base_patch32": 151_277_313, "clip_vit_base_patch16": 149_620_737}
END = TINY["vocab"] - 1


def draw(module, seed=0):
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        values = rng.standard_normal(shape.shape).astype(np.float32)
        return values * 0.3 + (1 if path[-1].key == "scale" else 0)

    return jax.tree_util.tree_map_with_path(leaf, abstract(module))


@pytest.fixture(scope="module")
def tiny():
    module = clip.make("tiny", **TINY)
    return module, draw(module)


def inputs(ends=(7, 4)):
    """Two images, and two texts that end at the places `ends`; what follows is 0."""
    rng = np.random.default_rng(1)
    ids = rng.integers(1, END, (len(ends), 9)).astype(np.int32)
    places = np.arange(9) - np.array(ends)[:, None]
    ids = np.where(places == 0, END, np.where(places > 0, 0, ids)).astype(np.int32)
    return rng.standard_normal((2, 8, 8, 3)).astype(np.float32), ids, (places <= 0).astype(np.int32)


@functools.partial(jax.jit, static_argnums=0, static_argnames="method")
def encode(module, variables, *inputs, method):
    """Compiled once a module, method and shape, for all tests."""
    return module.apply(variables, *inputs, method=method)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", clip.NAMES)
def test_parameter_counts(name):
    assert count(abstract(clip.build(name))) == PARAMETERS[name]


def test_outputs_and_jit(tiny):
    module, variables = tiny
    images, ids, mask = inputs()
    logits, aux = module.apply(variables, images, ids, mask, capture=("attention",))
    assert logits.shape == (2, 2) and logits.dtype == jnp.float32
    for side in ("image", "text"):
        assert aux[side].shape == (2, 10)
        np.testing.assert_allclose(np.linalg.norm(aux[side], axis=-1), 1, rtol=1e-6)
    want = np.exp(aux["logit_scale"]) * aux["image"] @ aux["text"].T
    np.testing.assert_allclose(logits, want, rtol=1e-5)
    assert aux["image_aux"]["attention"].shape == (2, 2, 4, 5, 5)
    assert aux["image_aux"]["tokens"].shape == (2, 5, 16) and aux["text_aux"]["tokens"].shape == (2, 9, 12)
    maps = np.asarray(aux["text_aux"]["attention"])
    assert maps.shape == (2, 2, 3, 9, 9)
    # No word sees a later one, or padding.
    assert not np.triu(maps, 1).any() and not maps[:, 1, :, :, 5:].any()
    compiled = jax.jit(lambda v: module.apply(v, images, ids, mask)[0])(variables)
    np.testing.assert_allclose(compiled, logits, atol=1e-5)
    one, _ = encode(module, variables, images, method="encode_image")
    other, _ = encode(module, variables, ids, mask, method="encode_text")
    np.testing.assert_allclose(one, aux["image"], atol=1e-6)
    np.testing.assert_allclose(other, aux["text"], atol=1e-6)


def test_text_is_causal_and_ends_at_its_end(tiny):
    module, variables = tiny
    _, ids, mask = inputs(ends=(6, 4))

    def run(ids, mask=None):
        return encode(module, variables, ids, mask, method="encode_text")

    vectors, aux = run(ids)
    # What follows the end of the text moves neither the vector nor any earlier token, by one bit.
    other = ids.copy()
    other[0, 7:], other[1, 5:] = 3, 5
    changed, seen = run(other)
    np.testing.assert_array_equal(changed, vectors)
    np.testing.assert_array_equal(seen["tokens"][1, :5], aux["tokens"][1, :5])
    assert np.abs(seen["tokens"][1, 5:] - aux["tokens"][1, 5:]).max() > 0.01
    # An earlier word does move it; and a mask of the padding changes rounding at most.
    other[0, 2] = 1 + other[0, 2] % (END - 1)
    assert np.abs(run(other)[0][0] - vectors[0]).max() > 1e-3
    np.testing.assert_allclose(run(ids, mask)[0], vectors, atol=1e-6)


def test_end_token_is_the_highest_number_or_the_named_one(tiny):
    module, variables = tiny
    _, ids, _ = inputs(ends=(6, 4))
    named = module.clone(end_token=7)
    ids = np.where(ids == 7, 8, ids)
    ids[:, 2:4] = 7  # the first of two counts
    out, aux = encode(named, variables, ids, None, method="encode_text")
    projected = np.asarray(aux["tokens"][:, 2]) @ variables["params"]["text_projection"]["kernel"]
    np.testing.assert_allclose(out, projected / np.linalg.norm(projected, axis=-1, keepdims=True), atol=1e-5)
    out, aux = encode(module, variables, ids, None, method="encode_text")
    projected = np.asarray(aux["tokens"])[[0, 1], [6, 4]] @ variables["params"]["text_projection"]["kernel"]
    np.testing.assert_allclose(out, projected / np.linalg.norm(projected, axis=-1, keepdims=True), atol=1e-5)


def test_quick_gelu_is_its_definition_and_an_option(rng, tiny):
    x = rng.standard_normal(50).astype(np.float32) * 3
    np.testing.assert_allclose(clip.quick_gelu(x), x / (1 + np.exp(-1.702 * x)), rtol=1e-5)
    module, variables = tiny
    images, *_ = inputs()
    quick, exact = (
        encode(m, variables, images, method="encode_image")[0]
        for m in (module, module.clone(activation="gelu"))
    )
    difference = np.abs(quick - exact).max()
    assert 1e-5 < difference < 0.1


def test_mistakes_are_named(tiny):
    module, variables = tiny
    images, ids, _ = inputs()
    with pytest.raises(ValueError, match="an image of 4×8"):
        module.apply(variables, images[:, :4], method="encode_image")
    with pytest.raises(ValueError, match="10 tokens; the model has 9"):
        module.apply(variables, np.pad(ids, ((0, 0), (0, 1))), method="encode_text")
    for fields, message in (
        ({"depth": 3}, "no field 'depth'; it has"),
        ({"image_size": 225}, "multiple of the patch"),
        ({"image": Tower(heads=5)}, "image heads=5 must divide width=768"),
        ({"activation": "relu"}, "activation='relu' is not one of"),
    ):
        with pytest.raises(UserError, match=message):
            clip.build("clip_vit_base_patch32", **fields)
    with pytest.raises(UserError, match="'clip_huge' is not one of"):
        clip.build("clip_huge")


def reference(module, variables):
    """The variables under transformers' names: the key map backwards."""
    tensors = {}
    for key, rule in keys_clip.key_map(module).items():
        leaf = variables
        for part in rule.path:
            leaf = leaf[part]
        leaf = np.asarray(leaf if rule.layer is None else leaf[rule.layer])
        if rule.turn is keys_clip.linear:
            leaf = leaf.T
        elif rule.turn is keys_clip._patches:
            leaf = leaf.reshape(module.patch, module.patch, 3, -1).transpose(3, 2, 0, 1)
        elif rule.turn is keys_clip._cls:
            leaf = leaf[0, 0]
        elif rule.turn is keys_clip._batched:
            leaf = leaf[0]
        tensors[key] = np.array(leaf, order="C")
    return tensors


def test_convert(tiny, monkeypatch):
    module, variables = tiny
    monkeypatch.setattr(clip, "CONFIGS", {"clip_vit_base_patch32": TINY})
    tensors = reference(module, variables)
    tensors["text_model.embeddings.position_ids"] = np.arange(9)[None]
    tensors["vision_model.embeddings.position_ids"] = np.arange(5)[None]
    got = pretrained.convert("clip_vit_base_patch32", tensors)
    assert jax.tree.all(jax.tree.map(np.array_equal, got, variables))
    del tensors["logit_scale"]
    with pytest.raises(UserError, match="1 missing: logit_scale"):
        pretrained.convert("clip_vit_base_patch32", tensors)


@pytest.mark.parametrize("end", [2, END])
def test_load_clip_from_a_folder(tiny, tmp_path, monkeypatch, end):
    module, variables = tiny

    def tower(sizes):
        return dict(hidden_size=sizes.width, num_hidden_layers=sizes.layers, num_attention_heads=sizes.heads,
                    intermediate_size=sizes.ffn, hidden_act="quick_gelu")  # fmt: skip

    config = dict(
        model_type="clip",
        projection_dim=10,
        vision_config=tower(module.image) | dict(image_size=8, patch_size=4),
        text_config=tower(module.text) | dict(vocab_size=30, max_position_embeddings=9, eos_token_id=end),
    )
    (tmp_path / "config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file(reference(module, variables), tmp_path / "model.safetensors")
    monkeypatch.setattr(hub, "tokenizer", lambda folder: None)
    loaded, got, _ = encoders.load_clip(tmp_path)
    assert loaded == module.clone(end_token=None if end == 2 else end)
    assert jax.tree.all(jax.tree.map(np.array_equal, got, variables))
    with pytest.raises(UserError, match="load_clip reads it"):
        encoders.text_config(tmp_path)
    config["vision_config"]["hidden_act"] = "gelu"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="different activations"):
        encoders.load_clip(tmp_path)
