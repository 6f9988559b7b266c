r"""Throughput of the n-channel augmentation, compiled, against the same operations in kornia on CPU torch.

    python benchmarks/augmentation.py --batch=64 --size=224 --rounds=7

Six channels in two modalities, float32 at hand on the device: resized crop, flip, rotation of at most 15°, the same for both
modalities; then colour jitter, grey and blur of the first three channels, noise and gamma of the others, each with its
probability (`fusionjax.train.augment.multispectral.Spec()`). kornia blurs with a kernel of the same width. What differs:
kornia draws the order of the jitter once per batch and skips the operations that were not drawn; ours draws an order for
each image, samples once for crop, flip and rotation together, and computes everything.

Each contestant lives in a process of its own; they take turns, one batch a turn, so that a drift of the machine's speed meets
all alike. Needs torch and kornia (`pip install torch; pip install --no-deps kornia kornia_rs`), which nothing else does.
Prints a line a contestant: median milliseconds a batch, images a second, seconds to the first batch (compilation); then the
ratio round by round, of the time that passed and of the CPU time of all threads, which other work on the machine hardly moves.
"""

import argparse
import multiprocessing
import os
import statistics
import time


def jax_batch(batch: int, size: int, threads: int):
    """A closure that augments one batch, its key another each time, and waits for it; and where it runs."""
    import jax
    import numpy as np

    from fusionjax.train.augment import multispectral

    images = jax.device_put(np.random.default_rng(0).random((batch, size, size, 6), np.float32))
    augment = jax.jit(multispectral.augment, static_argnums=2)
    spec, key, count = multispectral.Spec(), jax.random.key(0), 0

    def once():
        nonlocal count
        count += 1
        return jax.block_until_ready(augment(jax.random.fold_in(key, count), images, spec))

    return once, jax.devices()[0].device_kind


def kornia_batch(batch: int, size: int, threads: int):
    """The same in kornia."""
    import torch
    from kornia import augmentation as k

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    images = torch.rand(batch, 6, size, size)
    geometry = torch.nn.Sequential(
        k.RandomResizedCrop((size, size), scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)),
        k.RandomHorizontalFlip(p=0.5),
        k.RandomRotation(15.0, p=1.0),
    )
    colour = torch.nn.Sequential(
        k.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        k.RandomGrayscale(p=0.2),
        k.RandomGaussianBlur((13, 13), (0.1, 2.0), border_type="replicate", p=0.5),
    )
    noise, gamma = k.RandomGaussianNoise(std=0.1, p=0.3), k.RandomGamma((0.8, 1.2), p=0.5)

    def once():
        with torch.no_grad():
            x = geometry(images)
            return torch.cat([colour(x[:, :3]), gamma(noise(x[:, 3:]).clamp(0, 1))], dim=1)

    return once, f"{threads} CPU threads"


CONTESTANTS = {"fusionjax": jax_batch, "kornia": kornia_batch}


def contestant(name: str, arguments: argparse.Namespace, pipe) -> None:
    """Builds, does the first batch, then one batch a message."""
    began = time.perf_counter()
    once, where = CONTESTANTS[name](arguments.batch, arguments.size, arguments.threads)
    result = once()
    first = time.perf_counter() - began
    assert tuple(result.shape) in {
        (arguments.batch, arguments.size, arguments.size, 6),
        (arguments.batch, 6, arguments.size, arguments.size),
    }
    once()
    pipe.send((first, where))
    while pipe.recv():
        began, work = time.perf_counter(), time.process_time()
        once()
        pipe.send((time.perf_counter() - began, time.process_time() - work))


def main() -> None:
    """Runs the rounds and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    pipes, first, where = {}, {}, {}
    for name in CONTESTANTS:  # one after another: a first batch is timed on an idle machine
        pipes[name], other = context.Pipe()
        context.Process(target=contestant, args=(name, arguments, other), daemon=True).start()
        other.close()
        first[name], where[name] = pipes[name].recv()
    times = {name: [] for name in CONTESTANTS}
    for i in range(arguments.rounds):
        for name in list(CONTESTANTS)[:: 1 if i % 2 else -1]:  # each goes first in turn
            pipes[name].send(True)
            times[name].append(pipes[name].recv())
    for pipe in pipes.values():
        pipe.send(False)
    print(f"batch {arguments.batch} of {arguments.size} × {arguments.size} × 6, {arguments.rounds} rounds")
    for name, rounds in times.items():
        median, work = (statistics.median(r[k] for r in rounds) for k in (0, 1))
        print(
            f"{name:10} {1000 * median:7.0f} ms a batch ({1000 * work:.0f} ms of CPU) {arguments.batch / median:7.0f} "
            f"images/s   first batch {first[name]:5.1f} s   {where[name]}"
        )
    for k, what in enumerate(("time", "CPU time")):
        ratios = sorted(b[k] / a[k] for a, b in zip(times["fusionjax"], times["kornia"], strict=True))
        print(
            f"kornia's {what} / fusionjax's: {statistics.median(ratios):.2f} (rounds {ratios[0]:.2f} … {ratios[-1]:.2f})"
        )


if __name__ == "__main__":
    main()
