"""What the tests of reports and of figures draw: results, examples and records with hostile names."""

import numpy as np
from PIL import Image

from fusionjax.evaluation.classification import evaluate
from fusionjax.interpret.maps import Example

NAMES = ["Activities", "Animals & Nature", "Flags", "Smileys & Emotion"]
HOSTILE = [
    '<script>alert("1")</script>',
    "a&b\"'><img src=x onerror=alert(1)>",
    "$\\frac{1}{0}$ {{ 7 * 7 }}",
    "日本\n\x07",
]
RNG = np.random.default_rng(0)


def result(names, n=60):
    labels = RNG.integers(0, len(names), n)
    p = RNG.dirichlet(np.ones(len(names)), n) + np.eye(len(names))[labels]
    return evaluate(p / 2, labels, None, names)


def example(name="a.jpg", true="Flags", predicted="Flags", size=(40, 30), **parts):
    image = RNG.integers(0, 256, (*size, 3)).astype(np.uint8)
    return Example(name, image, true, predicted, 0.75, **parts)


def attention(size=(40, 30)):
    return example(rollout=RNG.random((4, 3)), selected=np.array([0, 5, 11]), grid=(4, 3), size=size)


def records():
    train = [{"step": s, "train/loss": 3 / s, "train/learning_rate": 1e-3, "note": "x"} for s in range(1, 40)]
    return [
        *train,
        {"step": 20, "val/accuracy": 0.5, "val/sa/accuracy": 0.4},
        {"step": 39, "val/accuracy": None},
    ]


def blank(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L")).std() < 1
