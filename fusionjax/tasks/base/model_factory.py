"""Builds the module of a config and its initial weights; shared by all tasks on images."""

import re
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from fusionjax import config as config_lib
from fusionjax import models, pretrained, register
from fusionjax.config import impossible
from fusionjax.data.image.transforms import channels, image_shape
from fusionjax.errors import UserError
from fusionjax.models import registry
from fusionjax.models.backbones.text import TextEncoder
from fusionjax.models.methods.fusion import FusionClassifier
from fusionjax.models.methods.fusion import check as check_fusion
from fusionjax.models.methods.image_text_with_encoders import ImageText
from fusionjax.models.methods.prototypes import PrototypeClassifier
from fusionjax.models.methods.trimodal import MODALITIES, TrimodalClassifier, possible
from fusionjax.models.methods.trimodal import check as check_trimodal
from fusionjax.models.methods.trimodal_with_encoders import Multimodal
from fusionjax.pretrained import hub
from fusionjax.pretrained.merge import HEAD
from fusionjax.tasks.base.protocol import Say
from fusionjax.types import PyTree

_FIELDS = {
    "fusion": (
        "width",
        "depth",
        "heads",
        "mlp_ratio",
        "dropout",
        "remat",
        "freeze_trunk",
        "trunk_norm",
        "trunk",
        "trunk_features",
    ),
    "mvpdr": ("freeze_trunk", "trunk", "trunk_features"),
    "trimodal": (
        "width",
        "heads",
        "dropout",
        "remat",
        "freeze_trunk",
        "trunk_norm",
        "trunk",
        "trunk_features",
    ),
}
"""Fields of `config.model` that the models built by a task read."""


def image_model(config: ConfigDict, num_classes: int) -> nn.Module:
    """The module of `config.model`.

    Args:
        config: of the run, validated.
        num_classes: C of its heads.

    Raises:
        UserError: a name that is not known or not of an image model, a field that the model does not have, or an impossible
            combination.
    """
    c = config.model
    if c.name in ("fusion", "mvpdr", "trimodal"):
        raise impossible(config, "model.name", f"it is built by a task of its own: set task={c.name!r}")
    family = registry.family(c.name)
    if family.configure is None:
        raise impossible(
            config, "model.name", "it has no image classes; python -m fusionjax.models lists the models"
        )
    refuse_unused(config, family.reads, family.spared)
    own = family.configure(config, image_shape=image_shape(config.data), channels=channels(config.data))
    dtype = jnp.dtype(config.precision).type
    return models.create(c.name, **{"num_classes": num_classes, "dtype": dtype, **own})


def fusion_model(config: ConfigDict, num_classes: int, text: TextEncoder | None) -> ImageText:
    """The module of task fusion.

    Args:
        config: of the run, validated.
        num_classes: C of its classifier.
        text: the encoder; None for a model that reads no text.

    Raises:
        UserError: another model's name, no trunk, a field that it does not have, or an impossible combination.
    """
    c, f = config.model, config.fusion
    if c.name != "fusion":
        raise impossible(
            config, "model.name", "the task fusion builds 'fusion', from model.trunk, text and fusion"
        )
    if not c.trunk:
        raise impossible(
            config, "model.trunk", "name the image encoder, e.g. resnet50 or vit_base_patch16_224"
        )
    refuse_unused(config, _FIELDS["fusion"])
    dtype = jnp.dtype(config.precision).type
    trunk, grid = registry.tokens(
        c.trunk, image_size=image_shape(config.data), features=c.trunk_features, dtype=dtype
    )
    sizes = {key: c[key] for key in ("width", "depth", "heads", "mlp_ratio") if c[key]}
    fusion = FusionClassifier(
        grid=grid, num_classes=num_classes, **sizes, dropout=c.dropout, mode=f.mode, head=f.head,
        head_options=register.fusion_heads.get(f.head).options(f), remat=c.remat, dtype=dtype,
    )  # fmt: skip
    check_fusion(fusion)
    return ImageText(
        trunk, fusion, text, freeze_trunk=c.freeze_trunk, freeze_text=config.text.freeze, trunk_norm=c.trunk_norm,
        dtype=dtype,
    )  # fmt: skip


def prototype_model(config: ConfigDict, num_classes: int, *, prompts: int) -> PrototypeClassifier:
    """The module of task mvpdr.

    Args:
        config: of the run, validated.
        num_classes: C.
        prompts: room for the prompts of a class.

    Raises:
        UserError: another model's name, no trunk, a field that it does not have, or images of another size than CLIP's.
    """
    c, m = config.model, config.mvpdr
    if c.name != "mvpdr":
        raise impossible(
            config, "model.name", "the task mvpdr builds 'mvpdr', from mvpdr, model.trunk and text"
        )
    refuse_unused(config, _FIELDS["mvpdr"])
    dtype = jnp.dtype(config.precision).type
    shape = image_shape(config.data)
    trunk: nn.Module
    if m.clip:
        trunk = clip = hub.clip_model(m.clip, dtype=dtype)
        if shape != (clip.image_size,) * 2:
            raise impossible(config, "data.image_size", f"the CLIP takes {clip.image_size} pixels a side")
        width = clip.projection
    elif not c.trunk:
        raise impossible(
            config, "model.trunk", "name the image encoder, e.g. resnet50, or a pair by mvpdr.clip"
        )
    else:
        trunk, _ = registry.tokens(c.trunk, image_size=shape, features=c.trunk_features, dtype=dtype)
        width = m.width
    return PrototypeClassifier(
        trunk, num_classes=num_classes, visual=m.per_class, text=prompts, width=width, project=not m.clip,
        alpha=m.alpha, beta=m.beta, gamma=m.gamma, dtype=dtype,
    )  # fmt: skip


def trimodal_model(
    config: ConfigDict, num_classes: int, audio: nn.Module | None, text: TextEncoder | None
) -> Multimodal:
    """The module of the tasks trimodal and audiovisual.

    Args:
        config: of the run, validated.
        num_classes: C of its classifier.
        audio, text: the encoders; None for a modality that is not read.

    Raises:
        UserError: as `fusion_model`.
    """
    c, t = config.model, config.trimodal
    if c.name != "trimodal":
        raise impossible(config, "model.name", f"the task {config.task} builds 'trimodal'")
    check_trimodal(t.modalities, ())
    check_trimodal(
        MODALITIES, t.pairings
    )  # those of modalities that are left out are none; a misspelt one is an error
    seen = "image" in t.modalities
    if seen != bool(c.trunk):
        words = (
            "name the image encoder, e.g. resnet50"
            if seen
            else "trimodal.modalities has no image: set it to ''"
        )
        raise impossible(config, "model.trunk", words)
    refuse_unused(config, _FIELDS["trimodal"])
    dtype, trunk, grid = jnp.dtype(config.precision).type, None, (1, 1)
    if seen:
        trunk, grid = registry.tokens(
            c.trunk, image_size=image_shape(config.data), features=c.trunk_features, dtype=dtype
        )
    sizes = {key: c[key] for key in ("width", "heads") if c[key]}
    fusion = TrimodalClassifier(
        num_classes, tuple(t.modalities), possible(t.pairings, t.modalities), **sizes, hidden=t.hidden,
        dropout=c.dropout, modality_dropout=t.modality_dropout, dtype=dtype,
    )  # fmt: skip
    return Multimodal(
        trunk,
        fusion,
        text,
        c.freeze_trunk,
        config.text.freeze,
        c.trunk_norm,
        dtype,
        audio,
        config.audio.freeze,
        grid,
    )


def read_weights(config: ConfigDict) -> PyTree | None:
    """The variables that `config.pretrained` names, on the host; None where it names none.

    Raises:
        UserError: weights that cannot be read, or are not of that model.
    """
    c = config.pretrained
    if not c.source:
        return None
    name = c.name or (config.model.trunk if c.into == "trunk" else registry.backbone(config.model.name))
    return pretrained.load(c.source, name)


def put_weights(
    config: ConfigDict,
    module: nn.Module,
    variables: PyTree,
    weights: PyTree | None,
    log: Say,
    *,
    new: Sequence[str] = (),
) -> PyTree:
    """`variables` with pretrained weights put in; unchanged where there are none.

    Args:
        config: of the run, validated.
        module: of `image_model`.
        variables: its, freshly initialised.
        weights: of `read_weights`.
        log: takes a line for every adaptation.
        new: patterns of parameters that no published weights have.

    Raises:
        UserError: weights that do not fit.
    """
    c = config.pretrained
    if weights is None:
        return variables
    if c.into:
        return _merge_trunk(variables, weights, skip=c.skip, log=log)
    family = registry.family(config.model.name)
    new = (*new, *family.unpublished)
    if not any(HEAD.fullmatch("/".join(path)) for path in flatten_dict(weights["params"])):
        log("the weights have no head: the model's stays initialised")
        new = (*new, HEAD.pattern)
    return pretrained.merge(variables, weights, skip=c.skip, new=new, grid=family.grids(module), log=log)


def refuse_unused(config: ConfigDict, known: Sequence[str], spared: Sequence[str] = ()) -> None:
    """A UserError for a field of `config.model` that the model does not read: it would be ignored in silence.

    Args:
        config: of the run.
        known: fields that it reads.
        spared: fields that may be set all the same.
    """
    default = config_lib.default().model
    for key, value in config.model.items():
        harmless = key in ("name", *known, *spared) or (key == "ablation" and value == "sa_only")
        if not harmless and value != default[key]:
            field = f"model.{key}"
            if isinstance(value, ConfigDict):
                field = next(f"{field}.{k}" for k, v in value.items() if v != default[key][k])
            raise impossible(
                config, field, f"{config.model.name!r} has no such field; it has {', '.join(known)}"
            )


def _merge_trunk(variables: PyTree, weights: PyTree, *, skip: Sequence[str], log: Say) -> PyTree:
    """A convolutional network's weights into the model's trunk, and into its neck where that is its upper part."""
    parts = [part for part in ("trunk", "neck") if part in variables["params"]]
    owned = {part: set(variables["params"][part]) for part in parts}
    # The classifier, and the last convolution where an earlier map is the token grid, have no place here; all else has.
    lost = set(weights["params"]) - set().union(*owned.values()) - {"head", "head_conv"}
    if lost:
        raise UserError(f"the weights' {', '.join(sorted(lost))} have no place in the trunk")
    inside = {part: {name: {k: v for k, v in tree.items() if k in owned[part]} for name, tree in weights.items()}
              for part in parts}  # fmt: skip
    for part, own in inside.items():
        others = [leaf for other in parts if other != part for leaf in _paths(inside[other])]
        # A pattern that is met in the other part need not be met in this one.
        mine = [p for p in skip if _meets(p, _paths(own)) or not _meets(p, others)]
        variables = pretrained.merge(variables, own, skip=mine, into=part, log=log)
    return variables


def _paths(tree: PyTree) -> list[str]:
    return ["/".join(path[1:]) for path in flatten_dict(tree)]


def _meets(pattern: str, paths: Sequence[str]) -> bool:
    try:
        return any(re.fullmatch(pattern, path) for path in paths)
    except re.error:
        return False  # merge says what is wrong with it
