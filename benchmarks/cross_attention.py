r"""Bidirectional cross-attention layer, forward and forward + backward, against the same layer in eager PyTorch.

    python benchmarks/cross_attention.py --rounds=20 --threads=2

Each contestant lives in a process of its own; they take turns, one call a turn, so that a drift of the machine's speed meets
all alike. Ours runs twice: with the text in blocks (padding moves no bit of the output, what the models do by default) and at
its whole length. PyTorch runs nn.MultiheadAttention without maps. Needs torch (`pip install torch`). Prints a Markdown table:
median milliseconds a call, the ratio to PyTorch round by round (median), seconds to the first call (compilation).
"""

import argparse
import dataclasses
import multiprocessing
import os
import statistics
import time


@dataclasses.dataclass(frozen=True)
class Shape:
    """B, N image tokens, T text tokens, d, H, and the tokens of a block of text."""

    batch: int
    image: int
    text: int
    width: int
    heads: int
    block: int


def data(shape: Shape):
    """Image tokens, text tokens, mask: texts between half and whole length."""
    import numpy as np

    rng = np.random.default_rng(0)
    image = rng.standard_normal((shape.batch, shape.image, shape.width)).astype(np.float32)
    text = rng.standard_normal((shape.batch, shape.text, shape.width)).astype(np.float32)
    lengths = rng.integers(shape.text // 2, shape.text + 1, shape.batch)
    return image, text, np.arange(shape.text) < lengths[:, None]


def jax_call(shape: Shape, backward: bool, block: int):
    """A closure that runs our layer and waits for it."""
    import jax
    import jax.numpy as jnp

    from fusionjax.models.methods import token_blocks
    from fusionjax.models.methods.cross_attention import BidirectionalLayer

    image, text, mask = (jnp.asarray(x) for x in data(shape))
    module = BidirectionalLayer(shape.width, shape.heads)

    def forward(variables, image, text):
        v, t, _ = module.apply(variables, image, token_blocks.split(text, mask, block), train=False)
        return v, t.tokens

    def value(variables, image, text):
        v, t = forward(variables, image, text)
        return (v**2).mean() + (t**2).mean()

    blocks = token_blocks.split(text, mask, block)
    variables = jax.jit(lambda: module.init(jax.random.key(0), image, blocks, train=False))()
    run = jax.jit(jax.grad(value, argnums=(0, 1, 2)) if backward else forward)
    return lambda: jax.block_until_ready(run(variables, image, text))


def torch_call(shape: Shape, backward: bool):
    """The same layer in PyTorch."""
    import torch
    from torch import nn

    class Update(nn.Module):
        def __init__(self):
            super().__init__()
            d = shape.width
            self.attention = nn.MultiheadAttention(d, shape.heads, batch_first=True)
            self.norm = nn.LayerNorm(d)
            self.ffn = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

        def forward(self, x, other, padding=None):
            out, _ = self.attention(x, other, other, key_padding_mask=padding, need_weights=False)
            x = self.norm(x + out)
            return x + self.ffn(x)

    image, text, mask = (torch.from_numpy(x) for x in data(shape))
    one, two = Update(), Update()

    def forward():
        v = one(image, text, ~mask)
        return v, two(text, v)

    if not backward:

        def inference():
            with torch.no_grad():
                return forward()

        return inference
    image.requires_grad_()
    text.requires_grad_()
    parameters = [*one.parameters(), *two.parameters(), image, text]

    def gradients():
        v, t = forward()
        return torch.autograd.grad((v**2).mean() + (t**2).mean(), parameters)

    return gradients


def contestant(name: str, shape: Shape, backward: bool, threads: int, pipe) -> None:
    """Builds, makes the first call, then one call a message."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if hasattr(os, "sched_setaffinity"):  # XLA takes as many threads as it has cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    if name == "torch":
        import torch

        torch.set_num_threads(threads)
        call = torch_call(shape, backward)
    else:
        call = jax_call(shape, backward, shape.block if name == "blocks" else 0)
    began = time.perf_counter()
    call()
    pipe.send(time.perf_counter() - began)
    while pipe.recv():
        began = time.perf_counter()
        call()
        pipe.send(time.perf_counter() - began)


def compare(shape: Shape, backward: bool, threads: int, rounds: int) -> None:
    """One line of the table a contestant."""
    names = {"PyTorch": "torch", "fusionjax, blocks of text": "blocks", "fusionjax, whole text": "whole"}
    context = multiprocessing.get_context("spawn")
    pipes, first, times = {}, {}, {label: [] for label in names}
    for label, name in names.items():  # one after another: a first call is timed on an idle machine
        pipes[label], other = context.Pipe()
        arguments = (name, shape, backward, threads, other)
        context.Process(target=contestant, args=arguments, daemon=True).start()
        first[label] = pipes[label].recv()
    for _ in range(rounds):
        for label, pipe in pipes.items():
            pipe.send(True)
            times[label].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(False)
    what = "forward + backward" if backward else "forward"
    for label in names:
        ratio = statistics.median(t / b for t, b in zip(times[label], times["PyTorch"], strict=True))
        print(
            f"| {what} | {label} | {1000 * statistics.median(times[label]):.1f} | {ratio:.2f} | {first[label]:.1f} |"
        )


def main() -> None:
    """Runs both comparisons and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, value in (
        ("batch", 16),
        ("image", 49),
        ("text", 64),
        ("width", 768),
        ("heads", 12),
        ("block", 16),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    options = vars(parser.parse_args())
    rounds, threads = options.pop("rounds"), options.pop("threads")
    shape = Shape(**options)
    print(
        f"B {shape.batch}, N {shape.image}, T {shape.text} (blocks of {shape.block}), d {shape.width}, H {shape.heads}, "
        f"float32, {threads} threads, {rounds} rounds\n"
    )
    print("| | | median ms | ratio | first call s |")
    print("|---|---|--:|--:|--:|")
    for backward in (False, True):
        compare(shape, backward, threads, rounds)


if __name__ == "__main__":
    main()
