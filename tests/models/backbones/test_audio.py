"""Wav2Vec2: sizes, frames, padding, and what it refuses. Parity with transformers is in tests/parity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.errors import UserError
from fusionjax.models import create, names
from fusionjax.models.backbones.audio import Wav2Vec2, conv1d, num_frames

SMALL = dict(
    width=16,
    depth=2,
    heads=2,
    hidden=32,
    conv_width=8,
    pos_kernel=6,
    pos_groups=4,
    kernels=(10, 3, 2),
    strides=(5, 8, 8),
)


def waves(rng, *lengths):
    """Normalised clips, padded with large numbers to the longest; and their mask."""
    x = np.full((len(lengths), max(lengths)), 1e3, np.float32)
    for row, length in zip(x, lengths, strict=True):
        clip = rng.normal(size=length)
        row[:length] = (clip - clip.mean()) / clip.std()
    return x, np.arange(max(lengths)) < np.array(lengths)[:, None]


def started(**fields):
    """A small model and random variables."""
    model = Wav2Vec2(**{**SMALL, **fields})
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 800), np.float32))
    rng = np.random.default_rng(1)
    return model, jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.4, leaf.dtype), shapes
    )


def run(model, variables, *inputs, **settings):
    """Compiled: op by op takes ten times as long."""
    return jax.jit(functools.partial(model.apply, **settings))(variables, *inputs)


def test_base_has_the_published_size_and_frames():
    assert "wav2vec2_base" in names()
    model = create("wav2vec2_base")
    audio = jax.ShapeDtypeStruct((2, 16_000), jnp.float32)
    (out, aux), variables = jax.eval_shape(model.init_with_output, jax.random.key(0), audio)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 94_371_712
    assert out.shape == (2, 49, 768) and aux["mask"].shape == (2, 49)
    assert num_frames(16_000, model.kernels, model.strides) == 49
    assert [num_frames(n, model.kernels, model.strides) for n in (0, 399, 400, 719, 720)] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize(("size", "stride", "length"), [(10, 5, 103), (3, 2, 8), (3, 2, 9), (2, 2, 7)])
def test_convolution_equals_its_sum(rng, size, stride, length):
    x = rng.normal(size=(2, length, 3)).astype(np.float32)
    kernel = rng.normal(size=(size, 3, 4)).astype(np.float32)
    frames = num_frames(length, (size,), (stride,))
    want = [np.einsum("bkc,kcd->bd", x[:, t * stride : t * stride + size], kernel) for t in range(frames)]
    got = conv1d(x, kernel, stride)
    assert got.shape == (2, frames, 4)
    np.testing.assert_allclose(got, np.stack(want, 1), atol=1e-5)


@pytest.mark.parametrize("output", ["tokens", "pooled"])
def test_a_padded_batch_equals_the_clips_alone(rng, output):
    model, variables = started(output=output)
    compiled = jax.jit(model.apply)
    lengths = (1_537, 3_000, 400)
    x, mask = waves(rng, *lengths)
    got, aux = compiled(variables, x, mask)
    for index, length in enumerate(lengths):
        alone, _ = compiled(variables, x[index : index + 1, :length])
        frames = num_frames(length, model.kernels, model.strides)
        assert int(aux["mask"][index].sum()) == frames
        part = got[index, :frames] if output == "tokens" else got[index]
        np.testing.assert_allclose(part, alone[0], atol=2e-5)
        if output == "tokens":
            assert not np.asarray(got[index, frames:]).any(), "padding is 0"
    # What the padding holds does not move the output by one bit.
    again, _ = compiled(variables, np.where(mask, x, np.nan), mask)
    assert np.array_equal(again, got)


def test_a_clip_without_a_frame_is_zero_and_finite(rng):
    model, variables = started(output="pooled")
    x, mask = waves(rng, 900, 2_000)
    mask[0, 9:] = False
    out, aux = run(model, variables, x, mask)
    assert not aux["mask"][0].any() and not np.asarray(out[0]).any() and np.isfinite(out).all()


def test_jit_equals_eager_and_every_parameter_matters(rng):
    model, variables = started(output="pooled", depth=1)
    x, mask = waves(rng, 2_000, 1_500)
    masked = np.arange(num_frames(2_000, model.kernels, model.strides)) == 2
    masked = np.stack([masked, masked])

    def loss(params):
        out, _ = model.apply({"params": params}, x, mask, masked_frames=masked)
        return (out * jnp.arange(32.0).reshape(2, 16)).sum()

    np.testing.assert_allclose(jax.jit(loss)(variables["params"]), loss(variables["params"]), rtol=1e-4)
    gradients = jax.jit(jax.grad(loss))(variables["params"])
    for path, leaf in jax.tree.leaves_with_path(gradients):
        text = jax.tree_util.keystr(path)
        assert np.isfinite(leaf).all(), text
        if text != "['layers']['k']['bias']":  # cancels in the softmax
            assert np.abs(leaf).max() > 0, text
    frozen = model.clone(freeze_extractor=True)
    gradients = jax.jit(jax.grad(lambda p: frozen.apply({"params": p}, x, mask)[0].sum()))(
        variables["params"]
    )
    assert not np.asarray(gradients["conv_0"]).any() and np.asarray(gradients["feature_proj"]["kernel"]).any()


def test_capture_and_training(rng):
    model, variables = started(dropout=0.1, remat=True)
    x, mask = waves(rng, 2_000, 1_500)
    want, _ = run(model, variables, x, mask)
    got, aux = run(model, variables, x, mask, capture=("attention", "hidden"))
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert aux["attention"].shape == (2, 2, 2, 7, 7) and aux["hidden"].shape == (2, 2, 7, 16)
    np.testing.assert_allclose(aux["attention"].sum(-1), 1, rtol=1e-5)
    assert not np.asarray(aux["attention"])[:, 1, :, :, 5:].any(), "padding gets no attention"
    runs = [
        run(model, variables, x, mask, train=True, rngs={"dropout": jax.random.key(s)})[0] for s in (0, 0, 1)
    ]
    assert np.array_equal(runs[0], runs[1]) and not np.array_equal(runs[0], runs[2])


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="kernels has 2 entries and strides has 7"):
        Wav2Vec2(kernels=(10, 3))
    with pytest.raises(UserError, match="heads=3 must divide width=16"):
        Wav2Vec2(**{**SMALL, "heads": 3})
    with pytest.raises(UserError, match="'mean' is not one of tokens, pooled"):
        Wav2Vec2(output="mean")
    model, variables = started()
    with pytest.raises(ValueError, match="9 samples are too few"):
        model.apply(variables, np.zeros((1, 9), np.float32))
    with pytest.raises(UserError, match="'maps' is not one of"):
        model.apply(variables, np.zeros((1, 800), np.float32), capture=("maps",))
