"""What `--check` says of a run before it starts."""

import functools
import re

import jax
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
        found = (r"images ([\d.]+) MiB", r"\((\S+) operations", r"about ([\d.]+) MiB are kept")
        return [float(re.search(pattern, said).group(1)) for pattern in found]

    (images, work, kept), (more_images, more_work, more_kept) = numbers(batch=80), numbers(batch=800)
    assert more_images > images + 2 and more_work == pytest.approx(10 * work, rel=0.1)
    assert more_kept == pytest.approx(10 * kept, rel=0.1)
    halved = numbers(batch=80, accumulate=2)
    assert halved[1] == pytest.approx(work, rel=0.1) and halved[2] == pytest.approx(kept / 2, rel=0.1)


def test_with_remat_blocks_keep_their_inputs_alone(pictures, tmp_path):
    """Parameters and the batch are not counted: a model without a block keeps little."""

    def kept(**fields):
        c = tiny.get_config(f"root={pictures}")
        with c.unlocked():
            c.model.update({"ablation": "sa_only", "dropout": 0.0, "drop_path": 0.0, **fields})
        run = trainer.Experiment(c, tmp_path)
        optimizer, (batch, _) = run.optimizer(), overview._batch(run)
        current = jax.eval_shape(functools.partial(run.create_state, optimizer), run.abstract_variables())
        return overview._kept(run, optimizer, current, batch)

    tokens = 8 * 17 * 24 * 4  # bytes of the tokens of a batch: (8, 4 × 4 + 1, 24) float32
    deep, deeper = kept(depth=2), kept(depth=4)
    assert (deeper - deep) / 2 > 8 * tokens, "norms, queries, keys, values, attention, both layers of the MLP"
    assert (kept(depth=4, remat=True) - kept(depth=2, remat=True)) / 2 == pytest.approx(tokens, rel=0.1)


def test_the_speed_of_a_device_is_measured(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(overview, "_SIDE", {"cpu": 128})
    assert 1e7 < overview.multiplication_rate(jnp.dtype("float32")) < 1e15
