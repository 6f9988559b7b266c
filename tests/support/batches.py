"""Streams of batches: the first of one, equality to the bit, and the whole of several processes' parts."""

import itertools

import numpy as np


def take(stream, n: int) -> list[dict]:
    batches = list(itertools.islice(stream, n))
    if hasattr(stream, "close"):
        stream.close()
    return batches


def same(a: list[dict], b: list[dict]) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for key in x:
            assert x[key].dtype == y[key].dtype
            np.testing.assert_array_equal(x[key], y[key])


def joined(parts: list[list[dict]]) -> list[dict]:
    return [{k: np.concatenate([p[k] for p in row]) for k in row[0]} for row in zip(*parts, strict=True)]
