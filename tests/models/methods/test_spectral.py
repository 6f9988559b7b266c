"""The encoders of the spectral task: what each fusion sees, published weights in them, and their way out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import models, pretrained
from fusionjax.errors import UserError
from fusionjax.models.backbones.efficientnet import EfficientNet
from fusionjax.models.backbones.resnet import ResNet
from fusionjax.models.backbones.vit import ViT
from fusionjax.models.methods import spectral
from fusionjax.pretrained import native

MODALITIES = (("rgb", (0, 1, 2)), ("uv", (4, 3)))


def vit(width):
    return models.create("vit_shallow", image_size=16, patch=4, width=24, heads=3, depth=1, num_classes=0)


def narrow(**fields):
    return EfficientNet(width=0.25, depth=0.2, lite=True, output="tokens", **fields)


def run(module, variables, images, **options):
    """One program: operations run one by one are compiled one by one."""
    return jax.jit(lambda v, x: module.apply(v, x, **options))(variables, images)


def made(fusion, encoder=vit, modalities=MODALITIES, side=16, **fields):
    module = spectral.SpectralEncoder(
        encoder, modalities, fusion, projection=(16, 8), query_width=8, query_heads=2, **fields
    )
    images = jax.random.normal(jax.random.key(1), (3, side, side, 5))
    return module, jax.jit(module.init)(jax.random.key(0), images), images


@pytest.mark.parametrize("fusion", spectral.FUSIONS)
def test_an_embedding_depends_on_its_own_modality_alone(fusion):
    module, variables, images = made(fusion)
    before, aux = run(module, variables, images, combined=True)
    other = images.at[..., 3:].add(1.0)
    after, aux_after = run(module, variables, other, combined=True)
    np.testing.assert_array_equal(before["rgb"], after["rgb"])
    assert np.abs(before["uv"] - after["uv"]).max() > 1e-3
    assert np.abs(aux["combined"] - aux_after["combined"]).max() > 1e-4
    assert before["rgb"].shape == (3, 8) and aux["features"]["uv"].shape == (3, 24)


@pytest.mark.parametrize("fusion", spectral.FUSIONS)
def test_gradients_reach_every_parameter(fusion):
    module, variables, images = made(fusion)

    def loss(params):
        embeddings, _ = module.apply({"params": params}, images)
        return sum(jnp.square(e).sum() for e in embeddings.values())

    # The query's last layer starts at 0: what is before it has a gradient only once it has moved.
    params = jax.tree.map(lambda x: x + 0.01, variables["params"])
    for path, slope in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params)):
        name = jax.tree_util.keystr(path)
        assert float(jnp.abs(slope).max()) > 0 or "bias" in name, name


def test_a_concatenated_encoder_answers_one_modality_as_published_weights_do():
    plain = vit(3)
    images = jax.random.normal(jax.random.key(1), (2, 16, 16, 5))
    published = jax.jit(plain.init)(jax.random.key(5), images[..., :3])
    module, variables, _ = made("concat", modalities=(("rgb", (0, 1, 2)), ("uv", (3, 4))))
    filled = pretrained.merge(variables, published, into="tower_shared", log=lambda text: None)
    _, aux = run(module, filled, images)
    expected, _ = run(plain, published, images[..., :3])
    np.testing.assert_allclose(aux["features"]["rgb"], expected, atol=2e-5)


@pytest.mark.parametrize("fusion", spectral.FUSIONS)
@pytest.mark.parametrize("name", ["rgb", "uv"])
def test_an_encoder_leaves_as_a_plain_backbone(fusion, name, tmp_path):
    module, variables, images = made(fusion)
    channels = dict(MODALITIES)[name]
    found, tower = spectral.of_modality(variables, module, name)
    assert tower == (name if fusion == "separate" else "shared")
    path = native.write(tmp_path / "a.safetensors", jax.tree.map(np.asarray, found), "vit_shallow")
    again = pretrained.load(path, "vit_shallow")
    jax.tree.map(np.testing.assert_array_equal, again["params"], jax.device_get(found["params"]))
    cls, _ = run(vit(len(channels)), again, images[..., np.asarray(channels)])
    if fusion == "attention":
        patched = spectral.widened(images[..., np.asarray(channels)], 3)
        whole = run(vit(3), {"params": variables["params"]["tower_shared"]}, patched)[0]
        np.testing.assert_allclose(cls, whole, atol=2e-5)
        return
    _, aux = run(module, variables, images)
    np.testing.assert_allclose(cls, aux["features"][name], atol=2e-5)
    with pytest.raises(UserError, match="of vit_shallow, not of resnet50"):
        native.variables_of(pretrained.read(path), "resnet50")


def branches(width):
    small = dict(patch_size=(12, 16), embed_dim=(16, 24), depth=((1, 1, 0),), num_heads=(2, 2))
    return models.create(
        "crossvit_9_dagger_240", num_classes=0, in_channels=width, img_size=(48, 48), **small
    )


def hybrid(width):
    fields = dict(width=24, depth=1, heads=3, num_classes=0)
    return ViT(32, 1, trunk=narrow(features="stride16"), trunk_stride=16, **fields)


def nets(width):
    return narrow()


@pytest.mark.parametrize("encoder", [branches, hybrid, nets])
def test_only_the_layer_that_reads_the_image_is_cut(encoder):
    """Further convolutions of a stem, and a patch embedding behind a trunk, read features and not channels."""
    module, variables, images = made("concat", encoder, side=48 if encoder is branches else 32)
    _, aux = run(module, variables, images)
    for name, channels in MODALITIES:
        found, _ = spectral.of_modality(variables, module, name)
        plain, _ = run(encoder(len(channels)), found, images[..., np.asarray(channels)])
        plain = plain if plain.ndim == 2 else plain.mean((1, 2))
        np.testing.assert_allclose(plain, aux["features"][name], atol=2e-5)


def test_a_cut_network_is_the_network_and_its_lower_half_has_no_gradient():
    images = jax.random.normal(jax.random.key(2), (2, 32, 32, 3))
    cut, whole = spectral.Cut(narrow(features="stride16"), narrow(entry="stride16")), narrow()
    variables = jax.jit(cut.init)(jax.random.key(0), images)
    assert jax.tree.structure(variables) == jax.tree.structure(
        jax.eval_shape(whole.init, jax.random.key(0), images)
    )
    np.testing.assert_allclose(
        run(cut, variables, images)[0], run(whole, variables, images)[0], rtol=1e-4, atol=1e-5
    )
    slopes = jax.jit(jax.grad(lambda p: cut.apply({**variables, "params": p}, images)[0].sum()))(
        variables["params"]
    )
    assert {k for k, s in slopes.items() if all(not np.any(x) for x in jax.tree.leaves(s))} == set(cut.frozen)


@pytest.mark.parametrize("make", [narrow, lambda **fields: ResNet(layers=(1, 1), output="tokens", **fields)])
def test_recomputed_blocks_change_no_number(make):
    images = jax.random.normal(jax.random.key(2), (2, 32, 32, 3))
    variables = jax.jit(make().init)(jax.random.key(0), images)
    found, moved = [], []
    for remat in (False, True):
        module = make(remat=remat)

        def loss(
            params, module=module
        ):  # by running statistics: behind a batch's own, a shift has a gradient of noise
            return jnp.square(module.apply({**variables, "params": params}, images)[0]).sum()

        found.append(jax.jit(jax.value_and_grad(loss))(variables["params"]))
        program = str(jax.make_jaxpr(jax.grad(loss))(variables["params"]))
        assert ("remat" in program or "checkpoint" in program) is remat
        moved.append(run(module, variables, images, train=True, mutable=["batch_stats"])[1])
    for a, b in (found, moved):
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5 * float(np.abs(x).max()) + 1e-9)
