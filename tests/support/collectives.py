"""Prints the number of collectives of a compiled train step: `python -m tests.support.collectives <folder> <ablation>`."""

import collections
import functools
import json
import pathlib
import re
import sys

import jax
import numpy as np

from fusionjax.distributed import mesh as mesh_lib
from fusionjax.experiment import trainer
from tests.support import tiny

KINDS = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"


def main(root: str, ablation: str) -> None:
    config = tiny.get_config(f"root={root},steps=2")
    config.train.batch_size, config.loss.pair_group, config.model.ablation = 8, 2, ablation
    run = trainer.Experiment(config, pathlib.Path(root) / "none")
    mesh = mesh_lib.create(config.train.batch_size)
    whole, split, optimizer = mesh_lib.replicated(mesh), mesh_lib.sharded(mesh), run.optimizer()

    def placed(tree, where):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree)

    state = jax.eval_shape(functools.partial(run.create_state, optimizer), run.abstract_variables())
    seed, skips = (placed(jax.ShapeDtypeStruct((), d), whole) for d in (np.uint32, np.float32))
    step = jax.jit(run.train_step(optimizer, mesh.size), out_shardings=(whole, whole))
    compiled = step.lower(placed(state, whole), placed(run.abstract_batch(), split), seed, skips).compile()
    found = re.findall(rf"= .*? ({KINDS})(?:-start)?\(", compiled.as_text())
    print(json.dumps(collections.Counter(found)))


if __name__ == "__main__":
    main(*sys.argv[1:])
