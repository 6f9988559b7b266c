"""Wav2Vec2 against transformers' torch model; random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import Wav2Vec2Config, Wav2Vec2Model

from fusionjax.models.backbones.audio import Wav2Vec2
from fusionjax.models.backbones.records import wav2vec2 as keys_wav2vec2
from fusionjax.pretrained.convert import abstract, place

# Absolute, in float32; the outputs are layer-normalised, so of size 1.
TOLERANCE = 1e-4
SMALL = dict(width=48, depth=3, heads=4, hidden=96, conv_width=32, pos_kernel=16, pos_groups=4)


def reference(**settings) -> Wav2Vec2Model:
    torch.manual_seed(0)
    model = Wav2Vec2Model(Wav2Vec2Config(**settings)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and name != "masked_spec_embed":
                centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                parameter.copy_(centre + 0.2 * torch.randn_like(parameter))
            elif "weight.original0" in name:
                parameter.mul_(torch.empty_like(parameter).uniform_(0.5, 2.0))
    return model


def small() -> Wav2Vec2Model:
    return reference(
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        conv_dim=(32,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )


def arrays(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def waves(batch: int, samples: int) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((batch, samples)).astype(np.float32)
    return (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)


def run_torch(model: Wav2Vec2Model, x: np.ndarray, **inputs) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.from_numpy(x), **inputs).last_hidden_state.numpy()


def variables_of(model: Wav2Vec2, tensors) -> dict:
    return place("small", keys_wav2vec2.key_map(model, tensors), tensors, abstract(model))


def test_small_equals_transformers():
    theirs, ours = small(), Wav2Vec2(**SMALL)
    variables = variables_of(ours, arrays(theirs))
    for samples in (16_000, 5_333, 400):
        x = waves(2, samples)
        want = run_torch(theirs, x)
        got, _ = ours.apply(variables, x)
        assert got.shape == want.shape
        assert np.abs(np.asarray(got) - want).max() < TOLERANCE


def test_gradient_equals_transformers():
    theirs, ours = small(), Wav2Vec2(**SMALL)
    variables = variables_of(ours, arrays(theirs))
    x = waves(1, 4_000)
    direction = np.random.default_rng(2).standard_normal((1, 12, 48)).astype(np.float32)
    torch_x = torch.from_numpy(x).requires_grad_()
    theirs.config.mask_time_prob = 0.0
    (theirs(torch_x).last_hidden_state * torch.from_numpy(direction)).sum().backward()
    got = jax.grad(lambda x: (ours.apply(variables, x)[0] * direction).sum())(jnp.asarray(x))
    assert np.abs(np.asarray(got) - torch_x.grad.numpy()).max() < 1e-3


def test_masked_frames_equal_transformers():
    theirs, ours = small(), Wav2Vec2(**SMALL)
    variables = variables_of(ours, arrays(theirs))
    x = waves(2, 8_000)
    masked = np.random.default_rng(3).random((2, 24)) < 0.4
    want = run_torch(theirs, x, mask_time_indices=torch.from_numpy(masked))
    got, _ = ours.apply(variables, x, masked_frames=masked)
    assert np.abs(np.asarray(got) - want).max() < TOLERANCE


def test_a_padded_batch_equals_transformers_clip_by_clip():
    """Their own padded batch differs: group norm runs over the padding too."""
    theirs, ours = small(), Wav2Vec2(**SMALL)
    variables = variables_of(ours, arrays(theirs))
    lengths, x = (7_001, 4_000, 9_600), np.zeros((3, 9_600), np.float32)
    for row, length in zip(x, lengths, strict=True):
        row[:length] = waves(1, length)[0]
    got, aux = ours.apply(variables, x, np.arange(9_600) < np.array(lengths)[:, None])
    for index, length in enumerate(lengths):
        want = run_torch(theirs, x[index : index + 1, :length])[0]
        assert int(aux["mask"][index].sum()) == len(want)
        assert np.abs(np.asarray(got)[index, : len(want)] - want).max() < TOLERANCE


def test_old_spelling_prefix_and_heads_are_accepted():
    tensors = arrays(small())
    conv = "encoder.pos_conv_embed.conv"
    old = dict(tensors)
    for index, name in ((0, "weight_g"), (1, "weight_v")):
        old[f"{conv}.{name}"] = old.pop(f"{conv}.parametrizations.weight.original{index}")
    whole = {f"wav2vec2.{key}": value for key, value in old.items()} | {"project_q.weight": np.ones((2, 2))}
    model = Wav2Vec2(**SMALL)
    want = variables_of(model, tensors)
    got = variables_of(model, keys_wav2vec2.clean(whole))
    assert jax.tree.all(jax.tree.map(np.array_equal, got, want))
