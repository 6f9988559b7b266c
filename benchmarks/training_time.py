r"""Estimated training time of the paper's tables, from the arithmetic of the compiled step: the numbers of docs/reproduce.md.

    python benchmarks/training_time.py

Nothing is computed and nothing is downloaded: forward and backward pass of each config are traced with shapes, and the
multiply-adds of their matrix products and convolutions are counted (`fusionjax.models.cards.macs`). One multiply-add is two
floating-point operations; with images × epochs and the peak of the accelerator in bfloat16,

    minutes = operations per image × images × epochs / (peak × utilisation) / 60.

Evaluation, compilation and reading of the images are not included. Attention is counted as it is executed: rollout recomputes
attention in blocks.
"""

import argparse
import functools
import importlib

import jax
import numpy as np

from fusionjax import config as config_lib
from fusionjax import tasks
from fusionjax.data.image import transforms
from fusionjax.models import cards
from fusionjax.tasks.base.protocol import Facts

PEAK = {"A100": 312e12, "H100": 989e12}
"""Operations per second in bfloat16, dense, from the data sheets (SXM)."""
# config → (training images, classes)
DATA = {
    "cub": (5_994, 200),
    "cars": (8_144, 196),
    "aircraft": (6_667, 100),
    "veri776": (37_778, 576),
    "msmt17": (30_248, 1_041),
    "market1501": (12_936, 751),
    "dukemtmc": (16_522, 702),
}
BACKBONES = ("deit_tiny", "deit_small", "deit_base", "vit_base", "r50_vit_base")
ABLATIONS = ("sa_only", "full")


def operations(name: str, backbone: str, ablation: str, classes: int) -> tuple[float, float]:
    """(operations of a training step per image, epochs) of a config.

    Args:
        name: of the config.
        backbone, ablation: its arguments.
        classes: of its data set.
    """
    argument = f"backbone={backbone},ablation={ablation},weights=none"
    config = config_lib.validate(importlib.import_module(f"configs.{name}").get_config(argument))
    task = tasks.create(config, Facts(tuple(map(str, range(classes)))))
    n = config.train.batch_size
    variables = jax.eval_shape(task.model.init, jax.random.key(0))
    row = jax.ShapeDtypeStruct((n,), np.int32)
    batch = {
        "image": jax.ShapeDtypeStruct((n, *transforms.image_shape(config.data), 3), np.uint8),
        "label": row,
        "index": row,
        "valid": jax.ShapeDtypeStruct((n,), np.float32),
    }
    loss = functools.partial(task.objective, groups=1)

    def step(params, rest, batch, key):
        return jax.value_and_grad(lambda p: loss({**rest, "params": p}, batch, key), has_aux=True)(params)

    rest = {key: tree for key, tree in variables.items() if key != "params"}
    traced = jax.make_jaxpr(step)(variables["params"], rest, batch, jax.random.key(0))
    return 2 * cards.macs(traced.jaxpr) / n, config.train.epochs


def main() -> None:
    """Prints one Markdown row per data set and backbone: GFLOP per image and minutes, SA alone and DCAL."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--utilisation", type=float, default=0.35, help="share of the peak that is reached")
    options = parser.parse_args()
    print(
        "| data set | backbone | GFLOP per image | minutes, A100 | minutes, H100 |\n|---|---|---:|---:|---:|"
    )
    for name, (images, classes) in DATA.items():
        for backbone in BACKBONES if name in ("cub", "cars", "aircraft") else BACKBONES[:-1]:
            found = [operations(name, backbone, ablation, classes) for ablation in ABLATIONS]
            minutes = {
                card: " → ".join(
                    f"{each * images * epochs / (peak * options.utilisation) / 60:.0f}"
                    for each, epochs in found
                )
                for card, peak in PEAK.items()
            }
            each = " → ".join(f"{value / 1e9:,.0f}" for value, _ in found)
            print(f"| {name} | {backbone} | {each} | {minutes['A100']} | {minutes['H100']} |", flush=True)


if __name__ == "__main__":
    main()
