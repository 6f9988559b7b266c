"""Optimisers from a config: schedule, decay, clipping, and rules by parameter name."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from fusionjax.errors import UserError
from fusionjax.train.state import flatten, unflatten
from fusionjax.types import PyTree


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """What the step needs to update parameters.

    Attributes:
        tx: optax transformation over {"a/b/c": leaf} of the trainable parameters.
        schedule: step → learning rate, for the log.
        frozen: names that do not train.
    """

    tx: optax.GradientTransformation
    schedule: Callable[[Any], Any]
    frozen: frozenset[str]

    def split(self, params: PyTree) -> tuple[dict[str, Any], dict[str, Any]]:
        """(trainable, frozen), both flat. The gradient is taken of the first only."""
        flat = flatten(params)
        train = {name: value for name, value in flat.items() if name not in self.frozen}
        return train, {name: value for name, value in flat.items() if name in self.frozen}

    def join(self, trainable: Mapping[str, Any], frozen: Mapping[str, Any]) -> PyTree:
        """The inverse of `split`."""
        return unflatten({**trainable, **frozen})


def create(
    config: ConfigDict, params: PyTree, *, steps: int, steps_per_epoch: float, frozen: Sequence[str] = ()
) -> Optimizer:
    """The optimiser of `config.optim`.

    Args:
        config: `optim` section.
        params: nested dict of arrays or shapes.
        steps: of the whole run.
        steps_per_epoch: what an epoch of warm-up means.
        frozen: further patterns of parameters that do not train, beside `config.freeze`.

    Raises:
        UserError: a pattern that is no regular expression or matches no parameter, or nothing left to train.
    """
    names = list(flatten(params))
    shapes = {name: np.shape(value) for name, value in flatten(params).items()}
    held = frozenset(_matching("freeze", [*config.freeze, *frozen], names))
    trainable = [name for name in names if name not in held]
    if not trainable:
        raise UserError(f"config.optim.freeze={config.freeze!r} leaves no parameter to train")
    undecayed = _matching("no_decay", config.no_decay, names)
    schedule = _schedule(config, steps, steps_per_epoch)
    factors = _factors(config, trainable, shapes)
    decay = []
    if config.weight_decay:
        mask = {name: name not in undecayed for name in trainable}
        decay = [optax.add_decayed_weights(config.weight_decay, mask=mask)]
    if config.name == "adamw":
        core = [optax.scale_by_adam(config.b1, config.b2, config.eps), *decay]
    elif config.name == "adam":
        core = [*decay, optax.scale_by_adam(config.b1, config.b2, config.eps)]
    elif config.name == "lars":
        return Optimizer(_lars(config, shapes, trainable, undecayed, factors, schedule), schedule, held)
    else:
        core = [*decay, optax.trace(config.momentum)]
    tx = optax.chain(*_clip(config), *core, *_scaled(factors), optax.scale_by_learning_rate(schedule))
    return Optimizer(tx, schedule, held)


def _lars(
    config: ConfigDict,
    shapes: Mapping[str, tuple[int, ...]],
    names: Sequence[str],
    undecayed: set[str],
    factors: Mapping[str, Any],
    schedule: Callable[[Any], Any],
) -> optax.GradientTransformation:
    """SGD whose step in each layer is `trust_coefficient` · |w| / |g + decay · w| of the learning rate.

    As google-research/simclr has it: the learning rate stands inside the momentum, and biases, norms, and what `no_decay`
    names are neither decayed nor adapted. The blocks of a scan are a layer each.

    Source: You, Gitman & Ginsburg, 2017, arXiv 1708.03888.
    """
    scanned = {name for name in names if "blocks" in name.split("/")}
    adapted = {name: len(shapes[name]) - (name in scanned) > 1 and name not in undecayed for name in names}
    decay = [optax.add_decayed_weights(config.weight_decay, mask=adapted)] if config.weight_decay else []
    ratio = optax.scale_by_trust_ratio(trust_coefficient=config.trust_coefficient)

    def apart(tree: Mapping[str, Any]) -> dict[str, Any]:
        kept = {name: value for name, value in tree.items() if adapted[name]}
        return {name: list(value) if name in scanned else value for name, value in kept.items()}

    def update(updates: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
        scaled, _ = ratio.update(apart(updates), optax.EmptyState(), apart(params))
        together = {name: jnp.stack(v) if name in scanned else v for name, v in scaled.items()}
        return {**updates, **together}

    return optax.chain(
        *_clip(config),
        *decay,
        optax.stateless(update),
        *_scaled(factors),
        optax.scale_by_learning_rate(schedule),
        optax.trace(config.momentum),
    )


def _clip(config: ConfigDict) -> list[optax.GradientTransformation]:
    return [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []


def _scaled(factors: Mapping[str, Any]) -> list[optax.GradientTransformation]:
    return [_scale_by(factors)] if any(np.any(np.asarray(f) != 1) for f in factors.values()) else []


def _matching(field: str, patterns: Sequence[str], names: Sequence[str]) -> set[str]:
    """Names that any of the patterns is found in; every pattern must find something."""
    found: set[str] = set()
    for pattern in patterns:
        try:
            hits = [name for name in names if re.search(pattern, name)]
        except re.error as e:
            raise UserError(f"config.optim.{field}: {pattern!r} is not a regular expression ({e})") from None
        if not hits:
            raise UserError(
                f"config.optim.{field}: {pattern!r} matches no parameter; there are {_some(names)}"
            )
        found.update(hits)
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _schedule(config: ConfigDict, steps: int, steps_per_epoch: float) -> Callable[[Any], Any]:
    warmup = min(round(config.warmup_epochs * steps_per_epoch), max(steps - 1, 0))
    peak, final = config.learning_rate, config.final_lr
    if config.schedule == "constant":
        main = optax.constant_schedule(peak)
    else:
        main = optax.cosine_decay_schedule(peak, max(steps - warmup, 1), alpha=final / peak)
    if not warmup:
        return main
    return optax.join_schedules([optax.linear_schedule(peak / warmup, peak, warmup - 1 or 1), main], [warmup])


def _factors(
    config: ConfigDict, names: Sequence[str], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """Learning rate factor of each parameter; an array over the layer axis for scanned blocks."""
    factors: dict[str, Any] = dict.fromkeys(names, 1.0)
    if config.layer_decay != 1:
        depth = max((shapes[name][0] for name in names if name.startswith("blocks/")), default=0)
        if not depth:
            raise UserError(
                f"config.optim.layer_decay={config.layer_decay}: the model has no trainable blocks/ parameters"
            )
        for name in names:
            if name.startswith("blocks/"):
                layer = np.arange(1, depth + 1).reshape(-1, *(1,) * (len(shapes[name]) - 1))
                factors[name] = (config.layer_decay ** (depth + 1 - layer)).astype(np.float32)
            elif name.split("/")[0] in ("cls_token", "pos_embed", "patch_embed", "trunk"):
                factors[name] = config.layer_decay ** (depth + 1)
    for pattern, factor in config.lr_rules:
        for name in _matching("lr_rules", [pattern], names):
            factors[name] = factors[name] * factor
    return factors


def _scale_by(factors: Mapping[str, Any]) -> optax.GradientTransformation:
    return optax.stateless(
        lambda updates, _: {n: u * jnp.asarray(factors[n], u.dtype) for n, u in updates.items()}
    )
