"""EfficientNet-Lite0 with its real weights on real photographs: the same answers as timm's, and sensible ones.

A sensible answer needs the right weights, the right order of channels and classes, and the normalisation that the network was
trained with (mean and deviation 0.5).
"""

import jax
import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image

from fusionjax import config, pretrained
from fusionjax.data.image.transforms import eval_transform
from fusionjax.models import create
from fusionjax.tasks.base.image_inputs import normalise

from .originals import timm

PALACE, BELL_COTE, MONASTERY, DAISY, BEE = 698, 442, 663, 985, 309


@pytest.fixture(scope="module")
def answers():
    """A function of an image's name → our probabilities and timm's, (1000,) each."""
    tensors = pretrained.read("package:efficientnet_lite0")
    reference = timm.create_model("tf_efficientnet_lite0").eval()
    # Both list the layers in the order of the forward pass.
    state = reference.state_dict()
    values = (torch.from_numpy(np.array(value)) for value in tensors.values())
    reference.load_state_dict(dict(zip(state, values, strict=True)))

    c = config.default()
    c.data.resize, c.data.image_size = 256, 224
    c.data.mean = c.data.std = (0.5, 0.5, 0.5)
    transform = eval_transform(c.data)
    module, variables = create("tf_efficientnet_lite0"), pretrained.convert("tf_efficientnet_lite0", tensors)

    @jax.jit
    def ours(variables, pixels):
        images = normalise(pixels, c.data.mean, c.data.std)
        return jax.nn.softmax(module.apply(variables, images)[0])

    def both(name):
        pixels = transform(load_sample_image(name))[None]
        # timm's side normalises by itself.
        x = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()).float().div(255).sub(0.5).div(0.5)
        with torch.inference_mode():
            want = reference(x).softmax(-1).numpy()
        return np.asarray(ours(variables, pixels))[0], want[0]

    return both


@pytest.mark.parametrize(
    ("name", "first", "among"),
    [("china.jpg", PALACE, {BELL_COTE, MONASTERY}), ("flower.jpg", DAISY, {BEE})],
)
def test_top_five_equal_timm_s_and_make_sense(answers, name, first, among):
    got, want = answers(name)
    top = got.argsort()[::-1][:5]
    assert top.tolist() == want.argsort()[::-1][:5].tolist()
    assert np.abs(got - want).max() < 1e-4
    assert top[0] == first
    assert among < set(top.tolist())
    # Not by a hair: with another normalisation the flower is a lampshade.
    assert got[first] > 2 * got[top[1]]
