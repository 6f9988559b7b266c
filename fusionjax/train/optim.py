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
from fusionjax.models.parameters import NOTHING_KNOWN, Parameters
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
    config: ConfigDict,
    params: PyTree,
    *,
    steps: int,
    steps_per_epoch: float,
    frozen: Sequence[str] = (),
    parameters: Parameters = NOTHING_KNOWN,
) -> Optimizer:
    """The optimiser of `config.optim`.

    Args:
        config: `optim` section.
        params: nested dict of arrays or shapes.
        steps: of the whole run.
        steps_per_epoch: what an epoch of warm-up means.
        frozen: further patterns of parameters that do not train, beside `config.freeze`.
        parameters: what the records of the model's families say: which parameters are not decayed, beside `config.no_decay`,
            which are stacked, and the order of the layers. See `fusionjax.models.parameters.of`.

    Raises:
        UserError: a pattern that is no regular expression or matches no parameter, or nothing left to train.
    """
    names = list(flatten(params))
    shapes = {name: np.shape(value) for name, value in flatten(params).items()}
    held = frozenset(matching("freeze", [*config.freeze, *frozen], names))
    trainable = [name for name in names if name not in held]
    if not trainable:
        raise UserError(f"config.optim.freeze={config.freeze!r} leaves no parameter to train")
    undecayed = matching("no_decay", config.no_decay, names)
    if not config.decay_all:
        undecayed |= {name for name in names if not parameters.decays(name)}
    schedule = _schedule(config, steps, steps_per_epoch)
    factors = _factors(config, trainable, shapes, parameters)
    decay = []
    if config.weight_decay:
        mask = {name: name not in undecayed for name in trainable}
        decay = [optax.add_decayed_weights(config.weight_decay, mask=mask)]
    if config.name == "adamw":
        core = [optax.scale_by_adam(config.b1, config.b2, config.eps), *decay]
    elif config.name == "adam":
        core = [*decay, optax.scale_by_adam(config.b1, config.b2, config.eps)]
    elif config.name == "lars":
        stacked = {name for name in trainable if parameters.is_stacked(name)}
        tx = _lars(config, shapes, trainable, undecayed, stacked, factors, schedule)
        return Optimizer(tx, schedule, held)
    else:
        core = [*decay, optax.trace(config.momentum)]
    tx = optax.chain(*_clip(config), *core, *_scaled(factors), optax.scale_by_learning_rate(schedule))
    return Optimizer(tx, schedule, held)


def _lars(
    config: ConfigDict,
    shapes: Mapping[str, tuple[int, ...]],
    names: Sequence[str],
    undecayed: set[str],
    scanned: set[str],
    factors: Mapping[str, Any],
    schedule: Callable[[Any], Any],
) -> optax.GradientTransformation:
    """SGD whose step in each layer is `trust_coefficient` · |w| / |g + decay · w| of the learning rate.

    As google-research/simclr has it: the learning rate stands inside the momentum, and biases, norms, and what else is not
    decayed are not adapted either. The blocks of a scan, which are stacked along the first axis, are a layer each.

    Source: You, Gitman & Ginsburg, 2017, arXiv 1708.03888.
    """
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


def matching(field: str, patterns: Sequence[str], names: Sequence[str]) -> set[str]:
    """Names that any of the patterns is found in.

    Args:
        field: of `config.optim` that holds the patterns, for messages.
        patterns: regular expressions.
        names: of all parameters.

    Raises:
        UserError: a pattern that is no regular expression or is found in no name.
    """
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
    config: ConfigDict, names: Sequence[str], shapes: Mapping[str, tuple[int, ...]], parameters: Parameters
) -> dict[str, Any]:
    """Learning rate factor of each parameter; an array over the layer axis for scanned blocks.

    With L layers the embedding's is `layer_decay`^(L + 1), that of block i `layer_decay`^(L + 1 − i), the head's 1; a network
    that feeds another's embedding goes on from there. Source: Bao et al., BEiT, ICLR 2022, arXiv 2106.08254, appendix.
    """
    factors: dict[str, Any] = dict.fromkeys(names, 1.0)
    if config.layer_decay != 1:
        down = {name: parameters.distance(name, shapes[name]) for name in names}
        if not any(np.any(distance) for distance in down.values()):
            raise UserError(
                f"config.optim.layer_decay={config.layer_decay}: no parameter that trains belongs to a network whose layers "
                "have an order; set it to 1"
            )
        for name, distance in down.items():
            factor = config.layer_decay**distance
            factors[name] = factor.astype(np.float32) if isinstance(factor, np.ndarray) else factor
    for pattern, factor in config.lr_rules:
        for name in matching("lr_rules", [pattern], names):
            factors[name] = factors[name] * factor
    return factors


def _scale_by(factors: Mapping[str, Any]) -> optax.GradientTransformation:
    return optax.stateless(
        lambda updates, _: {n: u * jnp.asarray(factors[n], u.dtype) for n, u in updates.items()}
    )
