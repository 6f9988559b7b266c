"""The convolutional trunks against timm's at odd sizes, Lite0's real weights, and the readers' and mergers' details."""

import jax
import numpy as np
import pytest
import torch

from fusionjax import pretrained
from fusionjax.models.backbones import efficientnet, resnet
from fusionjax.pretrained.positions import resample_pos_embed

from .originals import arrays, images, randomise, timm

# Absolute, in float32.
TOLERANCE = 1e-4


def run_torch(function, x: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return function(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()


def run(module, variables, x: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(lambda variables, x: module.apply(variables, x)[0])(variables, x))


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


# 97 and 75 px give odd maps, where the two padding rules part.
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet50", 97),
        ("efficientnet_b0", 97),
        ("tf_efficientnet_b0", 97),
        ("tf_efficientnet_b0", 75),
    ],
)
def test_logits_equal_timm(name, size):
    reference = timm.create_model(name, num_classes=37)
    randomise(reference, size)
    variables = pretrained.convert(name, arrays(reference))
    family = resnet if name in resnet.NAMES else efficientnet
    x = images(size)
    want = run_torch(reference, x)
    # The outputs differ between the images, so that agreement means something.
    assert np.abs(want[0] - want[1]).max() > 0.05
    got = run(family.build(name, num_classes=37), variables, x)
    assert np.abs(got - want).max() < TOLERANCE
    assert count(variables["params"]) == sum(p.numel() for p in reference.parameters())


def test_lite0_with_its_real_weights_equals_timm():
    tensors = pretrained.read("package:efficientnet_lite0")
    reference = timm.create_model("tf_efficientnet_lite0")
    # Both list the layers in the order of the forward pass.
    state = reference.state_dict()
    assert [value.shape for value in tensors.values()] == [tuple(value.shape) for value in state.values()]
    values = (torch.from_numpy(np.array(value)) for value in tensors.values())
    reference.load_state_dict(dict(zip(state, values, strict=True)))
    reference.eval()
    x = images(128)
    want = run_torch(reference, x)
    model = efficientnet.build("tf_efficientnet_lite0")
    packaged = pretrained.convert("tf_efficientnet_lite0", tensors)
    assert np.abs(run(model, packaged, x) - want).max() < TOLERANCE
    # timm's names of the same tensors lead to the same variables.
    named = pretrained.convert("tf_efficientnet_lite0", arrays(reference))
    assert jax.tree.all(jax.tree.map(np.array_equal, packaged, named))


def test_reader_equals_torch_on_the_real_file():
    from fusionjax.pretrained.files import package_file

    want = torch.load(package_file("efficientnet_lite0"), weights_only=True)
    got = pretrained.read("package:efficientnet_lite0")
    assert list(got) == list(want)
    assert all(np.array_equal(got[name], want[name].numpy()) for name in want)


@pytest.mark.parametrize("zipped", [True, False])
def test_reader_equals_torch_on_every_kind_of_tensor(tmp_path, zipped):
    torch.manual_seed(0)
    base = torch.arange(60, dtype=torch.float32)
    parameter = torch.nn.Parameter(torch.randn(3, 4))
    tensors = {
        "view": base[10:34].reshape(4, 6).t(),
        "shared": base[::3],
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "parameter": parameter,
        **{
            str(dtype): torch.randn(5).mul(10).to(dtype)
            for dtype in (torch.float16, torch.float64, torch.int32, torch.int16, torch.int8, torch.bool)
        },
        "bfloat16": torch.randn(3, 3).bfloat16(),
    }
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": tensors, "epoch": 3}, path, _use_new_zipfile_serialization=zipped)
    got = pretrained.read(path)
    assert set(got) == set(tensors)
    for name, want in tensors.items():
        assert str(got[name].dtype) == str(want.dtype).removeprefix("torch.")
        assert np.array_equal(got[name].astype(np.float64), want.detach().double().numpy()), name


@pytest.mark.parametrize(
    ("old", "new"), [((14, 14), (24, 24)), ((24, 24), (14, 14)), ((14, 14), (16, 8)), ((7, 9), (21, 5))]
)
def test_positions_equal_torch(old, new):
    pos = np.random.default_rng(0).standard_normal((1, 1 + old[0] * old[1], 6)).astype(np.float32)
    got = resample_pos_embed(pos, new, old_grid=old)
    want = timm.layers.resample_abs_pos_embed(torch.from_numpy(pos), list(new), list(old)).numpy()
    assert got.shape == want.shape
    assert np.abs(got - want).max() < 1e-5


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_input_channels_equal_timm(channels):
    from timm.models import adapt_input_conv

    from fusionjax.pretrained.merge import merge

    kernel = np.random.default_rng(0).standard_normal((3, 3, 3, 8)).astype(np.float32)
    got = merge(
        {"params": {"stem": {"kernel": np.zeros((3, 3, channels, 8), np.float32)}}},
        {"params": {"stem": {"kernel": kernel}}},
    )["params"]["stem"]["kernel"]
    want = adapt_input_conv(channels, torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())).numpy()
    assert np.abs(got - want.transpose(2, 3, 1, 0)).max() < 1e-6
