"""DINOv2 against timm and transformers: small models with random weights, and the names and shapes of the published ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from fusionjax import pretrained
from fusionjax.models import create
from fusionjax.models.attention import attention
from fusionjax.models.backbones.records import vit_keys
from fusionjax.models.backbones.vit import ViT
from fusionjax.pretrained.convert import abstract, place
from fusionjax.pretrained.tensors import hollow

from .originals import images, randomise, timm

# Absolute, in float32.
TOLERANCE, GRADIENT = 1e-4, 1e-3
PATCH, WIDTH, DEPTH, HEADS, CELLS = 14, 48, 3, 4, 5
REGISTERS = {"": 0, "reg4_": 4}
MLPS = ("gelu", "swiglu")


def of_timm(registers, mlp):
    """timm's model at the tiny sizes, and its tensors."""
    gated = dict(mlp_ratio=2.66667 * 2, mlp_layer=timm.layers.SwiGLUPacked, act_layer=torch.nn.SiLU)
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=PATCH * CELLS, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, init_values=1e-5,
        num_classes=0, reg_tokens=registers, no_embed_class=registers > 0, global_pool="",
        **(gated if mlp == "swiglu" else {}),
    )  # fmt: skip
    return model, lambda: {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def of_transformers(registers, mlp, folder=None):
    """transformers' model, and its tensors in memory or, with a folder, in a file."""
    fields = dict(hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS, patch_size=PATCH,
                  image_size=PATCH * CELLS, use_swiglu_ffn=mlp == "swiglu")  # fmt: skip
    if registers:
        config = transformers.Dinov2WithRegistersConfig(**fields, num_register_tokens=registers)
        model = transformers.Dinov2WithRegistersModel(config)
    else:
        model = transformers.Dinov2Model(transformers.Dinov2Config(**fields))

    def tensors():
        if folder is None:
            return {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        model.save_pretrained(folder)
        return pretrained.read(folder)

    return model, tensors


def ours(registers, mlp, grid=(CELLS, CELLS)):
    return ViT(image_size=(PATCH * grid[0], PATCH * grid[1]), patch=PATCH, width=WIDTH, depth=DEPTH, heads=HEADS,
               num_classes=0, registers=registers, layer_scale=1.0, feed_forward=mlp, antialias=registers > 0)  # fmt: skip


def converted(model, tensors):
    cleaned = vit_keys.clean(tensors)
    return place("tiny", vit_keys.key_map(model, cleaned), cleaned, abstract(model))


def tokens(model, variables, x):
    def run(module, x):
        x = module.embed(x, None, train=False)
        return module.norm(module.encode(x, attend=attention, train=False)[0])

    return model.apply(variables, x, method=run)


@pytest.mark.parametrize("mlp", MLPS)
@pytest.mark.parametrize("registers", REGISTERS.values())
@pytest.mark.parametrize("library", ["timm", "transformers", "a file of transformers"])
def test_all_tokens_and_the_input_gradient_equal_the_original(library, registers, mlp, tmp_path):
    if library == "timm":
        reference, tensors = of_timm(registers, mlp)
    else:
        reference, tensors = of_transformers(registers, mlp, tmp_path if "file" in library else None)
    randomise(reference)
    model, x = ours(registers, mlp), images(PATCH * CELLS)
    variables = converted(model, tensors())
    leaf = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
    out = reference(leaf)
    want = out if library == "timm" else out.last_hidden_state
    direction = np.random.default_rng(2).standard_normal(want.shape).astype(np.float32)
    (want * torch.from_numpy(direction)).sum().backward()
    gradient = leaf.grad.numpy().transpose(0, 2, 3, 1)

    @jax.jit
    def both(x):
        value, back = jax.vjp(lambda x: tokens(model, variables, x), x)
        return value, back(jnp.asarray(direction))[0]

    got, got_gradient = both(x)
    want = want.detach().numpy()
    errors = np.abs(got - want).max(), np.abs(got_gradient - gradient).max()
    print(
        f"{library}, {registers} registers, {mlp}: max |ours - original| {errors[0]:.1e}, gradient {errors[1]:.1e}"
    )
    assert np.abs(want[0] - want[1]).max() > 0.05 and np.abs(gradient).max() > 0.05
    assert errors[0] < TOLERANCE and errors[1] < GRADIENT


@pytest.mark.parametrize("registers", REGISTERS.values())
@pytest.mark.parametrize("grid", [(3, 3), (3, 4), (8, 7), (5, 6)])
def test_positions_are_resampled_to_other_sizes_as_by_transformers(registers, grid):
    reference, tensors = of_transformers(registers, "gelu")
    randomise(reference)
    model, x = (
        ours(registers, "gelu", grid),
        images(PATCH * max(grid))[:, : PATCH * grid[0], : PATCH * grid[1]],
    )
    weights = converted(ours(registers, "gelu"), tensors())
    fresh = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract(model))
    variables = pretrained.merge(fresh, weights, grid=grid, antialias=model.antialias)
    with torch.inference_mode():
        want = reference(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).last_hidden_state.numpy()
    assert np.abs(tokens(model, variables, x) - want).max() < TOLERANCE


@pytest.mark.parametrize("kind", REGISTERS)
@pytest.mark.parametrize("size", ["small", "base", "large", "giant"])
def test_every_tensor_of_the_published_sizes_has_its_place(size, kind):
    name, registers = f"vit_{size}_patch14_{kind}dinov2", REGISTERS[kind]
    with torch.device("meta"):
        original = timm.create_model(name)
        config = dict(hidden_size=original.embed_dim, num_hidden_layers=len(original.blocks), image_size=518, patch_size=14,
                      num_attention_heads=original.blocks[0].attn.num_heads, use_swiglu_ffn=size == "giant")  # fmt: skip
        kinds = (transformers.Dinov2WithRegistersConfig, transformers.Dinov2WithRegistersModel)
        kinds = kinds if registers else (transformers.Dinov2Config, transformers.Dinov2Model)
        theirs = kinds[1](kinds[0](**config))
    count = sum(leaf.size for leaf in jax.tree.leaves(abstract(create(name, num_classes=0))))
    parameters = {kind: sum(p.numel() for p in kind.parameters()) for kind in (original, theirs)}
    # Ours has the position of CLS, which timm adds to the token where there are registers, and no mask token.
    assert count == parameters[original] + (original.embed_dim if registers else 0)
    assert count == parameters[theirs] - original.embed_dim
    for model in (original, theirs):
        tensors = {key: hollow(tuple(tensor.shape)) for key, tensor in model.state_dict().items()}
        found = pretrained.convert(name, tensors, shapes_only=True)
        assert sum(leaf.size for leaf in jax.tree.leaves(found)) == count
