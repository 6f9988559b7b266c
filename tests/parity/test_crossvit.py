"""CrossViT and its bicubic resize against timm's and torch's; random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from fusionjax import pretrained
from fusionjax.models import create
from fusionjax.models.backbones import crossvit
from fusionjax.models.backbones.records import crossvit as keys_crossvit
from fusionjax.models.resize import resize_bicubic
from fusionjax.pretrained.convert import place

from . import torchvision_stub

torchvision_stub.install()
import timm  # noqa: E402
from timm.models.crossvit import CrossVit, scale_image  # noqa: E402

# Absolute, in float32.
TOLERANCE = 1e-4


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Norms and biases that are not 1 and 0, and weights large enough for the attention to choose."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                centre, spread = (1.0, 0.2) if "norm" in name and name.endswith("weight") else (0.0, 0.1)
                parameter.normal_(centre, spread, generator=generator)
            elif parameter.ndim == 2:
                parameter.normal_(0, 1.3 * parameter.shape[1] ** -0.5, generator=generator)
            elif parameter.ndim == 3:
                parameter.normal_(0, 0.5, generator=generator)
            else:
                parameter.normal_(0, 1.5 * parameter[0].numel() ** -0.5, generator=generator)
    return model.eval()


def arrays(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def images(size: int, batch: int = 2) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((batch, size, size, 3)).astype(np.float32)


def to_torch(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


def compare(model, variables, reference, x) -> float:
    with torch.inference_mode():
        want = reference(to_torch(x)).numpy()
    got = np.asarray(jax.jit(lambda variables, x: model.apply(variables, x)[0])(variables, x))
    # The outputs differ between the images, so that agreement means something.
    assert np.abs(want[0] - want[1]).max() > 0.02
    print(f"max |ours - timm| {np.abs(got - want).max():.2e}, max |timm| {np.abs(want).max():.2f}")
    return np.abs(got - want).max()


@pytest.mark.parametrize(
    ("old", "new"),
    [((240, 240), (224, 224)), ((408, 408), (384, 384)), ((37, 50), (64, 23)), ((8, 8), (8, 24))],
)
def test_resize_equals_torch(old, new):
    x = np.random.default_rng(0).standard_normal((2, *old, 3)).astype(np.float32)
    want = torch.nn.functional.interpolate(to_torch(x), size=new, mode="bicubic", align_corners=False)
    got = resize_bicubic(jnp.asarray(x), new)
    assert got.shape == (2, *new, 3)
    assert np.abs(np.asarray(got) - want.numpy().transpose(0, 2, 3, 1)).max() < 5e-5


def test_the_authors_spelling_and_no_head():
    reference = randomise(timm.create_model("crossvit_9_240", num_classes=0))
    tensors = {
        key.replace("_0", ".0").replace("_1", ".1") if key.startswith(("pos_", "cls_")) else key: value
        for key, value in arrays(reference).items()
    }
    variables = pretrained.convert("crossvit_9_240", tensors)
    model = create("crossvit_9_240", num_classes=0)
    assert compare(model, variables, reference, images(240)) < TOLERANCE


class ThreeBranches(CrossVit):
    """timm's, but for the two names of tokens and positions that its `_embed` hard-codes."""

    def _embed(self, x):
        xs = []
        for i, embed in enumerate(self.patch_embed):
            y = embed(scale_image(x, self.img_size_scaled[i]))
            cls = getattr(self, f"cls_token_{i}").expand(len(x), -1, -1)
            xs.append(torch.cat((cls, y), 1) + getattr(self, f"pos_embed_{i}"))
        return xs


def test_three_branches_equal_timm():
    settings = dict(
        patch_size=(8, 12, 16),
        embed_dim=(16, 24, 32),
        depth=((1, 2, 3, 0), (2, 1, 1, 1)),
        num_heads=(2, 3, 4),
        mlp_ratio=(2, 3, 4, 1),
        num_classes=7,
        qkv_bias=False,
    )
    reference = randomise(ThreeBranches(img_size=48, img_scale=(1.0, 0.75, 2 / 3), **settings))
    model = crossvit.CrossViT(img_size=(48, 36, 32), **settings)
    rules = keys_crossvit.key_map(model, {})
    x = images(48)
    template = jax.eval_shape(model.init, jax.random.key(0), x)
    variables = place("three branches", rules, arrays(reference), template)
    assert compare(model, variables, reference, x) < TOLERANCE
