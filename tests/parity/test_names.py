"""Every named model against its original: random weights and statistics; output, number of parameters, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from fusionjax import pretrained
from fusionjax.models import create, names, registry
from fusionjax.models.registry import backbone

from .originals import CONV_SIZE, arrays, away_from_kinks, images, original, randomise, timm

# Absolute, in float32.
TOLERANCE = 1e-4
GRADIENT = 1e-3
PLAIN = [name for name in names() if not name.startswith("dcal_")]
# Those of test_dinov2.py, at small sizes, are left out: the largest has 1.1 billion parameters.
COMPUTED = [name for name in PLAIN if not name.endswith("dinov2")]
DUALS = [name for name in names() if name.startswith("dcal_")]
# One a family: the gradient of the input, or of the words where the input is text.
SMOOTH = (
    "vit_tiny_patch16_224",
    "deit_tiny_patch16_224",
    "efficientnet_b0",
    "tf_efficientnet_b0",
    "crossvit_9_240",
    "bert_base_uncased",
    "clip_vit_base_patch32",
    "wav2vec2_base",
)
# Networks of ReLUs, at a size at which images away from every kink are found.
KINKED = ("resnet50", "efficientnet_lite0", "tf_efficientnet_lite0", "vit_base_r50_s16_224")


@pytest.mark.parametrize("name", COMPUTED)
def test_output_and_parameters_equal_the_original(name):
    case = original(name)
    reference = randomise(case.build())
    variables = pretrained.convert(name, arrays(reference))
    ours = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert ours == sum(parameter.numel() for parameter in reference.parameters())

    model, inputs = create(name, **case.fields), case.inputs()
    batch = {key: torch.from_numpy(value) for key, value in inputs.items()}

    def output(varied, variables, inputs):
        if case.variable:
            inputs = {**inputs, case.variable: varied}
        else:
            variables = {"params": {**variables["params"], "words": varied}}
        return model.apply(variables, **inputs)[0]

    varied = inputs[case.variable] if case.variable else variables["params"]["words"]
    if name in SMOOTH:
        leaf = batch[case.variable] if case.variable else reference.embeddings.word_embeddings.weight
        both(name, output, (varied, variables, inputs), lambda: case.run(reference, batch), reference, leaf)
        return
    with torch.inference_mode():
        want = case.run(reference, batch).numpy()
    compare(name, np.asarray(jax.jit(output)(varied, variables, inputs)), want, inputs)


@pytest.mark.parametrize("name", KINKED)
def test_input_gradient_of_relu_networks_equals_the_original(name):
    fields = dict(img_size=32) if name.startswith("vit") else {}
    reference = randomise(timm.create_model(name, num_classes=1000, **fields))
    model = create(name, **(dict(image_size=32) if fields else {}))
    x = away_from_kinks(reference, images(32, 12))[:2]
    template = jax.eval_shape(model.init, jax.random.key(0), x)
    variables = pretrained.convert(name, arrays(reference), template)
    leaf = torch.from_numpy(x.copy())

    def output(x, variables, _):
        return model.apply(variables, x)[0]

    both(name, output, (x, variables, {}), lambda: reference(leaf.permute(0, 3, 1, 2)), reference, leaf)


def both(name, output, arguments, run, reference, leaf):
    """Compares the output, and its gradient in a random direction with respect to the first argument: `leaf` in torch."""
    for parameter in reference.parameters():
        parameter.requires_grad_(False)
    leaf.requires_grad_()
    want = run()
    varied, variables, inputs = arguments
    direction = np.random.default_rng(2).standard_normal(want.shape).astype(np.float32)
    direction *= valid(inputs, direction)
    (want * torch.from_numpy(direction)).sum().backward()

    # One program gives both.
    @jax.jit
    def ours(varied, variables, inputs):
        value, back = jax.vjp(lambda varied: output(varied, variables, inputs), varied)
        return value, back(jnp.asarray(direction))[0]

    got, gradient = ours(varied, variables, inputs)
    compare(name, np.asarray(got), want.detach().numpy(), inputs)
    expected = leaf.grad.numpy()
    error = np.abs(np.asarray(gradient) - expected).max()
    print(f"{name}: gradient: max |ours - original| {error:.2e}, max |original| {np.abs(expected).max():.3f}")
    assert error < GRADIENT
    # CLIP's cosines have gradients that are small themselves.
    assert error < GRADIENT * np.abs(expected).max()


def compare(name, got, want, inputs):
    assert got.shape == want.shape
    weight = valid(inputs, want)
    error = np.abs((got - want) * weight).max()
    print(f"{name}: max |ours - original| {error:.2e}, max |original| {np.abs(want).max():.2f}")
    # The outputs differ within the batch (or between frames), so that agreement means something.
    rows = want if len(want) > 1 else want[0]
    assert np.abs(rows[0] - rows[1]).max() > 0.05
    assert error < TOLERANCE


def valid(inputs, output):
    """0 at padded tokens, 1 elsewhere; broadcast over the output."""
    mask = inputs.get("attention_mask")
    return np.float32(1) if mask is None or output.ndim < 3 else mask[..., None].astype(np.float32)


@pytest.mark.parametrize("name", DUALS)
def test_dual_names_hold_the_plain_model_s_parameters(name):
    dual, plain = create(name), create(backbone(name))
    image = jax.ShapeDtypeStruct((1, plain.image_size, plain.image_size, 3), jnp.float32)
    ours = dict(jax.eval_shape(dual.init, jax.random.key(0), image)["params"])
    want = jax.eval_shape(plain.init, jax.random.key(0), image)["params"]
    branch = {key for key in ours if key.startswith(("glca_", "log_variance_"))}
    assert branch == {"glca_block", "glca_norm", "glca_head"} | {
        f"log_variance_{each}" for each in ("sa", "glca", "pwca")
    }
    assert jax.tree.map(np.shape, {key: ours[key] for key in ours if key not in branch}) == jax.tree.map(
        np.shape, dict(want)
    )


def test_the_sa_branch_equals_the_original():
    name = "dcal_deit_tiny_patch16_224"
    case = original(backbone(name))
    reference = randomise(case.build())
    model, inputs = create(name), case.inputs()
    variables = jax.jit(model.init)(jax.random.key(0), inputs["images"])
    variables = {"params": {**variables["params"], **pretrained.convert(name, arrays(reference))["params"]}}
    with torch.inference_mode():
        want = case.run(reference, {"images": torch.from_numpy(inputs["images"])}).numpy()
    _, aux = jax.jit(model.apply)(variables, **inputs)
    compare(name, np.asarray(aux["logits"]["sa"]), want, inputs)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "tf_efficientnet_lite0"])
def test_the_two_efficientnets_of_one_size_are_different_networks(name):
    """The tensors of either load into both, for names and shapes are the same: only the right one gives timm's logits."""
    reference = randomise(timm.create_model(name))
    x = images(CONV_SIZE)
    with torch.inference_mode():
        want = reference(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    other = name.removeprefix("tf_") if name.startswith("tf_") else f"tf_{name}"
    errors = {
        ours: np.abs(create(ours).apply(pretrained.convert(ours, arrays(reference)), x)[0] - want).max()
        for ours in (name, other)
    }
    assert errors[name] < TOLERANCE and errors[other] > 0.05, errors


@pytest.mark.parametrize(
    "name", [n for n in PLAIN if registry.family(n).weights.get(n, "").startswith("hub:timm/")]
)
def test_the_published_preprocessing_is_timms(name):
    source = registry.family(name).weights[name].removeprefix("hub:timm/")
    want, got = timm.models.get_pretrained_cfg(source), registry.preprocessing(name)
    # deit_tiny and deit_small at 384 pixels: their weights are those of 224.
    size = want.input_size[1:] if source.startswith(f"{name}.") else (384, 384)
    crop = want.crop_pct if source.startswith(f"{name}.") else 1.0
    assert got[:5] == (size, want.mean, want.std, want.interpolation, crop)


DEVIATING = {
    source: (name, how)
    for name in PLAIN
    for source, how in registry.family(name).deviating.items()
    if name in source
}


@pytest.mark.parametrize("source", DEVIATING)
def test_the_preprocessing_of_other_weights_is_timms(source):
    """Those that a record lists because they were trained with another one than the weights of the same name."""
    name, how = DEVIATING[source]
    want = timm.models.get_pretrained_cfg(source.removeprefix("hub:timm/"))
    assert (how.mean, how.std, how.interpolation, how.crop, how.size) == (
        tuple(want.mean), tuple(want.std), want.interpolation, want.crop_pct, tuple(want.input_size[1:])
    )  # fmt: skip
    assert registry.preprocessing(name, source) == how != registry.preprocessing(name)


def test_every_deviating_preprocessing_is_compared():
    listed = {source for name in PLAIN for source in registry.family(name).deviating}
    assert listed == set(DEVIATING)


@pytest.mark.parametrize("digit", "012")
def test_the_preprocessing_of_lite_is_timms(digit):
    for name in (f"efficientnet_lite{digit}", f"tf_efficientnet_lite{digit}"):
        want, got = timm.models.get_pretrained_cfg(name), registry.preprocessing(name)
        assert got[:5] == (want.input_size[1:], want.mean, want.std, want.interpolation, want.crop_pct)
