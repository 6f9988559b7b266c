r"""Memory and time of the contrastive losses, forward and gradient, by batch size, in chunks and not.

    python benchmarks/contrastive_memory.py --losses=info_nce                 1k … 32k × 128, plain and in chunks of 256
    python benchmarks/contrastive_memory.py --batches=32768 --chunks=256,1024 --losses=info_nce              within 1 GB

Each case runs in a process of its own. One line a case: peak resident memory of the process, what of it is beyond the process
before the case (jax, the embeddings), what XLA plans for temporaries, and seconds of the second run. Where chunks are none
the similarities of the whole batch are held: 4 B² bytes a matrix, a few of them. A case that would need more than `--most` GB
for two such matrices is left out, and said to be.
"""

import argparse
import multiprocessing
import pathlib
import resource
import time


def memory() -> float:
    """This process's memory now, GB."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e9


def case(pipe, loss: str, batch: int, width: int, chunk: int) -> None:
    """Sends (peak GB, GB beyond the start, GB of temporaries, seconds, loss)."""
    import jax
    import numpy as np

    from fusionjax.train import contrastive

    rng = np.random.default_rng(0)
    a, b = (jax.device_put(rng.standard_normal((batch, width), dtype=np.float32)) for _ in range(2))
    function = getattr(contrastive, loss)
    both = jax.jit(jax.value_and_grad(lambda a, b: function(a, b, chunk=chunk), (0, 1)))
    before = memory()
    compiled = both.lower(a, b).compile()
    planned = compiled.memory_analysis().temp_size_in_bytes / 1e9
    for _ in range(2):
        began = time.perf_counter()
        value, _ = jax.block_until_ready(compiled(a, b))
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    pipe.send((peak, peak - before, planned, seconds, float(value)))


def numbers(text: str) -> list[int]:
    """ "1,2" → [1, 2]."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Prints a line a case."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batches", type=numbers, default=[1024, 2048, 4096, 8192, 16384, 32768])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--chunks", type=numbers, default=[0, 256], help="0: all rows at once")
    parser.add_argument("--losses", default="info_nce,nt_xent")
    parser.add_argument("--most", type=float, default=8.0, help="GB of similarities that a case may hold")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for loss in arguments.losses.split(","):
        for batch in arguments.batches:
            for chunk in arguments.chunks:
                case_name = f"{loss:8} {batch:6} × {arguments.width}  chunk {chunk:5}"
                need = 2 * 4 * batch * (chunk or batch) / 1e9
                if need > arguments.most:
                    print(
                        f"{case_name}  left out: it holds at least {need:.1f} GB, more than --most",
                        flush=True,
                    )
                    continue
                here, there = context.Pipe()
                process = context.Process(target=case, args=(there, loss, batch, arguments.width, chunk))
                process.start()
                there.close()
                try:
                    peak, beyond, planned, seconds, value = here.recv()
                    line = (
                        f"peak {peak:6.2f} GB, beyond the start {beyond:6.2f} GB, planned {planned:6.2f} GB  "
                        f"{seconds:7.2f} s  loss {value:.6f}"
                    )
                except EOFError:
                    line = "failed: the process ended, perhaps for lack of memory"
                process.join()
                print(f"{case_name}  {line}", flush=True)


if __name__ == "__main__":
    main()
