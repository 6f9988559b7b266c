r"""Images a second and model-FLOPs utilisation of a training step, on whatever device JAX finds.

    python benchmarks/accelerator.py --name=dcal_vit_base_patch16_224 --size=448 --batch=64 --peak=989e12

Model FLOPs are twice the multiply-adds of the training forward pass (all branches), three times over for forward and
backward; recomputation counts for nothing. `--peak` is the device's dense bf16 rate in FLOP/s.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from fusionjax import config as config_lib
from fusionjax import tasks
from fusionjax.models import cards
from fusionjax.tasks.base.protocol import Facts
from fusionjax.train import optim, state, step


def main() -> None:
    """Prints one line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--name", default="dcal_vit_base_patch16_224")
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--peak", type=float, default=989e12)
    a = parser.parse_args()
    c = config_lib.default()
    c.model.name, c.data.resize, c.data.image_size = a.name, a.size, a.size
    c.train.batch_size, c.precision = a.batch, a.precision
    c = config_lib.validate(c)
    task = tasks.create(c, Facts(tuple(str(i) for i in range(200))))
    variables = jax.jit(task.model.init)(jax.random.key(0))
    optimizer = optim.create(c.optim, variables["params"], steps=1000, steps_per_epoch=100)
    loss = functools.partial(task.objective, groups=1)
    rng = np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(rng.integers(0, 256, (a.batch, a.size, a.size, 3), np.uint8)),
        "label": jnp.asarray(rng.integers(0, 200, a.batch), jnp.int32),
        "valid": jnp.ones(a.batch),
        "index": jnp.arange(a.batch),
    }
    forward = jax.make_jaxpr(lambda v, b: loss(v, b, jax.random.key(0))[0])(variables, batch)
    flops = 3 * 2 * cards.macs(forward)
    current = state.create(variables, optimizer, ema=False)
    began = time.perf_counter()
    compiled = jax.jit(step.make(loss, optimizer, seed=0), donate_argnums=0).lower(current, batch).compile()
    compile_seconds = time.perf_counter() - began
    for _ in range(3):
        current, metrics = compiled(current, batch)
    jax.block_until_ready(metrics)
    began = time.perf_counter()
    for _ in range(a.steps):
        current, metrics = compiled(current, batch)
    jax.block_until_ready(metrics)
    seconds = (time.perf_counter() - began) / a.steps
    rate, share = flops / seconds, flops / seconds / a.peak
    print(f"{a.name} {a.size} px, batch {a.batch}, {a.precision}, {jax.devices()[0].device_kind}")
    print(
        f"{a.batch / seconds:.1f} images/s, {1000 * seconds:.1f} ms a step, compiled in {compile_seconds:.1f} s"
    )
    print(f"{rate / 1e12:.2f} TFLOP/s, {share:.1%} of {a.peak / 1e12:.2f} TFLOP/s")


if __name__ == "__main__":
    main()
