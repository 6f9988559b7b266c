"""Who reads a field: a field that this run does not read, set to other than its default, would be ignored in silence.

Owners are the core (`READ_BY_EVERY_RUN`, and `CONDITIONS` where another field decides), the run's task, its data source and
its model, which name what they read in their records. A model is of a backbone family, or of a task that puts it together.

A *choice* decides which fields are read: with optim.name="sgd" nothing reads optim.b1. An *ablation* leaves a part of a
method out (model.ablation, fusion.mode, trimodal.modalities); the fields of that part may stay, so that one override makes
the ablation of a config.

A switch that an override turns off takes its fields along: what the config file set beside it returns to its default
(`put_back`). What an override sets itself must be read.
"""

import dataclasses
import shlex
from collections.abc import Callable, Collection, Iterator
from fnmatch import fnmatchcase
from typing import Any

from ml_collections import ConfigDict

from fusionjax import register
from fusionjax.config.rules import value_of
from fusionjax.config.schema import CORE, default
from fusionjax.errors import UserError

READ_BY_EVERY_RUN = (
    "task", "seed", "precision", "data.source", "data.train_split", "data.eval_splits", "data.label",
    "data.selected_classes", "data.carry", "data.per_identity", "data.image_shape", "data.interpolation", "data.mean",
    "data.std", "data.threads", "data.prefetch", "data.max_bad_fraction", "data.max_pixels", "data.value_range",
    "data.check_counts", "data.augment.crop", "data.augment.flip", "data.augment.rotate", "data.augment.jitter",
    "data.augment.rand_operations", "data.augment.erase", "data.cache.enabled", "model.name", "pretrained.source",
    "optim.name", "optim.learning_rate", "optim.schedule", "optim.warmup_epochs", "optim.weight_decay", "optim.no_decay",
    "optim.decay_all",
    "optim.clip_norm", "optim.accumulate", "optim.layer_decay", "optim.lr_rules", "optim.freeze", "optim.ema_decay",
    "train.*", "evaluation.batch_size", "report.*",
)  # fmt: skip
"""Fields that every run reads."""


@dataclasses.dataclass(frozen=True)
class Condition:
    """Fields of every run that another field switches on.

    Attributes:
        fields: patterns.
        when: config → whether they are read.
        words: `when` as a message says it, after "only with".
    """

    fields: tuple[str, ...]
    when: Callable[[ConfigDict], bool]
    words: str


CONDITIONS = (
    Condition(
        ("data.resize", "data.resize_mode", "data.image_size"),
        lambda c: not c.data.image_shape,
        "data.image_shape=()",
    ),
    Condition(("data.channels", "data.nodata"), lambda c: bool(c.data.modalities), "data.modalities"),
    Condition(
        ("data.augment.scale", "data.augment.ratio"),
        lambda c: c.data.augment.crop == "random_resized",
        "data.augment.crop='random_resized'",
    ),
    Condition(("data.augment.pad",), lambda c: c.data.augment.crop == "random", "data.augment.crop='random'"),
    Condition(
        ("data.augment.rand_magnitude",),
        lambda c: c.data.augment.rand_operations > 0,
        "data.augment.rand_operations above 0",
    ),
    Condition(("data.augment.erase_fill",), lambda c: c.data.augment.erase > 0, "data.augment.erase above 0"),
    Condition(("data.cache.*",), lambda c: c.data.cache.enabled, "data.cache.enabled=True"),
    Condition(("evaluation.probe",), lambda c: c.data.cache.enabled, "data.cache.enabled=True"),
    Condition(
        ("pretrained.name", "pretrained.into", "pretrained.skip"),
        lambda c: bool(c.pretrained.source),
        "a pretrained.source",
    ),
    Condition(
        ("optim.b1", "optim.b2", "optim.eps"),
        lambda c: c.optim.name in ("adamw", "adam"),
        "optim.name='adamw' or 'adam'",
    ),
    Condition(("optim.momentum",), lambda c: c.optim.name in ("sgd", "lars"), "optim.name='sgd' or 'lars'"),
    Condition(("optim.trust_coefficient",), lambda c: c.optim.name == "lars", "optim.name='lars'"),
    Condition(("optim.final_lr",), lambda c: c.optim.schedule == "cosine", "optim.schedule='cosine'"),
    # Of a switch that a task reads. Where it does not, the switch itself is refused.
    Condition(("loss.focal_alpha",), lambda c: c.loss.focal_gamma > 0, "loss.focal_gamma above 0"),
    Condition(("loss.circle_scale",), lambda c: c.loss.metric == "circle", "loss.metric='circle'"),
    Condition(("evaluation.rerank_*",), lambda c: c.evaluation.rerank, "evaluation.rerank=True"),
    Condition(
        ("data.question_types",), lambda c: c.data.questions == "captions", "data.questions='captions'"
    ),
    Condition(("loss.branch_weighting", "loss.uncertainty_init"), lambda c: has_branches(c), "a DCAL model"),
    Condition(
        ("loss.pair_group",),
        lambda c: has_branches(c) or c.loss.mixup > 0 or c.loss.cutmix > 0,
        "a DCAL model, loss.mixup or loss.cutmix",
    ),
)


def has_branches(config: ConfigDict) -> bool:
    """Whether the model's family reads `model.ablation`: DCAL, whose branches may be more than one."""
    family = _family(config)
    return family is not None and "ablation" in family.reads


def check(config: ConfigDict) -> None:
    """Refuses a config with a field that the run does not read and that is not at its default.

    Args:
        config: of the whole run, with every field, of the right types.

    Raises:
        UserError: the first such field, who reads it, and the names of further ones; one line.
    """
    found = unread(config)
    if not found:
        return
    key, normal = found[0], default()
    reset = " ".join(f"--config.{name}={shlex.quote(str(value_of(normal, name)))}" for name in found)
    raise UserError(
        f"config.{key}={value_of(config, key)!r} is not read by this run: {_readers(config, key)}. To leave "
        f"{'it' if len(found) == 1 else 'such fields'} at the default: {reset}"
    )


def unread(config: ConfigDict) -> list[str]:
    """Names of the fields that are not at their defaults although the run does not read them."""
    patterns = read(config)
    normal = dict(leaves(default()))
    return [
        key
        for key, value in leaves(config)
        if value != normal[key] and not any(fnmatchcase(key, pattern) for pattern in patterns)
    ]


def put_back(config: ConfigDict, before: ConfigDict, overridden: Collection[str]) -> list[str]:
    """Puts fields that overrides have made unread back to their defaults, so that one override turns a part of a run off.

    A field that the config file sets and reads is nobody's mistake when an override of another field switches it off. One that
    an override sets itself, or that the file sets in vain, stays as it is, for `check` to refuse.

    Args:
        config: with the overrides; is changed.
        before: as the config file gave it.
        overridden: dotted names of the overrides.

    Returns:
        The names of the fields that were put back.
    """
    kept = {*unread(before), *overridden}
    names = [name for name in unread(config) if name not in kept]
    normal = default()
    for name in names:
        section, _, field = name.rpartition(".")
        target = value_of(config, section) if section else config
        target[field] = value_of(normal, name)
    return names


def read(config: ConfigDict) -> tuple[str, ...]:
    """Patterns of the fields that a run reads."""
    conditional = (field for c in CONDITIONS if c.when(config) for field in c.fields)
    source = (f"data.{field}" for field in register.datasets.get(config.data.source).reads)
    own = register.tasks.get(config.task).reads(config)
    return (*READ_BY_EVERY_RUN, *conditional, *own, *source, *_of_model(config))


def _family(config: ConfigDict) -> register.BackboneRecord | None:
    """The backbone family of the run's model; None for a model that its task builds, and for an unknown name."""
    families = (family for _, family in register.backbones.records())
    return next((family for family in families if config.model.name in family.names), None)


def _model_reads(config: ConfigDict) -> tuple[str, ...] | None:
    """Fields of `config.model` that the run's model reads; None for a name that nobody knows."""
    built = register.tasks.get(config.task).builds.get(config.model.name)
    if built is not None:
        return tuple(built)
    family = _family(config)
    return None if family is None else tuple(family.reads)


def _of_model(config: ConfigDict) -> Iterator[str]:
    """Patterns of `config.model`; an unknown name is an error of its own, which needs no second one."""
    reads, family = _model_reads(config), _family(config)
    for field in ("*",) if reads is None else (*reads, *(family.spared if family else ())):
        yield from (f"model.{field}", f"model.{field}.*")
    if config.model.ablation == "sa_only":  # no branch beside self-attention: true of every other model
        yield "model.ablation"


def leaves(config: ConfigDict, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every field."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _readers(config: ConfigDict, key: str) -> str:
    """Who would read a field that this run does not read."""
    found = [
        f"it is read only with {c.words}"
        for c in CONDITIONS
        if any(fnmatchcase(key, field) for field in c.fields)
    ]
    if found:
        return "; ".join(found)
    section, _, field = key.partition(".")
    if section == "model":
        fields = ", ".join(_model_reads(config) or ())
        return f"the model {config.model.name!r} has no such field; it has {fields}"
    sources = [name for name, record in register.datasets.records() if field in record.reads]
    if section == "data" and sources:
        found.append(f"{_listed('data source', sources)} reads it, not {config.data.source!r}")
    if section not in CORE and section in register.tasks.get(config.task).sections:
        found.append(f"the task {config.task!r} does not read it with its other settings")
    else:
        tasks = [
            name
            for name, record in register.tasks.records()
            if section in record.sections or any(fnmatchcase(key, p) for p in record.reads(config))
        ]
        if tasks:
            found.append(f"{_listed('task', tasks)} reads it, not {config.task!r}")
    return "; ".join(found) or "nothing reads it with these settings"


def _listed(what: str, names: list[str]) -> str:
    return f"the {what} {names[0]!r}" if len(names) == 1 else f"one of the {what}s {', '.join(names)}"
