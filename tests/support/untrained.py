"""A run with fresh weights: what `fusionjax.load` gives, without training and without a workdir."""

import functools
from pathlib import Path

import jax
from ml_collections import ConfigDict

from fusionjax import config as config_lib
from fusionjax import tasks
from fusionjax.data import datasets
from fusionjax.distributed import mesh as mesh_lib
from fusionjax.experiment.inference import Run
from fusionjax.tasks.base.protocol import Facts


def run(config: ConfigDict, seed: int = 0, *, shapes_only: bool = False) -> Run:
    """An untrained model of a config over its data set; with `shapes_only` its variables have no values."""
    config_lib.validate(config)
    train = datasets.create(config.data, config.data.train_split, seed=config.seed)
    task = tasks.create(config, Facts(tuple(train.class_names)))
    init = functools.partial(jax.eval_shape, task.model.init) if shapes_only else jax.jit(task.model.init)
    variables = init(jax.random.key(seed))
    return Run(Path("untrained"), config, task, mesh_lib.create(), variables, 0)
