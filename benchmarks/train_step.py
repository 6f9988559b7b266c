r"""Train step (forward, backward, AdamW) of ViT-S/16 and of DCAL over it, against the same ViT in eager PyTorch.

    python benchmarks/train_step.py --batch=8 --rounds=5

Each contestant lives in a process of its own and keeps its peak memory to itself; they take turns, one step a turn, so that
a drift of the machine's speed meets all alike. Needs torch (`pip install torch`). Prints one line a contestant: median
seconds a step, the ratio to PyTorch round by round (median), seconds to the first step (compilation), peak memory.
"""

import argparse
import multiprocessing
import resource
import statistics
import time


def jax_step(name: str, size: int, batch: int):
    """A closure that does one step of a fusionjax model and waits for it."""
    import functools

    import jax
    import numpy as np

    from fusionjax import config as config_lib
    from fusionjax import tasks
    from fusionjax.tasks.base.protocol import Facts
    from fusionjax.train import optim, state, step

    c = config_lib.default()
    c.model.name, c.data.resize, c.data.image_size, c.train.batch_size = name, size, size, batch
    c.optim.weight_decay = 0.05
    c = config_lib.validate(c)
    task = tasks.create(c, Facts(tuple(str(i) for i in range(1000))))
    variables = jax.jit(task.model.init)(jax.random.key(0))
    optimizer = optim.create(c.optim, variables["params"], steps=1000, steps_per_epoch=100)
    current = state.create(variables, optimizer, ema=False)
    compiled = jax.jit(
        step.make(functools.partial(task.objective, groups=1), optimizer, seed=0), donate_argnums=0
    )
    rng = np.random.default_rng(0)
    data = {
        "image": rng.integers(0, 256, (batch, size, size, 3), np.uint8),
        "label": rng.integers(0, 1000, batch).astype(np.int32),
        "valid": np.ones(batch, np.float32),
        "index": np.arange(batch, dtype=np.int32),
    }

    def once():
        nonlocal current
        current, metrics = compiled(current, data)
        return float(metrics["loss"].total)

    return once


def torch_step(size: int, batch: int):
    """The same ViT-S/16 in PyTorch: fused attention, AdamW."""
    import torch
    from torch import nn
    from torch.nn import functional as f

    class Block(nn.Module):
        def __init__(self, width, heads):
            super().__init__()
            self.heads = heads
            self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
            self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

        def forward(self, x):
            b, n, d = x.shape
            q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            x = x + self.proj(f.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d))
            return x + self.mlp(self.norm2(x))

    class ViT(nn.Module):
        def __init__(self, width=384, depth=12, heads=6, patch=16):
            super().__init__()
            self.patch = nn.Conv2d(3, width, patch, patch)
            self.cls = nn.Parameter(torch.zeros(1, 1, width))
            self.pos = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, width))
            self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(depth)])
            self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, 1000)

        def forward(self, x):
            x = self.patch(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos
            return self.head(self.norm(self.blocks(x)[:, 0]))

    torch.manual_seed(0)
    model = ViT()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05)
    images, labels = torch.rand(batch, 3, size, size), torch.randint(0, 1000, (batch,))

    def once():
        optimizer.zero_grad()
        loss = f.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return once


def contestant(name: str, size: int, batch: int, pipe) -> None:
    """Builds, does the first step, then one step a message."""
    began = time.perf_counter()
    once = torch_step(size, batch) if name == "torch" else jax_step(name, size, batch)
    once()
    pipe.send(time.perf_counter() - began)
    while pipe.recv():
        began = time.perf_counter()
        once()
        pipe.send((time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def main() -> None:
    """Runs the rounds and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    names = {
        "PyTorch ViT-S/16": "torch",
        "ViT-S/16": "vit_small_patch16_224",
        "DCAL over ViT-S/16": "dcal_vit_small_patch16_224",
    }
    context = multiprocessing.get_context("spawn")
    pipes, first = {}, {}
    for label, name in names.items():  # one after another: a first step is timed on an idle machine
        pipes[label], other = context.Pipe()
        context.Process(
            target=contestant, args=(name, arguments.size, arguments.batch, other), daemon=True
        ).start()
        first[label] = pipes[label].recv()
    times, memory = {label: [] for label in names}, {}
    for _ in range(arguments.rounds):
        for label, pipe in pipes.items():
            pipe.send(True)
            seconds, memory[label] = pipe.recv()
            times[label].append(seconds)
    for pipe in pipes.values():
        pipe.send(False)
    base = times["PyTorch ViT-S/16"]
    print(f"batch {arguments.batch}, {arguments.size} px, float32, {arguments.rounds} rounds")
    print(f"{'':24}{'s/step':>8}{'ratio':>8}{'first step s':>14}{'peak MiB':>10}")
    for label in names:
        ratio = statistics.median(t / b for t, b in zip(times[label], base, strict=True))
        print(
            f"{label:24}{statistics.median(times[label]):8.3f}{ratio:8.2f}{first[label]:14.1f}{memory[label]:10.0f}"
        )


if __name__ == "__main__":
    main()
