"""The record of the task "classification"."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from fusionjax.register import Sharing, TaskRecord
from fusionjax.tasks.base import fields

if TYPE_CHECKING:
    from fusionjax.tasks.base.protocol import Facts, Task


def build(config: ConfigDict, facts: "Facts") -> "Task":
    """See `TaskRecord`."""
    from fusionjax.tasks.classification import task

    return task.create(config, facts)


def reads(config: ConfigDict) -> Sequence[str]:
    """See `TaskRecord`."""
    return (*fields.CLASS_LOSS, "loss.mixup", "loss.cutmix", *fields.CHANNELS)


RECORD = TaskRecord(
    "classification",
    build,
    reads=reads,
    sharing=Sharing("Names the class of an image.", "image-classification"),
)
