"""What `fusionjax.register` registers: a record of each task, data set, backbone family and fusion head."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ml_collections import ConfigDict


def _nothing(config: ConfigDict) -> Sequence[str]:
    return ()


def _no_rules(config: ConfigDict) -> None:
    return None


def _never(config: ConfigDict) -> bool:
    return False


def _as_named(config: ConfigDict) -> tuple[str, ...]:
    return tuple(config.data.eval_splits)


@dataclasses.dataclass(frozen=True)
class Sharing:
    """What `fusionjax export` has to know of a task to make a folder of a run that others can read.

    Attributes:
        use: what its model is for: a sentence of the model card.
        pipeline_tag: the Hugging Face hub's name of such a model, e.g. "image-classification"; "" where it has none.
        files: fields of its sections that name what a trained run opens again: a folder with a tokenizer, or a JSON file.
        weights: fields of its sections that name weights, which only the start of a training reads.
    """

    use: str = ""
    pipeline_tag: str = ""
    files: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class TaskRecord:
    """A task as the rest of the program knows it before it is built. Importing it must not import jax.

    Attributes:
        name: value of `config.task`.
        build: (config, facts of the data) → the task, see `fusionjax.tasks.base.protocol`.
        sections: name of a config section → its fields with their defaults. Tasks may share a section.
        check: raises a UserError where the config cannot be: the task's own rules.
        reads: config → names of the fields that a run with this config reads beyond those that every run reads (see
            `fusionjax.config.ownership`): "fusion.head", or "fusion.*" for a whole section.
        reported_splits: config → names under which the scores of `data.eval_splits` appear.
        frozen_trunk: config → whether the task brings a frozen trunk of its own, whose outputs can be cached.
        training_free: whether a run of no epoch is one.
        builds: name of a model that the task puts together itself, a value of `config.model.name` → the fields of
            `config.model` that it reads. Empty for a task that takes the models of the backbone families.
        examples: "section.field" of a tuple that is empty by default → an example of it, whose elements have all possible
            types, e.g. {"spectral.train_on": ("rgb",)}; without one, any elements pass.
        classifies: whether it learns the classes of the data, so that there must be two or more.
        sharing: for the model card and the files of an exported run.
    """

    name: str
    build: Callable[..., Any]
    sections: Mapping[str, Callable[[], ConfigDict]] = dataclasses.field(default_factory=dict)
    check: Callable[[ConfigDict], None] = _no_rules
    reads: Callable[[ConfigDict], Sequence[str]] = _nothing
    reported_splits: Callable[[ConfigDict], tuple[str, ...]] = _as_named
    frozen_trunk: Callable[[ConfigDict], bool] = _never
    training_free: bool = False
    builds: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    examples: Mapping[str, tuple[object, ...]] = dataclasses.field(default_factory=dict)
    classifies: bool = True
    sharing: Sharing = Sharing()


@dataclasses.dataclass(frozen=True)
class DatasetRecord:
    """A data set's reader.

    Attributes:
        name: value of `config.data.source`.
        create: (config.data, split, seed=…) → `fusionjax.data.source.Source`.
        reads: fields of `config.data` that it reads beyond those that every data set reads, e.g. ("root", "renderings").
        check: raises a UserError where the config cannot be: the data set's own rules.
        lists_folders: whether it takes all folders below the root for data, so that nothing else may be written there.
        licence: of the data, where they come as a package; "" where it is their authors' to say.
    """

    name: str
    create: Callable[..., Any]
    reads: tuple[str, ...] = ("root",)
    check: Callable[[ConfigDict], None] = _no_rules
    lists_folders: bool = False
    licence: str = ""


class BackboneRecord(Protocol):
    """What is asked of a family's record here; the whole of it is `fusionjax.models.backbones.record.Family`.

    Attributes:
        name: of the family.
        names: of its models, values of `config.model.name`.
        reads: fields of `config.model` that they read.
        spared: those that they do not read but that may be set.
    """

    @property
    def name(self) -> str: ...

    @property
    def reads(self) -> tuple[str, ...]: ...

    @property
    def spared(self) -> tuple[str, ...]: ...

    @property
    def names(self) -> tuple[str, ...]: ...


@dataclasses.dataclass(frozen=True)
class FusionHeadRecord:
    """A head of the task fusion.

    Attributes:
        name: value of `config.fusion.head`.
        module: class of the linen module, a `fusionjax.models.methods.fusion_heads.Head` or one with its fields and call.
        reads: field of the module → field of `config.fusion` that it is set from.
        undecayed: patterns of its parameters that weight decay spares, beside biases and the scales of norms.
    """

    name: str
    module: type[Any]
    reads: Mapping[str, str] = dataclasses.field(default_factory=dict)
    undecayed: tuple[str, ...] = ()

    def options(self, fusion: ConfigDict) -> dict[str, Any]:
        """The module's fields that `config.fusion` sets."""
        return {field: fusion[key] for field, key in self.reads.items()}
