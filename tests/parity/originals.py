"""The originals: for every name of `fusionjax.models.names()` the reference implementation, its inputs and its output.

The weights are drawn here, cheaply and of full size: at the usual initial ones attention is nearly uniform and norms do
nothing, which hides mistakes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers

from fusionjax.models.backbones import audio, clip, crossvit, efficientnet, resnet, text

from . import torchvision_stub

torchvision_stub.install()
import timm  # noqa: E402
from timm.models.vision_transformer import VisionTransformer  # noqa: E402

Arrays = dict[str, np.ndarray]
# Where strides meet even and odd maps: 36, 18, 9, 5, 3. Padding rules part at the even ones.
CONV_SIZE = 72


class Original(NamedTuple):
    """One reference model.

    Attributes:
        build: makes it; its weights are still to be drawn.
        inputs: a batch, in our layout.
        run: the model and the batch as tensors → the output to compare, in our layout, or a tuple of outputs.
        fields: of our module, so that it computes the same.
        variable: name of the input that gradients are taken of; "" where inputs are whole numbers: then the gradient is of the
            word embeddings.
    """

    build: Callable[[], torch.nn.Module]
    inputs: Callable[[], Arrays]
    run: Callable[[torch.nn.Module, dict[str, torch.Tensor]], torch.Tensor]
    fields: dict[str, Any] = {}
    variable: str = "images"


def original(name: str) -> Original:
    """The original of a name.

    Raises:
        KeyError: none is known: a new model needs a line here.
    """
    if name in crossvit.NAMES:
        return _images(lambda: timm.create_model(name), crossvit.build(name).sizes[0][0])
    if name == "resnetv2_50_s16":
        return Original(
            lambda: timm.create_model("vit_base_r50_s16_224", depth=1).patch_embed.backbone,
            lambda: dict(images=images(CONV_SIZE)),
            lambda model, x: model(_nchw(x["images"])).permute(0, 2, 3, 1),
            dict(output="tokens"),
        )
    if name in efficientnet.NAMES + resnet.NAMES:
        return _images(lambda: timm.create_model(name), CONV_SIZE)
    if name in VITS:
        return _images(VITS[name], int(name[-3:]) if name[-3:].isdigit() else 224)
    if name in TEXTS:
        return Original(TEXTS[name], words, lambda model, x: model(**x).last_hidden_state, variable="")
    if name in clip.NAMES:
        return Original(lambda: clip_model(name), lambda: dict(images=images(224), **ends()), _run_clip)
    if name in audio.NAMES:
        return Original(
            lambda: transformers.Wav2Vec2Model(transformers.Wav2Vec2Config()),
            lambda: dict(audio=waves(1, 8_000)),
            lambda model, x: model(x["audio"]).last_hidden_state,
            variable="audio",
        )
    raise KeyError(f"{name}: no original is known; add it to tests/parity/originals.py")


def _images(build: Callable[[], torch.nn.Module], size: int) -> Original:
    return Original(build, lambda: dict(images=images(size)), lambda model, x: model(_nchw(x["images"])))


def _nchw(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 3, 1, 2).contiguous()


def _timm(name: str, **fields: Any) -> Callable[[], torch.nn.Module]:
    return lambda: timm.create_model(name, **fields)


VITS: dict[str, Callable[[], torch.nn.Module]] = {
    # One of them comes without a head by default.
    name: _timm(name, num_classes=1000)
    for name in (
        *(f"vit_{size}_patch16_{pixels}" for size in ("tiny", "small", "base") for pixels in (224, 384)),
        *(f"deit_{size}_patch16_224" for size in ("tiny", "small", "base")),
        "deit_base_patch16_384",
        "vit_base_patch32_224",
        "vit_base_r50_s16_224",
        "vit_base_r50_s16_384",
    )
}
# timm has these two at 224 pixels only.
VITS["deit_tiny_patch16_384"] = _timm("deit_tiny_patch16_224", img_size=384)
VITS["deit_small_patch16_384"] = _timm("deit_small_patch16_224", img_size=384)
VITS["vit_shallow"] = lambda: VisionTransformer(embed_dim=256, depth=2, num_heads=8, mlp_ratio=2.0)

TEXTS: dict[str, Callable[[], torch.nn.Module]] = {
    "bert_base_uncased": lambda: transformers.BertModel(transformers.BertConfig()),
    "distilbert_base_uncased": lambda: transformers.DistilBertModel(transformers.DistilBertConfig()),
    "all_minilm_l6_v2": lambda: transformers.BertModel(
        transformers.BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)
    ),
}
assert set(TEXTS) == set(text.NAMES)


def clip_model(name: str) -> torch.nn.Module:
    """CLIP at its published sizes; all but the patch are transformers' defaults."""
    patch = int(name.removeprefix("clip_vit_base_patch"))
    return transformers.CLIPModel(
        transformers.CLIPConfig(vision_config=dict(patch_size=patch), projection_dim=512)
    )


def _run_clip(model: torch.nn.Module, x: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(pixel_values=_nchw(x["images"]), input_ids=x["input_ids"]).logits_per_image


def images(size: int, batch: int = 2) -> np.ndarray:
    """(batch, size, size, 3) float32, normal."""
    return np.random.default_rng(1).standard_normal((batch, size, size, 3)).astype(np.float32)


def words() -> Arrays:
    """Two texts of BERT's vocabulary; the second is padded."""
    ids = np.random.default_rng(0).integers(1, 30_522, (2, 9)).astype(np.int32)
    mask = (np.arange(9) < np.array([9, 5])[:, None]).astype(np.int32)
    return dict(input_ids=ids * mask, attention_mask=mask)


def ends() -> Arrays:
    """Three texts of CLIP's vocabulary; the end-of-text token is the highest number, and fills what follows."""
    ids = np.random.default_rng(0).integers(1, 49_000, (3, 11)).astype(np.int32)
    ids[np.arange(11) >= np.array([10, 5, 3])[:, None]] = 49_407
    return dict(input_ids=ids)


def waves(batch: int, samples: int) -> np.ndarray:
    """(batch, samples) float32 with mean 0 and variance 1."""
    x = np.random.default_rng(1).standard_normal((batch, samples)).astype(np.float32)
    return (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)


def arrays(model: torch.nn.Module) -> Arrays:
    """Its tensors by name; they share the model's memory."""
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def randomise(model: torch.nn.Module, size: int = CONV_SIZE, seed: int = 0) -> torch.nn.Module:
    """Draws every parameter and running statistic of a model, in place, and puts it in evaluation mode.

    Running statistics are those of 8 images, the first of which the tests run, moved at random layer by layer, each after
    those before it: the signal neither dies nor grows with depth.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.uniform_(low, high, generator=generator)

    def settle(norm: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3))
        # A channel that hardly varies would amplify rounding without limit.
        variance.clamp_(min=0.5 * variance.mean().item())
        shift = 0.3 * torch.randn(mean.shape, generator=generator)
        norm.running_mean.copy_(mean + shift * variance.sqrt())
        norm.running_var.copy_(variance * (0.7 + 0.7 * torch.rand(mean.shape, generator=generator)))

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight.original0"):  # the length of weight normalisation's taps
                uniform(parameter, 1.5, 4.0)
            elif parameter.ndim == 1 and name.endswith("weight"):  # a norm's scale
                # A residual branch's last one is small: full-size branches add up and amplify rounding, torch's as well.
                damp = 0.3 if name.endswith(("bn3.weight", "norm3.weight")) else 1.0
                uniform(parameter, 0.7 * damp, 1.3 * damp)
            elif parameter.ndim == 1:
                uniform(parameter, -0.3, 0.3)
            elif parameter.ndim > 1 and (parameter.shape[0] == 1 or "embedding" in name):
                uniform(parameter, -0.5, 0.5)  # tokens, positions, words
            elif parameter.ndim > 1:
                bound = 1.2 * (3 / parameter[0].numel()) ** 0.5
                # What attention adds is small too: in post-norm models it makes all tokens alike otherwise.
                if name.endswith(("out_proj.weight", "attention.output.dense.weight", "out_lin.weight")):
                    bound *= 0.3
                uniform(parameter, -bound, bound)
        norms = [module for module in model.modules() if getattr(module, "running_mean", None) is not None]
        hooks = [norm.register_forward_pre_hook(settle) for norm in norms]
        if norms:
            model.eval()(_nchw(torch.from_numpy(images(size, 8))))
        for hook in hooks:
            hook.remove()
    return model.eval()


def away_from_kinks(model: torch.nn.Module, x: np.ndarray, margin: float = 3e-6) -> np.ndarray:
    """Those of the images (B, h, w, 3) at which no ReLU is within `margin` of a kink: there rounding makes gradients jump."""
    nearest = torch.full((len(x),), torch.inf)

    def look(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        value = inputs[0].flatten(1)
        least = value.abs().amin(1)
        if isinstance(module, torch.nn.ReLU6):
            least = torch.minimum(least, (value - 6).abs().amin(1))
        nearest.copy_(torch.minimum(nearest, least))

    kinked = [module for module in model.modules() if isinstance(module, torch.nn.ReLU | torch.nn.ReLU6)]
    assert kinked
    hooks = [module.register_forward_pre_hook(look) for module in kinked]
    with torch.inference_mode():
        model(_nchw(torch.from_numpy(x)))
    for hook in hooks:
        hook.remove()
    return x[nearest.numpy() > margin]
