r"""A run on nothing but modules of one's own: python -m fusionjax.main --config=toy_config.py:task=fusion --workdir=run

Arguments: task=confident|classification|fusion, encoder=<text encoder of task=fusion>.
"""

# Importing a module registers its names.
import toy_backbone  # noqa: F401
import toy_dataset  # noqa: F401
import toy_fusion_head  # noqa: F401
import toy_task  # noqa: F401
from ml_collections import ConfigDict

from fusionjax import config as base


def get_config(arg: str | None = None) -> ConfigDict:
    """Two dozen steps of eight images."""
    arg = base.parse_arg(arg, task=("confident", "classification", "fusion"), encoder="")
    c = base.default()
    c.task = arg.task
    c.data.source, c.data.threads = "squares", 2
    c.data.resize, c.data.image_size = 36, 32
    c.train.batch_size, c.train.steps, c.train.log_every, c.train.eval_every_epochs = 8, 24, 8, 0.0
    c.optim.learning_rate, c.optim.weight_decay = 1e-2, 0.05
    c.evaluation.batch_size, c.report.examples = 8, 2
    c.model.ablation = "sa_only"
    if arg.task == "fusion":
        c.model.name, c.model.trunk = "fusion", "vit_shallow"
        c.model.width, c.model.depth, c.model.heads, c.model.mlp_ratio = 16, 1, 2, 2.0
        c.fusion.head, c.text.encoder, c.text.max_tokens = "modulated", arg.encoder, 16
        return c
    c.model.name, c.model.width = "pooled_tiny", 24
    if arg.task == "confident":
        c.confident.penalty = 0.2
    return c
