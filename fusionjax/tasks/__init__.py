"""Tasks: model, loss and evaluation of a run, one package per task. All share the loop, the data and the report.

A task's record (`fusionjax.register.TaskRecord`) holds its config sections, its rules and what it reads. It is light; the
task itself is imported when it is built.
"""

from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from fusionjax import register
from fusionjax.data.datasets import checks

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
    if record.classifies and facts.train is not None:
        checks.trains_two_classes(facts.train)
    return record.build(config, facts)
