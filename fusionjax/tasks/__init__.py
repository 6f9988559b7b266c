"""Tasks: model, loss and evaluation of a run, one package per task. All share the loop, the data and the report.

A task's record (`fusionjax.register.TaskRecord`) holds its config sections, its rules and what it reads. It is light; the
task itself is imported when it is built.
"""

from typing import TYPE_CHECKING

import numpy as np
from ml_collections import ConfigDict

from fusionjax import register
from fusionjax.errors import UserError

if TYPE_CHECKING:
    from fusionjax.tasks.base.protocol import Facts, Task


def create(config: ConfigDict, facts: "Facts") -> "Task":
    """The task of `config.task`.

    Args:
        config: of the whole run, validated.
        facts: of the data, `tasks.base.protocol.Facts`.

    Raises:
        UserError: an unknown task, a model that cannot be built, or fewer than two classes to learn.
    """
    record = register.tasks.get(config.task)
    if record.classifies:
        _check_classes(facts)
    return record.build(config, facts)


def _check_classes(facts: "Facts") -> None:
    """Raises UserError where there is one class: every accuracy would be 1, and mean nothing."""
    train, names = facts.train, facts.class_names
    if len(names) < 2:
        of = f"{train.name} has one class" if train is not None else "there is one class"
        raise UserError(
            f"{of}{f', {names[0]!r}' if names else ' or none'}; two or more are needed: check config.data.root, and the labels"
        )
    if train is not None and len(train) and len(used := np.unique(train.labels)) < 2:
        raise UserError(
            f"every example of split {train.split!r} of {train.name} is of class {names[used[0]]!r}; training needs two "
            "classes or more: check the labels of this split"
        )
