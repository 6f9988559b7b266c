"""The convolutional trunks against timm's: random weights and statistics, and Lite0's real weights."""

import jax
import numpy as np
import pytest
import torch

from fusionjax import pretrained
from fusionjax.models import efficientnet, resnet
from fusionjax.pretrained.positions import resample_pos_embed

from . import torchvision_stub

torchvision_stub.install()
import timm  # noqa: E402

# Absolute, in float32.
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def seed():
    """timm draws its initial weights from torch's global generator."""
    torch.manual_seed(0)


def randomise(model: torch.nn.Module, size: int = 64, seed: int = 0) -> None:
    """Random norms, and statistics near those of random images: trivial ones would let the signal die."""
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in model.modules() if getattr(module, "running_mean", None) is not None]
    with torch.no_grad():
        for module in model.modules():
            if getattr(module, "weight", None) is not None and module.weight.ndim == 1:
                module.weight.uniform_(0.7, 1.3, generator=generator)
                module.bias.normal_(0, 0.2, generator=generator)
        if norms:
            for norm in norms:
                norm.momentum = 1.0
            model.train()
            model(torch.randn((8, 3, size, size), generator=generator))
        for norm in norms:
            # A channel that hardly varied in calibration would amplify rounding without limit.
            norm.running_var.clamp_(min=0.5 * norm.running_var.mean().item())
            norm.running_mean.add_(torch.empty_like(norm.running_mean).normal_(0, 0.1, generator=generator))
            norm.running_var.mul_(torch.empty_like(norm.running_var).uniform_(0.7, 1.4, generator=generator))
    model.eval()


def arrays(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def images(size: int, batch: int = 2) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((batch, size, size, 3)).astype(np.float32)


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


@pytest.mark.parametrize(
    ("name", "size"), [("efficientnet_b1", 97), ("tf_efficientnet_b0", 75), ("tf_efficientnet_b3", 97)]
)
def test_logits_err_as_little_as_timm_s(name, size):
    """Random networks can amplify rounding: the error against float64 is held to that of torch's own float32."""
    reference = timm.create_model(name, num_classes=37)
    randomise(reference, size)
    variables = pretrained.convert(name, arrays(reference))
    x = images(size)
    single = run_torch(reference, x)
    got = run(efficientnet.build(name, num_classes=37), variables, x)
    with torch.inference_mode():
        exact = reference.double()(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).double()).numpy()
    assert np.abs(got - exact).max() < 3 * np.abs(single - exact).max() + 1e-6
    # And rounding is small beside what the network says.
    assert np.abs(single - exact).max() < 1e-3 * np.abs(exact).max()


@pytest.mark.parametrize("name", ["resnet101", *(f"efficientnet_b{digit}" for digit in "12345")])
def test_parameter_counts_equal_timm(name):
    with torch.device("meta"):
        reference = timm.create_model(name)
    family = resnet if name in resnet.NAMES else efficientnet
    shapes = jax.eval_shape(family.build(name).init, jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32))
    assert count(shapes["params"]) == sum(p.numel() for p in reference.parameters())


def test_hybrid_trunk_equals_timm():
    backbone = timm.create_model("vit_base_r50_s16_224", depth=1).patch_embed.backbone
    randomise(backbone)
    # Residual branches of full size grow along the shortcuts until torch's own float32 errs by 4e-4.
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "norm3.weight" in name:
                parameter.mul_(0.25)
    variables = pretrained.convert("resnetv2_50_s16", arrays(backbone))
    # 72 px: SAME and symmetric padding differ at every strided convolution.
    x = images(72)
    want = run_torch(backbone, x).transpose(0, 2, 3, 1)
    got = run(resnet.build("resnetv2_50_s16", output="tokens"), variables, x)
    assert got.shape == want.shape == (2, 5, 5, 1024)
    assert np.abs(got - want).max() < TOLERANCE
    assert count(variables["params"]) == sum(p.numel() for p in backbone.parameters())


@pytest.mark.parametrize("size", [128, 224])
def test_lite0_with_its_real_weights_equals_timm(size):
    tensors = pretrained.read("package:efficientnet_lite0")
    reference = timm.create_model("tf_efficientnet_lite0")
    # Both list the layers in the order of the forward pass.
    state = reference.state_dict()
    assert [value.shape for value in tensors.values()] == [tuple(value.shape) for value in state.values()]
    values = (torch.from_numpy(np.array(value)) for value in tensors.values())
    reference.load_state_dict(dict(zip(state, values, strict=True)))
    reference.eval()
    x = images(size)
    want = run_torch(reference, x)
    model = efficientnet.build("efficientnet_lite0")
    packaged = pretrained.convert("efficientnet_lite0", tensors)
    assert np.abs(run(model, packaged, x) - want).max() < TOLERANCE
    # timm's names of the same tensors lead to the same variables.
    named = pretrained.convert("efficientnet_lite0", arrays(reference))
    assert jax.tree.all(jax.tree.map(np.array_equal, packaged, named))


def test_reader_equals_torch_on_the_real_file():
    from fusionjax.pretrained.files import package_file

    want = torch.load(package_file("efficientnet_lite0"), weights_only=True)
    got = pretrained.read("package:efficientnet_lite0")
    assert list(got) == list(want)
    assert all(np.array_equal(got[name], want[name].numpy()) for name in want)


@pytest.mark.parametrize("zipped", [True, False])
def test_reader_equals_torch_on_every_kind_of_tensor(tmp_path, zipped):
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


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_patch16_224"])
def test_vit_logits_equal_timm(name):
    from fusionjax.models import create

    reference = timm.create_model(name, num_classes=11)
    randomise(reference)
    variables = pretrained.convert(name, arrays(reference))
    x = images(224)
    got = run(create(name, num_classes=11), variables, x)
    assert np.abs(got - run_torch(reference, x)).max() < TOLERANCE


def test_hybrid_vit_logits_equal_timm():
    from fusionjax.models import create

    reference = timm.create_model("vit_base_r50_s16_224", num_classes=11)
    randomise(reference)
    variables = pretrained.convert("vit_base_r50_s16_224", arrays(reference))
    x = images(224)
    got = run(create("vit_base_r50_s16_224", num_classes=11), variables, x)
    want = run_torch(reference, x)
    assert np.abs(got - want).max() < TOLERANCE
