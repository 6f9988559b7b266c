"""Cross-attention layers and the bilinear head against torch's own modules: outputs, maps and input gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from fusionjax.models.methods import fusion_heads, token_blocks
from fusionjax.models.methods.cross_attention import BidirectionalStack, CrossAttention

# Absolute, in float32.
TOLERANCE = 1e-5
GRADIENT = 1e-4
WIDTH, HEADS, DEPTH = 48, 4, 2
MASK = np.arange(11) < np.array([11, 6, 1])[:, None]


class Update(nn.Module):
    """x ← LN(x + MHA(x, other, other)), x ← x + FFN(x)."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.norm = nn.LayerNorm(WIDTH)
        self.ffn = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x, other, padding=None):
        out, weights = self.attention(
            x, other, other, key_padding_mask=padding, average_attn_weights=False, need_weights=True
        )
        x = self.norm(x + out)
        return x + self.ffn(x), weights


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.text = Update(), Update()

    def forward(self, v, t, padding):
        v, to_text = self.image(v, t, padding)
        t, to_image = self.text(t, v)
        return v, t, to_text, to_image


def randomise(model):
    """Weights of full size: at torch's initial ones attention is nearly uniform and hides mistakes."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.1 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
            parameter.normal_(0, scale, generator=generator)
            if "norm.weight" in name:
                parameter.add_(1)
    return model.eval()


def array(tensor):
    return tensor.detach().numpy()


def linear(weight, bias):
    return {"kernel": array(weight).T, "bias": array(bias)}


def attention(module):
    if module.in_proj_weight is None:
        weights = module.q_proj_weight, module.k_proj_weight, module.v_proj_weight
    else:
        weights = module.in_proj_weight.chunk(3)
    parts = zip(("query", "key", "value"), weights, module.in_proj_bias.chunk(3), strict=True)
    return {name: linear(w, b) for name, w, b in parts} | {
        "out": linear(module.out_proj.weight, module.out_proj.bias)
    }


def update(module):
    return {
        "attention": attention(module.attention),
        "norm": {"scale": array(module.norm.weight), "bias": array(module.norm.bias)},
        "ffn": {f"fc{i}": linear(module.ffn[j].weight, module.ffn[j].bias) for i, j in ((1, 0), (2, 2))},
    }


def tokens(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def torch_gradients(value, *inputs):
    value.backward()
    return [x.grad.numpy() for x in inputs]


@pytest.mark.parametrize("masked", [False, True])
def test_cross_attention_with_widths_of_its_own(masked):
    reference = randomise(nn.MultiheadAttention(WIDTH, HEADS, kdim=20, vdim=36, batch_first=True))
    arrays = tokens((3, 7, WIDTH), 0), tokens((3, 11, 20), 1), tokens((3, 11, 36), 2)
    mask = MASK if masked else None
    inputs = [torch.from_numpy(x).requires_grad_() for x in arrays]
    out, weights = reference(
        *inputs, key_padding_mask=torch.from_numpy(~MASK) if masked else None, average_attn_weights=False
    )
    module = CrossAttention(WIDTH, HEADS)

    def value(*inputs):
        out, aux = module.apply({"params": attention(reference)}, *inputs, mask, capture=("attention",))
        return jnp.sin(out).sum(), (out, aux["attention"])

    grads, (ours, maps) = jax.jit(jax.grad(value, argnums=(0, 1, 2), has_aux=True))(*arrays)
    np.testing.assert_allclose(ours, array(out), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(maps, array(weights), rtol=0, atol=TOLERANCE)
    for one, two in zip(grads, torch_gradients(out.sin().sum(), *inputs), strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=GRADIENT)


@pytest.mark.parametrize("block", [0, 4])
def test_bidirectional_layers(block):
    reference = nn.ModuleList(randomise(Layer()) for _ in range(DEPTH))
    for parameter in reference[1].parameters():
        with torch.no_grad():
            parameter.mul_(0.7)
    image, text = tokens((3, 9, WIDTH), 0), tokens((3, 11, WIDTH), 1)
    inputs = [torch.from_numpy(x).requires_grad_() for x in (image, text)]
    v, t = inputs
    maps = [], []
    for layer in reference:
        v, t, *seen = layer(v, t, torch.from_numpy(~MASK))
        for kept, one in zip(maps, seen, strict=True):
            kept.append(array(one))
    counted = t[torch.from_numpy(MASK)]
    layers = [{"image": update(layer.image), "text": update(layer.text)} for layer in reference]
    variables = {"params": {"layers": jax.tree.map(lambda *x: np.stack(x), *layers)}}
    module = BidirectionalStack(WIDTH, HEADS, DEPTH)

    def value(image, text):
        blocks = token_blocks.split(text, MASK, block)
        v, t, seen = module.apply(
            variables, image, blocks, train=False, capture=("image_to_text", "text_to_image")
        )
        joined = t.tokens.swapaxes(0, 1).reshape(3, -1, WIDTH)[:, :11]
        return jnp.sin(v).sum() + jnp.where(MASK[..., None], jnp.sin(joined), 0).sum(), (v, joined, seen)

    grads, (ours, joined, seen) = jax.jit(jax.grad(value, argnums=(0, 1), has_aux=True))(image, text)
    np.testing.assert_allclose(ours, array(v), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(joined[MASK], array(counted), rtol=0, atol=TOLERANCE)
    for index in range(DEPTH):
        to_text = token_blocks.join_maps(seen["image_to_text"][index], 11, 3)
        to_image = token_blocks.join_maps(seen["text_to_image"][index], 11, 2)
        np.testing.assert_allclose(to_text, maps[0][index], rtol=0, atol=TOLERANCE)
        counts = np.broadcast_to(MASK[:, None, :, None], to_image.shape)
        np.testing.assert_allclose(to_image[counts], maps[1][index][counts], rtol=0, atol=TOLERANCE)
    expected = torch_gradients(v.sin().sum() + counted.sin().sum(), *inputs)
    np.testing.assert_allclose(grads[0], expected[0], rtol=0, atol=GRADIENT)
    # torch's padded texts still reach the sum through their own rows, which `counted` leaves out: both are 0 there.
    np.testing.assert_allclose(grads[1], expected[1], rtol=0, atol=GRADIENT)


def test_bilinear_head():
    reference, norm = randomise(nn.Bilinear(WIDTH, WIDTH, WIDTH)), nn.LayerNorm(WIDTH)
    with torch.no_grad():
        reference.weight.mul_(WIDTH**-0.5)
    arrays = tokens((3, WIDTH), 0), tokens((3, WIDTH), 1)
    inputs = [torch.from_numpy(x).requires_grad_() for x in arrays]
    form = reference(*inputs)
    out = norm(inputs[0] + inputs[1] + form)
    kernel = array(reference.weight)
    ours = fusion_heads.bilinear(*(jnp.asarray(x) for x in arrays), jnp.asarray(kernel), chunk=20)
    np.testing.assert_allclose(ours + array(reference.bias), array(form), rtol=0, atol=TOLERANCE)
    head = fusion_heads.create("bilinear", WIDTH, options={"chunk": 20})
    params = {
        "kernel": kernel,
        "bias": array(reference.bias),
        "norm": {"scale": array(norm.weight), "bias": array(norm.bias)},
    }

    def value(v, t):
        fused, _ = head.apply({"params": params}, v, t, None, None, train=False)
        return jnp.sin(fused).sum(), fused

    grads, fused = jax.jit(jax.grad(value, argnums=(0, 1), has_aux=True))(*arrays)
    np.testing.assert_allclose(fused, array(out), rtol=0, atol=TOLERANCE)
    for one, two in zip(grads, torch_gradients(out.sin().sum(), *inputs), strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=GRADIENT)
