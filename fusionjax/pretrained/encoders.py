"""Text encoders and CLIP from a folder of transformers: its config.json gives the sizes, its weights the parameters.

A source is that of `fusionjax.pretrained.hub`: a folder, an installed package or a repository of the hub.
"""

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fusionjax.errors import UserError
from fusionjax.models.backbones import clip, text
from fusionjax.models.backbones.record import Reference
from fusionjax.models.backbones.records import clip as clip_family
from fusionjax.models.backbones.records import text as text_family
from fusionjax.pretrained import hub, parts
from fusionjax.pretrained.convert import abstract, fitting, place
from fusionjax.pretrained.files import read

logger = logging.getLogger(__name__)


def text_config(source: str | Path) -> text.TextConfig:
    """The sizes of a BERT or DistilBERT, from its config.json.

    Args:
        source: see the docstring of `fusionjax.pretrained.hub`.

    Raises:
        UserError: another kind of model, or a variant that is not supported.
    """
    found = _json(source)
    kind = found.get("model_type")
    if kind not in ("bert", "distilbert"):
        other = "; load_clip reads it" if kind == "clip" else ""
        raise UserError(f"{source}: model_type {kind!r} is not one of bert, distilbert{other}")
    positions = found.get("position_embedding_type") or "absolute"
    if positions != "absolute" or found.get("sinusoidal_pos_embds") or found.get("is_decoder"):
        raise UserError(f"{source}: only encoders with learned absolute positions can be read")
    default = text.TextConfig()
    if kind == "bert":
        names = dict(width="hidden_size", layers="num_hidden_layers", heads="num_attention_heads",
                     ffn="intermediate_size", types="type_vocab_size", epsilon="layer_norm_eps",
                     activation="hidden_act", dropout="hidden_dropout_prob",
                     attention_dropout="attention_probs_dropout_prob")  # fmt: skip
    else:
        names = dict(width="dim", layers="n_layers", heads="n_heads", ffn="hidden_dim",
                     activation="activation", dropout="dropout", attention_dropout="attention_dropout")  # fmt: skip
        default = dataclasses.replace(default, layers=6, types=0, pooler=False)
    names |= dict(vocab="vocab_size", positions="max_position_embeddings")
    config = dataclasses.replace(default, **{ours: found[key] for ours, key in names.items() if key in found})
    return text.make(config, str(source)).config


def load_text(source: str | Path, **overrides: Any) -> tuple[text.TextEncoder, dict[str, Any], hub.Tokenizer]:
    """Loads a pretrained text encoder.

    Args:
        source: see the docstring of `fusionjax.pretrained.hub`.
        **overrides: fields of TextEncoder or TextConfig that do not change the shapes of the weights, e.g.
            `output="mean", normalise=True, dropout=0.0`, or `pooler=False` to omit the pooler. By default the encoder has a
            pooler if the checkpoint has one.

    Returns:
        module, variables (NumPy arrays), tokenizer.

    Raises:
        UserError: the source cannot be read, or its tensors do not match its config.

    Example:
        >>> module, variables, tokens = load_text("package:all-minilm-l6-v2", output="mean", normalise=True)
        >>> batch = tokens(["a leaf with rust", "a healthy leaf"], max_length=32)
        >>> vectors, _ = module.apply(variables, batch["input_ids"], batch["attention_mask"])
        >>> vectors.shape
        (2, 384)
    """
    return *text_variables(source, **overrides), hub.tokenizer(source)


def text_variables(
    source: str | Path, *, shapes_only: bool = False, log: parts.Log = logger.info, **overrides: Any
) -> tuple[text.TextEncoder, dict[str, Any]]:
    """Module and variables of `load_text`, without the tokenizer; `shapes_only` and `log` as for `pretrained.load`."""
    folder = hub.files(source)
    config = text_config(folder)

    def reference(tensors: Mapping[str, np.ndarray]) -> Reference:
        tensors = text_family.clean(tensors)
        pooler = overrides.get("pooler", config.pooler and "pooler.dense.weight" in tensors)
        if not pooler:
            tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith("pooler.")}
        module = text.make(config, str(source), **{**overrides, "pooler": pooler})
        return Reference(module, text_family.key_map(module, tensors), tensors)

    tensors = read(folder, parts.split(source)[1], shapes_only=shapes_only, log=log)
    return _variables(source, reference, tensors, shapes_only, log)


def _variables(
    source: str | Path,
    reference: Callable[[Mapping[str, np.ndarray]], Reference],
    tensors: Mapping[str, np.ndarray],
    shapes_only: bool,
    log: parts.Log,
) -> tuple[Any, dict[str, Any]]:
    """Module and variables of the tensors of a source."""
    found = fitting(reference, tensors, lambda line: log(f"{source}: {line}"))
    shapes = abstract(found.module)
    return found.module, place(str(source), found.rules, found.tensors, shapes, shapes_only=shapes_only)


def clip_model(source: str | Path, **overrides: Any) -> clip.CLIP:
    """The CLIP module of a source, without weights, from its config.json; arguments and errors as for `load_clip`."""
    found = _json(source)
    if found.get("model_type") != "clip":
        raise UserError(f"{source}: model_type {found.get('model_type')!r} is not clip")
    image, words = (found.get(f"{kind}_config") or {} for kind in ("vision", "text"))
    default = clip.CLIP()
    activation = words.get("hidden_act", default.activation)
    end = words.get("eos_token_id", 49407)
    if image.get("hidden_act", default.activation) != activation:
        raise UserError(f"{source}: the image and text encoders have different activations")
    if {part.get("layer_norm_eps", clip.EPSILON) for part in (image, words)} != {clip.EPSILON}:
        raise UserError(f"{source}: layer_norm_eps is not {clip.EPSILON}")
    return clip.make(
        str(source),
        **dict(
            image_size=image.get("image_size", default.image_size),
            patch=image.get("patch_size", default.patch),
            image=_tower(image, default.image),
            text=_tower(words, default.text),
            vocab=words.get("vocab_size", default.vocab),
            positions=words.get("max_position_embeddings", default.positions),
            projection=found.get("projection_dim", default.projection),
            activation=activation,
            # Early conversions wrongly state 2; their end-of-text token is the one with the highest id.
            end_token=None if end == 2 else end,
        )
        | overrides,
    )


def load_clip(source: str | Path, **overrides: Any) -> tuple[clip.CLIP, dict[str, Any], hub.Tokenizer]:
    """Loads a pretrained CLIP; arguments, results and errors as for `load_text`, with the fields of `clip.CLIP`."""
    return *clip_variables(source, **overrides), hub.tokenizer(source)


def clip_variables(
    source: str | Path, *, shapes_only: bool = False, log: parts.Log = logger.info, **overrides: Any
) -> tuple[clip.CLIP, dict[str, Any]]:
    """Module and variables of `load_clip`, without the tokenizer; `shapes_only` and `log` as for `pretrained.load`."""
    folder = hub.files(source)
    module = clip_model(folder, **overrides)

    def reference(tensors: Mapping[str, np.ndarray]) -> Reference:
        return Reference(module, clip_family.key_map(module), clip_family.clean(tensors))

    tensors = read(folder, parts.split(source)[1], shapes_only=shapes_only, log=log)
    return _variables(source, reference, tensors, shapes_only, log)


def _json(source: str | Path) -> dict[str, Any]:
    path = hub.files(source) / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a config: {hub.line(error)}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: not a config: a JSON object is expected")
    return found


def _tower(found: Mapping[str, Any], default: clip.Tower) -> clip.Tower:
    names = dict(width="hidden_size", layers="num_hidden_layers", heads="num_attention_heads",
                 ffn="intermediate_size")  # fmt: skip
    return clip.Tower(**{ours: found.get(key, getattr(default, ours)) for ours, key in names.items()})
