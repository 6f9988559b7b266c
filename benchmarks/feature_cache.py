r"""An epoch of image–text fusion with the frozen image encoder's features kept on disk, against one that runs it every step.

    python benchmarks/feature_cache.py --steps=40

Both train `configs/openmoji_fusion.py` with the same seeds and steps, in turns of five steps in one process, so that a drift
of the machine's speed meets both alike; text features are kept in both. Prints a Markdown table: milliseconds a step
(median), seconds an epoch, the ratio turn by turn (median), and what filling the cache cost. Needs the packages of the
quick start and MiniLM.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

TURN = 5


def contestant(cached: bool, folder: Path):
    """(run one turn → seconds, steps an epoch, seconds to make the feed)."""
    import jax

    from configs import openmoji_fusion
    from fusionjax.config import default
    from fusionjax.distributed import mesh as mesh_lib
    from fusionjax.experiment import trainer

    config = openmoji_fusion.get_config(f"cache={folder}")
    config.evaluation.probe = False
    if not cached:
        config.data.cache = default().data.cache
    config.data.threads = 2
    run = trainer.Experiment(config, folder / f"cached_{cached}")
    mesh, optimizer = mesh_lib.create(config.train.batch_size), run.optimizer()
    variables = run.initial_variables()
    began = time.perf_counter()
    feed = run._feed(mesh, variables)
    filled = time.perf_counter() - began
    state = jax.jit(lambda v: run._create_state(optimizer, v))(mesh_lib.put_replicated(variables, mesh))
    step = jax.jit(run.train_step(optimizer, mesh.size), donate_argnums=0)
    batches = feed.train()

    def turn() -> float:
        nonlocal state
        began = time.perf_counter()
        for batch in itertools.islice(batches, TURN):
            state, metrics = step(state, mesh_lib.put_batch(batch, mesh))
        jax.block_until_ready(metrics)
        return time.perf_counter() - began

    return turn, run.steps_per_epoch, filled


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = {cached: contestant(cached, Path(folder)) for cached in (True, False)}
        for turn, _, _ in made.values():
            turn()  # compilation, and the readers' first batches
        times = {True: [], False: []}
        for _ in range(arguments.steps // TURN):
            for cached, (turn, _, _) in made.items():
                times[cached].append(turn())
    ratio = statistics.median(a / b for a, b in zip(times[True], times[False], strict=True))
    print(
        "| image features | ms a step | s an epoch | ratio | s before the first step |\n|---|---|---|---|---|"
    )
    for cached, (_, steps, filled) in made.items():
        step = statistics.median(times[cached]) / TURN
        name = "kept on disk" if cached else "encoder in the step"
        shown = f"{ratio:.2f}" if cached else "1"
        print(f"| {name} | {1000 * step:.0f} | {step * steps:.1f} | {shown} | {filled:.0f} |")


if __name__ == "__main__":
    main()
