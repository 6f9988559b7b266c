r"""Re-ID evaluation and re-ranking at the size of Market-1501, against the implementations in use.

    python benchmarks/reid_evaluation.py --torchreid=deep-person-reid --rounds=3
    python benchmarks/reid_evaluation.py --queries=10000 --gallery=100000 --only=fusionjax --rounds=1      memory

Contestants, each from the same random features to mAP and ranks:
  evaluation   fusionjax; numpy (a full distance matrix, argsort, a loop over queries); compiled (torch.mm and torchreid's
               Cython ranker)
  re-ranking   fusionjax; numpy (the paper's steps, dense); public (the authors' NumPy code as torchreid carries it)
`compiled` and `public` need --torchreid, a folder with torchreid's sources: `utils/rerank.py`, and `rank_cy` built by
`python setup.py build_ext --inplace`, anywhere below it. Without it they are left out.

Each contestant lives in a process of its own; they take turns, one run a turn, so that a drift of the machine's speed meets
all alike. One line a contestant: median seconds, ratio to fusionjax round by round (median), seconds of the first run
(compilation included), peak memory beyond the features, mAP and rank 1.
"""

import argparse
import contextlib
import importlib.util
import io
import multiprocessing
import pathlib
import resource
import statistics
import time

import numpy as np


def data(queries: int, gallery: int, width: int):
    """(features, ids, cameras), twice: 750 identities in noise, 6 cameras, a sixth of the gallery distractors."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((751, width), dtype=np.float32)
    sets = []
    for n, distractors in ((queries, 0), (gallery, gallery // 6)):
        ids, cameras = rng.integers(1, 751, n), rng.integers(0, 6, n)
        ids[:distractors] = 0
        features = np.empty((n, width), np.float32)
        for low in range(0, n, 1024):
            block = features[low : low + 1024]
            rng.standard_normal(out=block, dtype=np.float32)
            block *= 3
            known = ids[low : low + 1024] > 0
            block[known] += centres[ids[low : low + 1024][known]]
        sets.append((features, ids, cameras))
    return sets


def fusionjax(query, gallery, rerank: bool):
    """This package."""
    from fusionjax.evaluation import reid

    result = reid.evaluate(*query, *gallery, rerank={} if rerank else None)
    return result["mAP"], result["rank1"]


def unit(features: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def market(distances, query, gallery):
    """The evaluation that papers publish, in NumPy: argsort, then a loop over queries."""
    order = np.argsort(distances, axis=1)
    precisions, first = [], []
    for i in range(len(order)):
        ids, cameras = gallery[1][order[i]], gallery[2][order[i]]
        right = (ids == query[1][i])[(ids != query[1][i]) | (cameras != query[2][i])]
        if right.any():
            found = right.cumsum()
            precisions.append((found / np.arange(1, len(right) + 1))[right].mean())
            first.append(right[0])
    return float(np.mean(precisions)), float(np.mean(first))


def numpy_evaluation(query, gallery, rerank: bool):
    """Dense, with NumPy."""
    if rerank:
        return market(dense_rerank(unit(query[0]), unit(gallery[0])), query, gallery)
    return market(1 - unit(query[0]) @ unit(gallery[0]).T, query, gallery)


def dense_rerank(query, gallery, k1=20, k2=6, weight=0.3):
    """Zhong et al., CVPR 2017, step by step over dense arrays."""
    features, q = np.concatenate([query, gallery]), len(query)
    distance = np.maximum(2 - 2 * (features @ features.T), 0)
    distance /= distance.max(axis=1, keepdims=True)
    near = np.argpartition(distance, k1 + 1, axis=1)[:, : k1 + 1]
    near = np.take_along_axis(near, np.argsort(np.take_along_axis(distance, near, 1), axis=1), 1)

    def reciprocal(i, k):
        mine = near[i, : k + 1]
        return mine[(near[mine, : k + 1] == i).any(axis=1)]

    half = [reciprocal(i, k1 // 2) for i in range(len(features))]
    encoded = np.zeros_like(distance)
    for i in range(len(features)):
        core = reciprocal(i, k1)
        sets = [core] + [half[j] for j in core if 3 * np.isin(half[j], core).sum() > 2 * len(half[j])]
        members = np.unique(np.concatenate(sets))
        weights = np.exp(-distance[i, members])
        encoded[i, members] = weights / weights.sum()
    distance = distance[:q, q:].copy()
    expanded = np.stack([encoded[near[i, :k2]].mean(axis=0) for i in range(len(features))])
    del encoded
    columns = np.ascontiguousarray(expanded[q:].T)
    for i in range(q):
        shared = np.zeros(len(gallery), np.float32)
        for j in np.flatnonzero(expanded[i]):
            shared += np.minimum(expanded[i, j], columns[j])
        distance[i] = weight * distance[i] + (1 - weight) * (1 - shared / (2 - shared))
    return distance


def load(folder: str, pattern: str):
    """A module from its file below a folder."""
    path = next(iter(sorted(pathlib.Path(folder).rglob(pattern))), None)
    if path is None:
        raise SystemExit(f"--torchreid={folder} has no {pattern}; see this file's first lines")
    spec = importlib.util.spec_from_file_location(path.name.split(".")[0], path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def torch_products(a, b):
    """1 − cosine similarity, as torchreid computes it."""
    import torch

    a, b = (torch.nn.functional.normalize(torch.from_numpy(x), dim=1) for x in (a, b))
    return (1 - torch.mm(a, b.t())).numpy()


def compiled(folder, query, gallery, rerank: bool):
    """torchreid: torch's product and the Cython ranker."""
    ranker = load(folder, "rank_cy*.so")
    cmc, precision = ranker.evaluate_cy(
        torch_products(query[0], gallery[0]), query[1], gallery[1], query[2], gallery[2], 10
    )
    return float(precision), float(cmc[0])


def public(folder, query, gallery, rerank: bool):
    """The authors' re-ranking in NumPy, torchreid's Cython ranker. It squares the distances that it is given."""
    a, b = query[0], gallery[0]
    pairs = ((a, b), (a, a), (b, b))
    distances = [np.sqrt(np.maximum(2 * torch_products(x, y), 0)) for x, y in pairs]
    again = load(folder, "rerank.py").re_ranking(*distances)
    cmc, precision = load(folder, "rank_cy*.so").evaluate_cy(
        again, query[1], gallery[1], query[2], gallery[2], 10
    )
    return float(precision), float(cmc[0])


def memory() -> float:
    """This process's memory now, GB."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e9


def contestant(pipe, name: str, arguments: argparse.Namespace, rerank: bool) -> None:
    """A run for every message; at None, the peak memory beyond the features."""
    query, gallery = data(arguments.queries, arguments.gallery, arguments.width)
    before = memory()
    run = {"fusionjax": fusionjax, "numpy": numpy_evaluation}.get(name)
    if run is None:
        peer = {"compiled": compiled, "public": public}[name]

        def run(*parts):
            return peer(arguments.torchreid, *parts)

    pipe.send("ready")
    while pipe.recv() is not None:
        began = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            result = run(query, gallery, rerank)
        pipe.send((time.perf_counter() - began, result))
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6 - before)


def compete(names: list[str], arguments: argparse.Namespace, rerank: bool) -> None:
    """Prints a line a contestant."""
    context = multiprocessing.get_context("spawn")
    peers = {}
    for name in names:
        here, there = context.Pipe()
        process = context.Process(target=contestant, args=(there, name, arguments, rerank))
        process.start()
        there.close()
        here.recv()
        peers[name] = (process, here)
    seconds, results = {name: [] for name in names}, {}
    for _ in range(arguments.rounds + 1):
        for name, (_, pipe) in peers.items():
            pipe.send("run")
            took, results[name] = pipe.recv()
            seconds[name].append(took)
    print(
        f"{'re-ranking' if rerank else 'evaluation'}, {arguments.queries} × {arguments.gallery} × {arguments.width}"
    )
    for name, (process, pipe) in peers.items():
        pipe.send(None)
        peak = pipe.recv()
        process.join()
        first, *warm = seconds[name]
        warm = warm or [first]
        ratio = statistics.median(s / o for s, o in zip(warm, seconds[names[0]][-len(warm) :], strict=True))
        print(
            f"  {name:10} {statistics.median(warm):8.2f} s  ratio {ratio:6.2f}  first run {first:7.2f} s  "
            f"{peak:6.2f} GB  mAP {results[name][0]:.6f}  rank 1 {results[name][1]:.6f}",
            flush=True,
        )


def main() -> None:
    """Prints a block for evaluation and one for re-ranking."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--queries", type=int, default=3368)
    parser.add_argument("--gallery", type=int, default=15913)
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument(
        "--rounds", type=int, default=3, help="beside the first; 0: the first run is the result"
    )
    parser.add_argument("--torchreid", default="", help="folder of torchreid's sources, with rank_cy built")
    parser.add_argument("--only", default="", help="one contestant")
    parser.add_argument("--part", choices=("evaluation", "rerank", "both"), default="both")
    arguments = parser.parse_args()
    peers = {"evaluation": ["compiled"], "rerank": ["public"]} if arguments.torchreid else {}
    for part in ("evaluation", "rerank"):
        if arguments.part in (part, "both"):
            names = ["fusionjax", "numpy", *peers.get(part, [])]
            names = [name for name in names if arguments.only in ("", name)]
            if names:
                compete(names, arguments, part == "rerank")


if __name__ == "__main__":
    main()
