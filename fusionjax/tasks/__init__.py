"""Tasks: what a run learns. A package each; the loop, the data and the report are the same for all."""

import importlib

from ml_collections import ConfigDict

from fusionjax.errors import UserError

TASKS = {
    "classification": "fusionjax.tasks.classification.task",
    "reid": "fusionjax.tasks.reid.task",
    "fusion": "fusionjax.tasks.image_text.fusion",
    "mvpdr": "fusionjax.tasks.image_text.mvpdr",
    "spectral": "fusionjax.tasks.contrastive.task",
    "trimodal": "fusionjax.tasks.multimodal.trimodal",
    "audiovisual": "fusionjax.tasks.multimodal.trimodal",
    "vqa": "fusionjax.tasks.multimodal.vqa",
}


def create(config: ConfigDict, facts):
    """The task of `config.task`.

    Args:
        config: of the whole run, validated.
        facts: of the data, `tasks.base.protocol.Facts`.

    Raises:
        UserError: an unknown task, or a model that cannot be built.
    """
    if config.task not in TASKS:
        raise UserError(f"config.task={config.task!r} is not known; allowed: {', '.join(TASKS)}")
    return importlib.import_module(TASKS[config.task]).create(config, facts)
