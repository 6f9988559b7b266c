"""Tasks: what a run learns. A package each; the loop, the data and the report are the same for all.

A task's record (`fusionjax.register.TaskRecord`) holds its config sections, its rules and what it reads. It is light; the
task itself is imported when it is built.
"""

from typing import Any

from ml_collections import ConfigDict

from fusionjax import register


def create(config: ConfigDict, facts: Any) -> Any:
    """The task of `config.task`.

    Args:
        config: of the whole run, validated.
        facts: of the data, `tasks.base.protocol.Facts`.

    Raises:
        UserError: an unknown task, or a model that cannot be built.
    """
    return register.tasks.get(config.task).build(config, facts)
