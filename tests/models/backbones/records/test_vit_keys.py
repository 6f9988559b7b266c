"""Names of weights of the ViT family: those of DINOv2's authors give what timm's give."""

import jax
import numpy as np
import pytest

from fusionjax import models
from fusionjax.models.backbones.records import vit_keys
from fusionjax.models.backbones.vit import ViT
from fusionjax.pretrained.convert import abstract, place

FIELDS = dict(image_size=28, patch=14, width=16, depth=2, heads=2, num_classes=0, layer_scale=1.0)


def model(**fields):
    return ViT(**FIELDS, **fields)


def of_timm(module, rng, classless):
    """Random tensors under timm's names; with registers timm's table of positions has no row of CLS."""
    rules, shapes = vit_keys.key_map(module), abstract(module)["params"]
    found = {}
    for name, rule in rules.items():
        leaf = shapes
        for part in rule.path[1:]:
            leaf = leaf.get(part) if leaf is not None else None
        if leaf is None:
            continue
        shape = leaf.shape[1:] if rule.layer is not None else leaf.shape
        shape = {2: shape[::-1], 4: (shape[-1], *shape[2::-1])}.get(len(shape), shape)
        found[name] = rng.normal(size=shape).astype(np.float32)
    if classless:
        found["pos_embed"] = found["pos_embed"][:, 1:]
    return found


def converted(module, tensors):
    cleaned = vit_keys.clean(tensors)
    return place("tiny", vit_keys.key_map(module, cleaned), cleaned, abstract(module))["params"]


@pytest.mark.parametrize("registers", [0, 4])
def test_the_authors_names_and_timms_are_one_network(rng, registers):
    module = model(registers=registers, feed_forward="swiglu")
    timms = of_timm(module, rng, classless=registers > 0)
    theirs = {
        name.replace(".mlp.fc1.", ".mlp.w12.").replace(".mlp.fc2.", ".mlp.w3."): t
        for name, t in timms.items()
    }
    theirs["mask_token"] = np.ones((1, 16), np.float32)
    if registers:
        theirs["register_tokens"] = theirs.pop("reg_token")
        row = rng.normal(size=(1, 1, 16)).astype(np.float32)
        theirs["pos_embed"] = np.concatenate([row, theirs["pos_embed"]], axis=1)
        theirs["cls_token"] = theirs["cls_token"] - row
    images = rng.normal(size=(2, 28, 28, 3)).astype(np.float32)
    a, b = (module.apply({"params": converted(module, tensors)}, images)[0] for tensors in (timms, theirs))
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_names_have_the_published_parameters():
    # As timm counts: 22.06, 86.58, 304.37 and 1,136.48 million.
    counts = {"small": 22_056_192, "base": 86_579_712, "large": 304_367_616, "giant": 1_136_479_232}
    for size, want in counts.items():
        plain = models.create(f"vit_{size}_patch14_dinov2", num_classes=0)
        assert sum(leaf.size for leaf in jax.tree.leaves(abstract(plain))) == want
        registers = models.create(f"vit_{size}_patch14_reg4_dinov2", num_classes=0)
        extra = sum(leaf.size for leaf in jax.tree.leaves(abstract(registers))) - want
        assert extra == 4 * plain.width
