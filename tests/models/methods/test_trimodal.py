"""Image, audio and text together: the equations, what is missing, what is padding, what is hidden in training."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.errors import UserError
from fusionjax.models.backbones.mel import MelEncoder
from fusionjax.models.methods import trimodal
from fusionjax.models.methods.trimodal import MODALITIES, PAIRINGS, TrimodalClassifier
from tests.models.methods.test_cross_attention import draw
from tests.support import trimodal_oracle

WIDTHS = {"image": 10, "audio": 6, "text": 8}
LENGTHS = {"image": (4, 4, 4), "audio": (5, 2, 3), "text": (1, 6, 4)}
FILLINGS = (0.0, 1e30, np.nan, np.inf)


def model(**fields):
    return TrimodalClassifier(**{**dict(num_classes=4, width=8, heads=2, hidden=12, dropout=0.0), **fields})


@functools.partial(jax.jit, static_argnums=0, static_argnames=("capture", "train"))
def run(module, variables, *inputs, capture=(), train=False, key=None):
    """Compiled once a module and shape, for all tests."""
    rngs = {} if key is None else {"dropout": key}
    return module.apply(variables, *inputs, capture=capture, train=train, rngs=rngs)


@pytest.fixture
def inputs(rng):
    """Tokens and masks of three examples of unequal lengths."""
    tokens = {m: rng.normal(size=(3, max(n), WIDTHS[m])).astype(np.float32) for m, n in LENGTHS.items()}
    masks = {m: np.arange(max(n)) < np.array(n)[:, None] for m, n in LENGTHS.items()}
    return tokens, masks


def variables_of(module, tokens, masks):
    return draw(jax.eval_shape(lambda: module.init(jax.random.key(0), tokens, masks)))


def filled(tokens, masks, value):
    return {m: np.where(masks[m][..., None], x, np.float32(value)) for m, x in tokens.items()}


SELECTIONS = [
    (MODALITIES, trimodal.DEFAULT),
    (MODALITIES, PAIRINGS),
    (MODALITIES, ()),
    (("image", "audio"), ("image_from_audio", "audio_from_image")),
    (("text",), ()),
]


@pytest.mark.parametrize(("modalities", "pairings"), SELECTIONS)
def test_equals_its_equations(inputs, modalities, pairings):
    tokens, masks = inputs
    module = model(modalities=modalities, pairings=pairings)
    variables = variables_of(module, tokens, masks)
    assert {name for name in variables["params"] if "_from_" in name} == set(pairings)
    lacks = {"audio": np.array([1, 0, 1]), "text": np.array([1, 1, 0])}
    logits, aux = run(module, variables, tokens, masks, lacks, capture=("attention",))
    for i in range(3):
        own = {m: tokens[m][i][masks[m][i]] if lacks.get(m, np.ones(3))[i] else None for m in modalities}
        want, features, maps = trimodal_oracle.classify(
            variables["params"], own, modalities=modalities, pairings=pairings, heads=2
        )
        np.testing.assert_allclose(logits[i], want, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(aux["features"][i], features, atol=1e-4)
        for pairing in pairings:
            got = np.asarray(aux["attention"][pairing][i])
            if pairing in maps:
                n, m = maps[pairing].shape[1:]
                np.testing.assert_allclose(got[:, :n, :m], maps[pairing], atol=1e-5)
                assert not got[:, n:].any() and not got[:, :, m:].any(), "padding neither reads nor is read"
            else:
                assert not got.any(), "what is missing neither reads nor is read"


@pytest.mark.parametrize("missing", [m for n in (1, 2, 3) for m in itertools.combinations(MODALITIES, n)])
@pytest.mark.parametrize("train", [False, True])
def test_a_missing_modality_is_a_masked_one_to_the_bit(inputs, missing, train):
    tokens, masks = inputs
    module = model(pairings=PAIRINGS, dropout=0.2, modality_dropout=0.3)
    variables, key = variables_of(module, tokens, masks), jax.random.key(1) if train else None
    absent = {m: np.zeros(3) if m in missing else np.ones(3) for m in MODALITIES}
    masked = {m: masks[m] & (m not in missing) for m in MODALITIES}
    want, seen = run(module, variables, tokens, masked, train=train, key=key)
    assert np.isfinite(want).all()
    for value in FILLINGS:
        other = filled(tokens, masked, value)
        for given in ((other, masks, absent), (other, masked, absent), (other, masked, None)):
            logits, aux = run(module, variables, *given, train=train, key=key)
            np.testing.assert_array_equal(logits, want)
            np.testing.assert_array_equal(aux["features"], seen["features"])


def test_what_stands_in_the_padding_moves_no_bit_and_what_counts_does(inputs):
    tokens, masks = inputs
    module = model(pairings=PAIRINGS)
    variables = variables_of(module, tokens, masks)
    want, _ = run(module, variables, tokens, masks)
    for value in FILLINGS:
        np.testing.assert_array_equal(run(module, variables, filled(tokens, masks, value), masks)[0], want)
    for m in MODALITIES:
        other = {**tokens, m: tokens[m].copy()}
        other[m][1, 0, 0] += 1
        moved = np.abs(run(module, variables, other, masks)[0] - want).max(1) > 1e-5
        np.testing.assert_array_equal(moved, [False, True, False])


def test_modality_dropout_hides_some_and_never_all(inputs):
    tokens, masks = inputs
    big = {m: np.repeat(x[:1], 6000, 0) for m, x in tokens.items()}
    some = {m: np.repeat(x[:1], 6000, 0) for m, x in masks.items()}
    lacks = {"text": np.arange(6000) % 2}
    module = model(modality_dropout=0.5)
    variables = variables_of(module, tokens, masks)
    _, aux = run(module, variables, big, some, lacks, train=True, key=jax.random.key(0))
    ends = np.cumsum([WIDTHS[m] for m in MODALITIES])[:-1]
    kept = np.stack([part.any(1) for part in np.split(np.asarray(aux["features"]), ends, axis=1)], 1)
    assert kept.any(1).all()
    assert not kept[::2, 2].any()
    # P(kept) = ½ + ¼·P(all others hidden) of three: ½ + (½)³/3; of two: ½ + (½)²/2.
    np.testing.assert_allclose(kept[1::2].mean(0), 0.5 + 0.125 / 3, atol=0.03)
    np.testing.assert_allclose(kept[::2, :2].mean(0), 0.5 + 0.25 / 2, atol=0.03)
    _, again = run(module, variables, big, some, lacks)
    assert (np.asarray(again["features"]).any(1)).all(), "nothing is hidden at test"


def test_a_gradient_reaches_every_parameter_and_all_are_finite(inputs):
    tokens, masks = inputs
    module = model(pairings=PAIRINGS)
    variables = variables_of(module, tokens, masks)
    lacks = {m: np.arange(3) != i for i, m in enumerate(MODALITIES)}
    grads = jax.grad(lambda v: (run(module, v, filled(tokens, masks, np.nan), masks, lacks)[0] ** 2).sum())(
        variables
    )
    for path, leaf in jax.tree.leaves_with_path(grads):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0 or "key" in str(path), path


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_is_refused(inputs):
    for fields, words in (
        (
            {"modalities": ("image", "smell")},
            "modalities contains 'smell', which is not one of image, audio, text",
        ),
        ({"modalities": ()}, "modalities is empty"),
        ({"modalities": ("image", "image")}, "contains a duplicate"),
        ({"pairings": ("image_from_image",)}, "pairings contains 'image_from_image', which is not one of"),
        ({"modalities": ("image", "text")}, "image_from_audio needs audio"),
        ({"heads": 3}, "heads=3 must divide width=8"),
        ({"modality_dropout": 1.0}, r"must be in \[0, 1\)"),
    ):
        with pytest.raises(UserError, match=words):
            model(**fields)
    tokens, masks = inputs
    with pytest.raises(ValueError, match="the mask of audio"):
        model().init(jax.random.key(0), tokens, {**masks, "audio": masks["audio"][:, 1:]})


# -- the encoder of log-mel frames ------------------------------------------------------------------------------------


def encoder(**fields):
    return MelEncoder(**{**dict(width=8, depth=2, heads=2, channels=(3, 4)), **fields})


def test_a_padded_batch_of_log_mels_equals_the_clips_alone(rng):
    module, lengths = encoder(), (17, 30, 1)
    mel = rng.normal(-3, 2, (3, 30, 12)).astype(np.float32)
    mask = np.arange(30) < np.array(lengths)[:, None]
    variables = draw(jax.eval_shape(lambda: module.init(jax.random.key(0), mel, mask)))
    apply = jax.jit(module.apply)
    got, aux = apply(variables, mel, mask)
    assert got.shape == (3, 8, 8)
    for i, length in enumerate(lengths):
        alone, own = apply(variables, mel[i : i + 1, :length])
        frames = -(-length // 4)
        assert alone.shape == (1, frames, 8) and own["mask"].all()
        np.testing.assert_array_equal(aux["mask"][i], np.arange(8) < frames)
        np.testing.assert_allclose(got[i, :frames], alone[0], atol=1e-5)
        assert not np.asarray(got[i, frames:]).any(), "padding is 0"
    for value in FILLINGS:
        again, _ = apply(variables, np.where(mask[..., None], mel, np.float32(value)), mask)
        np.testing.assert_array_equal(again, got)
    nothing, aux = apply(variables, mel, mask & False)
    assert not np.asarray(nothing).any() and not aux["mask"].any()


def test_the_mel_encoder_trains_and_refuses(rng):
    module = encoder(dropout=0.3)
    mel, mask = jnp.asarray(rng.normal(size=(2, 9, 12)), jnp.float32), np.arange(9) < np.array([[9], [5]])
    variables = draw(jax.eval_shape(lambda: module.init(jax.random.key(0), mel, mask)))

    @jax.jit
    def loss(params, key):
        out, _ = module.apply({"params": params}, mel, mask, train=True, rngs={"dropout": key})
        return (out * jnp.arange(8.0)).sum()

    values = [loss(variables["params"], jax.random.key(s)) for s in (0, 0, 1)]
    assert values[0] == values[1] != values[2]
    for path, leaf in jax.tree.leaves_with_path(jax.grad(loss)(variables["params"], jax.random.key(0))):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path
    for fields in ({"heads": 3}, {"width": 7, "heads": 1}):
        with pytest.raises(UserError, match="must divide width"):
            encoder(**fields)
