"""What `--check` says of a run before it starts."""

import re

import jax.numpy as jnp
import pytest

from fusionjax.experiment import overview, trainer
from tests.support import tiny


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return tiny.pictures(tmp_path_factory.mktemp("pictures"), per_class=10)


@pytest.fixture(autouse=True)
def _speed(monkeypatch):
    monkeypatch.setattr(overview, "multiplication_rate", lambda dtype: 1e6)


def test_it_ends_with_classes_steps_memory_and_time(pictures, tmp_path):
    run = trainer.Experiment(tiny.get_config(f"root={pictures},steps=10"), tmp_path)
    text = run.describe()
    notes, lines = text.splitlines()[: len(run.notes)], text.splitlines()[len(run.notes) :]
    assert tuple(notes) == run.notes and lines[0] == "3 classes"
    assert lines[1].split() == ["class", "training", "val", "test"]
    counted = {row[0]: list(map(int, row[1:])) for row in map(str.split, lines[2:5])}
    assert counted.keys() == set(tiny.CLASSES) and [sum(c) for c in zip(*counted.values(), strict=True)] == [
        22,
        4,
        4,
    ]
    assert lines[5] == "22 training, 4 val, 4 test images; 10 steps of 8 (3.64 epochs)"
    assert (
        lines[6].startswith("memory: at least 0.")
        and "activations come on top" in lines[6]
        and len(lines) == 8
    )
    step = float(re.search(r"\(([\d.e+]+) operations per step;", lines[7]).group(1))
    minutes = int(re.match(r"time: at least (\d+) min", lines[7]).group(1))
    assert minutes == pytest.approx(10 * step / 1e6 / 60, abs=1.1) and minutes > 2
    assert "blocks/qkv/kernel" not in text and "blocks/qkv/kernel" in run.describe(parameters=True)


def test_many_classes_are_a_line(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(overview, "CLASSES", 2)
    text = trainer.Experiment(tiny.get_config(f"root={pictures}"), tmp_path).describe()
    assert "\n3 classes, all with training images; fewest 'green' (6), most 'blue' (8)\n" in text


def test_memory_and_work_grow_with_the_batch_and_with_accumulation_stay(pictures, tmp_path):
    def numbers(**train):
        c = tiny.get_config(f"root={pictures}")
        with c.unlocked():
            c.train.batch_size, c.optim.accumulate = train["batch"], train.get("accumulate", 1)
        said = trainer.Experiment(c, tmp_path).describe()
        return float(re.search(r"images ([\d.]+) MiB", said).group(1)), float(
            re.search(r"\((\S+) operations", said).group(1)
        )

    (images, work), (more_images, more_work) = numbers(batch=8), numbers(batch=800)
    assert more_images > images + 2 and more_work == pytest.approx(100 * work, rel=0.1)
    assert numbers(batch=8, accumulate=2)[1] == pytest.approx(work, rel=0.1)


def test_the_speed_of_a_device_is_measured(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(overview, "_SIDE", {"cpu": 128})
    assert 1e7 < overview.multiplication_rate(jnp.dtype("float32")) < 1e15
