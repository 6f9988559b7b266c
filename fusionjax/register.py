"""Where tasks, data sets, backbone families and fusion heads are found by name, those of a user's own module among them.

What comes with fusionjax is listed here by the place of its record, which is imported when it is first asked for. A user's
module registers its own by a call or a decorator, or an installed package by an entry point of the groups
`fusionjax.tasks`, `fusionjax.datasets`, `fusionjax.backbones` and `fusionjax.fusion_heads` (name → record)::

    from fusionjax import register

    @register.dataset("shapes", reads=("root",))
    def create(data, split, *, seed): ...

CONTRIBUTING.md shows a whole example of each.
"""

import difflib
import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from ml_collections import ConfigDict

from fusionjax.errors import UserError
from fusionjax.records import (
    BackboneRecord,
    DatasetRecord,
    FusionHeadRecord,
    Sharing,
    TaskRecord,
)

__all__ = [
    "BackboneRecord",
    "DatasetRecord",
    "FusionHeadRecord",
    "Registry",
    "Sharing",
    "TaskRecord",
    "backbone",
    "backbones",
    "dataset",
    "datasets",
    "fusion_head",
    "fusion_heads",
    "task",
    "tasks",
]
T = TypeVar("T")


class Registry(Generic[T]):
    """Records by name; built-in ones and those of entry points are imported when they are first asked for.

    Args:
        what: a record of it is called this in messages, e.g. "data set".
        field: the config field that holds the name, e.g. "data.source".
        builtin: name → "module:attribute" of the record.
        group: of the entry points.
    """

    def __init__(self, what: str, field: str, builtin: Mapping[str, str], group: str):
        self.what, self.field, self.group = what, field, group
        self._places: dict[str, str] = dict(builtin)
        self._found: dict[str, T] = {}
        self._loading: set[str] = set()
        self._searched = False

    def add(self, name: str, record: T) -> T:
        """Registers a record under a name.

        Raises:
            UserError: the name is taken by another record.
        """
        taken = self._found.get(name)
        # A module that is imported twice, as a config file and by name, registers the same thing twice; one that an entry
        # point names registers while it is imported.
        same = taken is not None and _origin(taken) == _origin(record)
        expected = taken is None and (name in self._loading or name not in self._places)
        if not (same or expected):
            raise UserError(f"the {self.what} {name!r} is registered already; choose another name")
        self._found[name] = record
        return record

    def names(self) -> tuple[str, ...]:
        """Every registered name: built-in ones in their order, then the others."""
        self._search()
        return tuple(dict.fromkeys([*self._places, *self._found]))

    def get(self, name: str) -> T:
        """The record of a name.

        Raises:
            UserError: the name is not registered; says which are, and the nearest.
        """
        if name not in self._found:
            self._search()
        if name not in self._found and name in self._places:
            self._load(name, self._places[name])
        if name not in self._found:
            near = difflib.get_close_matches(name, self.names(), 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise UserError(
                f"config.{self.field}={name!r} is not known; allowed: {', '.join(self.names())}{hint}. "
                "A module of your own registers its names when the config file imports it, or by --import=<module>"
            )
        return self._found[name]

    def records(self) -> Iterator[tuple[str, T]]:
        """(name, record) of all."""
        for name in self.names():
            yield name, self.get(name)

    def _load(self, name: str, place: str) -> None:
        """Imports the module of a record, which may register it itself."""
        module, _, attribute = place.partition(":")
        self._loading.add(name)
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as e:
            raise UserError(f"the {self.what} {name!r} cannot be imported from {place}: {e}") from e
        finally:
            self._loading.discard(name)
        self._found.setdefault(name, found)

    def _search(self) -> None:
        """Entry points, once; a name that is taken stays what it is."""
        if self._searched:
            return
        self._searched = True
        for point in importlib.metadata.entry_points(group=self.group):
            if point.name not in self._places and point.name not in self._found:
                self._places[point.name] = point.value


def _origin(record: object) -> tuple[str, str]:
    """Where what a record is made from stands: the same for a module that is imported twice."""
    places = ("build", "create", "module")
    made: object = next((getattr(record, key) for key in places if hasattr(record, key)), record)
    if isinstance(made, type):
        module = sys.modules.get(made.__module__)
        return getattr(module, "__file__", None) or made.__module__, made.__qualname__
    code = getattr(made, "__code__", None)
    return (code.co_filename, getattr(made, "__qualname__", "")) if code else ("", repr(record))


tasks: Registry[TaskRecord] = Registry(
    "task",
    "task",
    {
        "classification": "fusionjax.tasks.classification.record:RECORD",
        "reid": "fusionjax.tasks.reid.record:RECORD",
        "fusion": "fusionjax.tasks.image_text.records:FUSION",
        "mvpdr": "fusionjax.tasks.image_text.records:MVPDR",
        "spectral": "fusionjax.tasks.contrastive.record:RECORD",
        "trimodal": "fusionjax.tasks.multimodal.records:TRIMODAL",
        "audiovisual": "fusionjax.tasks.multimodal.records:AUDIOVISUAL",
        "vqa": "fusionjax.tasks.multimodal.records:VQA",
    },
    "fusionjax.tasks",
)
datasets: Registry[DatasetRecord] = Registry(
    "data set",
    "data.source",
    {
        "folder": "fusionjax.data.datasets.folder:RECORD",
        "manifest": "fusionjax.data.datasets.manifest:RECORD",
        "tfds": "fusionjax.data.datasets.tfds:RECORD",
        "cub": "fusionjax.data.datasets.cub:RECORD",
        "cars": "fusionjax.data.datasets.cars:RECORD",
        "aircraft": "fusionjax.data.datasets.aircraft:RECORD",
        "openmoji": "fusionjax.data.datasets.openmoji:RECORD",
        "stamps": "fusionjax.data.datasets.stamps:RECORD",
        "market1501": "fusionjax.data.datasets.market1501:RECORD",
        "dukemtmc": "fusionjax.data.datasets.dukemtmc:RECORD",
        "msmt17": "fusionjax.data.datasets.msmt17:RECORD",
        "veri776": "fusionjax.data.datasets.veri776:RECORD",
        "prepared": "fusionjax.data.datasets.prepared:RECORD",
        "multispectral": "fusionjax.data.datasets.multispectral:RECORD",
        "openmoji_pair": "fusionjax.data.datasets.openmoji_pair:RECORD",
        "vqa2": "fusionjax.data.datasets.vqa2:RECORD",
    },
    "fusionjax.datasets",
)

_RECORDS = "fusionjax.models.backbones.records"
_HEADS = "fusionjax.models.methods.fusion_heads"

backbones: Registry[BackboneRecord] = Registry(
    "backbone family",
    "model.name",
    {
        "vit": f"{_RECORDS}.vit:FAMILY",
        "dcal": "fusionjax.models.methods.dcal_record:FAMILY",
        "crossvit": f"{_RECORDS}.crossvit:FAMILY",
        "efficientnet": f"{_RECORDS}.efficientnet:FAMILY",
        "resnet": f"{_RECORDS}.resnet:FAMILY",
        "clip": f"{_RECORDS}.clip:FAMILY",
        "text": f"{_RECORDS}.text:FAMILY",
        "wav2vec2": f"{_RECORDS}.wav2vec2:FAMILY",
        "mel": f"{_RECORDS}.mel:FAMILY",
    },
    "fusionjax.backbones",
)
fusion_heads: Registry[FusionHeadRecord] = Registry(
    "fusion head",
    "fusion.head",
    {
        "concat": f"{_HEADS}:CONCAT",
        "adaptive": f"{_HEADS}:ADAPTIVE",
        "bilinear": f"{_HEADS}:BILINEAR",
        "attention": f"{_HEADS}:ATTENTION",
        "bottleneck": f"{_HEADS}:BOTTLENECK",
        "low_rank": f"{_HEADS}:LOW_RANK",
    },
    "fusionjax.fusion_heads",
)


def task(
    name: str,
    *,
    sections: Mapping[str, Callable[[], ConfigDict]] | None = None,
    check: Callable[[ConfigDict], None] = TaskRecord.check,
    reads: Callable[[ConfigDict], Sequence[str]] | Sequence[str] = (),
    reported_splits: Callable[[ConfigDict], tuple[str, ...]] = TaskRecord.reported_splits,
    frozen_trunk: Callable[[ConfigDict], bool] = TaskRecord.frozen_trunk,
    training_free: bool = False,
    builds: Mapping[str, Sequence[str]] | None = None,
    examples: Mapping[str, tuple[object, ...]] | None = None,
    sharing: Sharing | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator of a task's builder, (config, facts) → task.

    Args:
        name, sections, check, reported_splits, frozen_trunk, training_free, builds, examples, sharing: see `TaskRecord`.
        reads: as there, or the fields themselves where they are always the same.
    """

    def register(build: Callable[..., Any]) -> Callable[..., Any]:
        fields = reads if callable(reads) else lambda config: tuple(reads)
        record = TaskRecord(
            name,
            build,
            sections or {},
            check,
            fields,
            reported_splits,
            frozen_trunk,
            training_free,
            builds or {},
            examples or {},
            sharing=sharing or Sharing(),
        )
        tasks.add(name, record)
        return build

    return register


def dataset(
    name: str, *, reads: tuple[str, ...] = ("root",), check: Callable[[ConfigDict], None] = TaskRecord.check
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator of a reader, (config.data, split, seed=…) → source; see `DatasetRecord`."""

    def register(create: Callable[..., Any]) -> Callable[..., Any]:
        datasets.add(name, DatasetRecord(name, create, reads, check))
        return create

    return register


def backbone(record: BackboneRecord) -> BackboneRecord:
    """Registers a backbone family: `register.backbone(Family(...))`, see `fusionjax.models.backbones.record`.

    Raises:
        UserError: its name, or the name of one of its models, is taken.
    """
    for other, found in backbones.records():
        shared = sorted(set(found.names) & set(record.names))
        if shared and _origin(found) != _origin(record):
            raise UserError(
                f"backbone family {record.name!r}: the model {shared[0]!r} is of {other!r} already"
            )
    return backbones.add(record.name, record)


def fusion_head(
    name: str, *, reads: Mapping[str, str] | None = None, undecayed: tuple[str, ...] = ()
) -> Callable[[type[T]], type[T]]:
    """Decorator of a head's module class; see `FusionHeadRecord` for the arguments."""

    def register(module: type[T]) -> type[T]:
        fusion_heads.add(name, FusionHeadRecord(name, module, reads or {}, undecayed))
        return module

    return register
