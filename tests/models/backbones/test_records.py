"""What every backbone family's record promises."""

import re

import jax
import pytest

from fusionjax import models, register
from fusionjax.errors import UserError
from fusionjax.models import parameters, registry
from fusionjax.models.backbones.record import Family, Preprocessing
from fusionjax.train.state import flatten

FAMILIES = dict(register.backbones.records())
# Shapes alone are computed, of the smallest name and of one that is built otherwise.
CHOSEN = {
    "vit": ("vit_tiny_patch16_224", "vit_base_r50_s16_224", "vit_small_patch14_reg4_dinov2"),
    "dcal": ("dcal_deit_tiny_patch16_224", "dcal_vit_small_patch14_reg4_dinov2"),
    "crossvit": ("crossvit_9_240", "crossvit_9_dagger_240"),
    "efficientnet": ("efficientnet_b0", "tf_efficientnet_lite0"),
    "resnet": ("resnet50", "resnetv2_50_s16"),
    "clip": ("clip_vit_base_patch32",),
    "text": ("distilbert_base_uncased", "all_minilm_l6_v2"),
    "wav2vec2": ("wav2vec2_base",),
    "mel": ("",),
}
CASES = [(family, name) for family, names in CHOSEN.items() for name in names]


def made(family, name, **fields):
    record = FAMILIES[family]
    module = record.build(name, **fields)
    inputs = record.inputs(module, None)
    return record, module, flatten(jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"])


def own(record, module, params):
    """Parameters that are not of another network in front of it."""
    return [
        name
        for name in params
        if not name.startswith(tuple(f"{part}/" for part, _ in getattr(module, "below", ())))
    ]


def test_every_family_is_tried():
    assert set(CHOSEN) == set(FAMILIES)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_patterns_match_and_the_order_covers_every_parameter(family, name):
    record, module, params = made(family, name)
    names = own(record, module, params)
    order = record.layers(module)
    for parameter in names:
        indices = [rule.index for rule in order.rules if re.fullmatch(rule.pattern, parameter)]
        assert indices, f"{parameter} has no layer"
        assert 0 <= indices[0] <= order.depth + 1
    for rule in order.rules:
        if rule.stacked:
            found = [n for n in names if re.fullmatch(rule.pattern, n)]
            assert found and len({params[n].shape[0] for n in found}) == 1
            assert rule.index + rule.step * (params[found[0]].shape[0] - 1) <= order.depth
    assert {parameters.of(module).decays(n) for n in names} == {True, False}
    for head in record.heads:
        assert any(re.fullmatch(head, n.split("/")[0]) for n in names), head


@pytest.mark.parametrize("family", FAMILIES)
def test_every_undecayed_pattern_matches_a_parameter_of_some_model(family):
    record = FAMILIES[family]
    fields = {"cameras": 2, "registers": 1} if family in ("vit", "dcal") else {}
    if fields:
        module = record.build(CHOSEN[family][0], **fields)
        images, camera = record.inputs(module, None)[0], jax.ShapeDtypeStruct((1,), int)
        shapes = jax.eval_shape(
            lambda key, x, c: module.init(key, x, camera=c), jax.random.key(0), images, camera
        )
        params = flatten(shapes["params"])
    else:
        params = made(family, CHOSEN[family][0])[2]
    for pattern in record.undecayed:
        assert any(re.fullmatch(pattern, name) for name in params), pattern


def test_every_name_builds_as_its_familys_network_and_says_how_images_are_prepared():
    assert len(models.names()) == len(set(models.names())) == sum(len(r.names) for r in FAMILIES.values())
    for key, record in FAMILIES.items():
        assert record.name == key
        for name in record.names:
            module = models.create(name)
            assert type(module) is record.module and registry.family_of(module) is record
            assert registry.find(name) is record
            shown = record.preprocessing.get(name)
            if record.kind in ("image", "image_text") and not name.endswith("vit_shallow"):
                assert isinstance(shown, Preprocessing) and len(shown.mean) == len(shown.std) == 3
                assert min(shown.size) >= 224 and 0.8 < shown.crop <= 1
                assert shown.interpolation in ("bilinear", "bicubic")
        assert set(record.preprocessing) | set(record.weights) <= set(record.names)
        for source in record.weights.values():
            assert source.startswith(("hub:", "package:"))


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("tf_efficientnet_lite0", 0.5),
        ("efficientnet_lite0", 0.485),
        ("vit_base_patch16_224", 0.5),
        ("deit_tiny_patch16_224", 0.485),
        ("dcal_deit_tiny_patch16_224", 0.485),
        ("crossvit_9_240", 0.485),
    ],
)
def test_published_means(name, mean):
    assert registry.preprocessing(name).mean[0] == mean


def test_a_model_without_published_weights_has_no_preprocessing():
    with pytest.raises(UserError, match="no published preprocessing"):
        registry.preprocessing("vit_shallow")


def test_a_family_of_ones_own_is_found_by_name_and_a_taken_name_is_refused(monkeypatch):
    monkeypatch.setattr(register.backbones, "_found", dict(register.backbones._found))
    vit = FAMILIES["vit"]
    mine = Family("mine", ("my_net",), vit.module, lambda name, **f: vit.build("vit_tiny_patch16_224", **f),
                  vit.layers, vit.inputs)  # fmt: skip
    register.backbone(mine)
    assert "my_net" in models.names() and models.create("my_net").width == 192
    other = Family("another", ("resnet50",), vit.module, vit.build, vit.layers, vit.inputs)
    with pytest.raises(UserError, match="'resnet50' is of 'resnet' already"):
        register.backbone(other)
