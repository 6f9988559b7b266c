"""Small configs of every task over one small data set, and values that break what does not expect them."""

import functools
import random
from fnmatch import fnmatchcase
from pathlib import Path

import cv2
import numpy as np
import soundfile
from ml_collections import ConfigDict

from fusionjax import config as config_lib
from fusionjax.config import ownership, rules, schema
from tests.support import frozen_trunk, sounds, tiny_bert, tiny_spectral

CLASSES = ("blue", "green", "red")
INTEGERS = (
    0,
    1,
    -1,
    2,
    3,
    7,
    8,
    16,
    32,
    10**3,
    10**9,
    2**31 - 1,
    2**31,
    2**32,
    2**63 - 1,
    2**63,
    -(2**63),
    10**20,
    10**5000,
)
FLOATS = (
    0.0,
    -0.0,
    0.5,
    1.0,
    -1.0,
    2.0,
    1e-300,
    -1e-9,
    1e9,
    1e300,
    float("nan"),
    float("inf"),
    -float("inf"),
    5,
)
WORDS = ("", " ", "x", "train", "val", "test", "query", "val/accuracy", "test/", "label", "identity", "rgb", "image", "none",
         "\0", "\n", "\udcff", "é", "a" * 10_000, "(", "[", "*", "(?P<", "bias$", ".*", "..", "/dev/null", "x.npz", "hub:",
         "hub:a/b", "package:", "package:x", "%s", "{}", "manifest", "folder", "bicubic", "vit_shallow", "resnet50",
         "efficientnet_b0", "dcal_vit_shallow", "crossvit_9_240", "fusion", "attention", "sgd", "lars")  # fmt: skip
OTHERS = (None, True, 1, 1.5, "x", b"x", 1j, (), ((),), [], [1], {}, {"a": 1}, range(3), object(), float)


def configs(root: Path) -> dict[str, ConfigDict]:
    """A config of each task, over a data set that is written into `root`."""
    table, bert = _write(root)
    return {
        "classification": _images(table),
        "crossvit": _crossvit(table),
        "reid": _reid(table),
        "spectral": tiny_spectral.get_config(f"root={tiny_spectral.images(root / 'spectral', per_class=12)}"),
        "fusion": _with_text(table, bert, "fusion", "fusion"),
        "mvpdr": _mvpdr(table, bert),
        "trimodal": _with_text(table, bert, "trimodal", "trimodal"),
        "audiovisual": _audiovisual(table),
        "vqa": _vqa(table, bert),
    }


def draw(rng: random.Random, config: ConfigDict) -> dict[str, object]:
    """Sets one to three fields to nasty values; returns them."""
    normal, models = _defaults(), schema.examples()
    read = [key for key in sorted(normal) if any(fnmatchcase(key, p) for p in ownership.read(config))]
    # Mostly what the run reads: other fields are refused for that alone.
    chosen = rng.sample(read if rng.random() < 0.9 else sorted(normal), rng.choice((1, 1, 1, 2, 3)))
    values = {key: _value(rng, normal[key] if normal[key] != () else models[key]) for key in chosen}
    for key, value in values.items():
        *path, name = key.split(".")
        section = config
        for part in path:
            section = section[part]
        with section.unlocked(), section.ignore_type():
            section[name] = value if value != 10**5000 or normal[key] != 0.0 else 10**20
    return values


@functools.cache
def _defaults() -> dict[str, object]:
    return dict(ownership.leaves(config_lib.default()))


def shown(fields: dict[str, object]) -> str:
    """Fields and their values, as the message of a failed test."""
    return ", ".join(f"{key}={rules.shown(value)}" for key, value in fields.items())


def _value(rng: random.Random, like: object) -> object:
    """A value of the type of `like`, and now and then of another."""
    if rng.random() < 0.06:
        return rng.choice(OTHERS)
    if isinstance(like, bool):
        return not like
    if isinstance(like, tuple):
        return tuple(_value(rng, rng.choice(like)) for _ in range(rng.randrange(5)))
    return rng.choice(INTEGERS if isinstance(like, int) else FLOATS if isinstance(like, float) else WORDS)


def _write(root: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    lines = ["path,label,split,identity,camera,caption,audio,question,answer"]
    soundfile.write(root / "sound.wav", sounds.sine(440, 0.3), 16_000)
    for k, name in enumerate(CLASSES):
        for i in range(14):
            image = rng.integers(0, 120, (36, 40, 3), np.uint8)
            image[:, :, k] += 100
            cv2.imwrite(str(root / f"{name}{i}.png"), image)
            split = (
                "train"
                if i < 8
                else "val"
                if i < 10
                else "query"
                if i == 10
                else "gallery"
                if i < 13
                else "test"
            )
            person = k + 10 * (i >= 8)
            said = f"a thing of colour {name},sound.wav,what is it,{name}"
            lines.append(f"{name}{i}.png,{name},{split},{person},{i % 3},{said}")
    (root / "all.csv").write_text("\n".join(lines) + "\n")
    return root / "all.csv", tiny_bert.write(
        root / "bert", ["a", "thing", "of", "colour", "what", "is", "it", *CLASSES]
    )


def _base(table: Path) -> ConfigDict:
    c = config_lib.default()
    c.data.source, c.data.root, c.data.eval_splits = "manifest", str(table), ("val", "test")
    c.data.resize = c.data.image_size = 32
    c.data.threads, c.data.prefetch = 2, 8
    c.train.batch_size, c.train.steps, c.evaluation.batch_size = 8, 6, 8
    return c


def _images(table: Path) -> ConfigDict:
    c = _base(table)
    c.model.name = "dcal_vit_shallow"
    c.model.width, c.model.heads, c.model.patch, c.model.ratio = 24, 3, 8, 0.3
    return c


def _crossvit(table: Path) -> ConfigDict:
    c = _base(table)
    c.model.name, c.model.ablation = "crossvit_9_240", "sa_only"
    c.model.crossvit.img_size, c.model.crossvit.patch_size = (32, 32), (8, 16)
    c.model.crossvit.embed_dim, c.model.crossvit.depth = (16, 32), ((1, 1, 1),)
    c.model.crossvit.num_heads, c.model.crossvit.mlp_ratio = (2, 2), (2.0, 2.0, 1.0)
    return c


def _reid(table: Path) -> ConfigDict:
    c = _images(table)
    c.task, c.data.label, c.data.per_identity, c.data.eval_splits = (
        "reid",
        "identity",
        4,
        ("query", "gallery"),
    )
    return c


def _with_text(table: Path, bert: Path, task: str, model: str) -> ConfigDict:
    c = _base(table)
    c.task, c.data.cache.enabled, c.model.freeze_trunk = task, True, True
    c.data.cache.passes = 2
    c.model.name, c.model.ablation, c.model.trunk = model, "sa_only", "vit_shallow"
    c.model.width, c.model.heads = 16, 4
    c.text.encoder, c.text.max_tokens = str(bert), 16
    frozen_trunk.start(c, table.parent, {})
    c.audio.seconds, c.audio.width, c.audio.depth, c.audio.heads = (
        (0.4, 16, 1, 2) if task == "trimodal" else (4.0, 128, 2, 4)
    )
    return c


def _mvpdr(table: Path, bert: Path) -> ConfigDict:
    c = _with_text(table, bert, "mvpdr", "mvpdr")
    c.model.width = c.model.heads = 0
    c.mvpdr.prompts, c.mvpdr.width, c.mvpdr.per_class, c.mvpdr.max_prompts = "captions", 12, 3, 8
    return c


def _audiovisual(table: Path) -> ConfigDict:
    c = _with_text(table, Path(), "trimodal", "trimodal")
    c.task, c.text, c.trimodal.modalities = "audiovisual", config_lib.default().text, ("image", "audio")
    return c


def _vqa(table: Path, bert: Path) -> ConfigDict:
    c = _with_text(table, bert, "vqa", "fusion")
    c.data.questions = "columns"
    return c
