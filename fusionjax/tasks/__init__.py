"""Tasks: what a run learns. One file a task; the loop, the data and the report are the same for all."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from fusionjax.errors import UserError
from fusionjax.tasks.classification.task import Classification
from fusionjax.tasks.contrastive.task import Spectral
from fusionjax.tasks.image_text.fusion import Fusion
from fusionjax.tasks.image_text.mvpdr import MVPDR
from fusionjax.tasks.multimodal.trimodal import AudioVisual, Trimodal
from fusionjax.tasks.multimodal.vqa import VQA
from fusionjax.tasks.reid.task import ReIdentification

TASKS = {
    "classification": Classification,
    "reid": ReIdentification,
    "fusion": Fusion,
    "mvpdr": MVPDR,
    "spectral": Spectral,
    "trimodal": Trimodal,
    "audiovisual": AudioVisual,
    "vqa": VQA,
}


def create(config: ConfigDict, class_names: Sequence[str]):
    """The task of `config.task`.

    Args:
        config: of the whole run, validated.
        class_names: of the data set.

    Raises:
        UserError: an unknown task, or a model that cannot be built.
    """
    if config.task not in TASKS:
        raise UserError(f"config.task={config.task!r} is not known; allowed: {', '.join(TASKS)}")
    return TASKS[config.task](config, class_names)
