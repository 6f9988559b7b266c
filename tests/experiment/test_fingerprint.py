"""What must be unchanged when a run resumes: the contents of its images and the columns beside them."""

import json
import os
import pathlib
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from fusionjax.data.audio import clips
from fusionjax.data.source import FileSource
from fusionjax.errors import UserError
from fusionjax.experiment import workdir
from fusionjax.experiment.fingerprint import fingerprint
from fusionjax.tasks.multimodal.audio_inputs import AudioInputs
from tests.support import tiny


def source(root, cameras=(0, 1, 0, 1)):
    root = pathlib.Path(root)
    if not root.exists():
        root.mkdir()
        for i in range(4):
            (root / f"{i}.png").write_bytes(bytes([i]) * 500)
    names, labels = [f"{i}.png" for i in range(4)], np.asarray([0, 1, 0, 1])
    return FileSource(root.name, "train", ("a", "b"), labels, names, root, {"camera": np.asarray(cameras)})


def facts(train):
    return fingerprint(train, {"test": train}, SimpleNamespace(fingerprint=dict), 10)


@pytest.fixture
def begun(tmp_path):
    """A workdir of a run on the images in `data`."""
    folder, config = tmp_path / "run", tiny.get_config("root=data")
    folder.mkdir()
    workdir.write(folder, config, facts(source(tmp_path / "data")))
    (folder / "checkpoints" / "5").mkdir(parents=True)

    def resume(train):
        workdir.open_for_training(folder, config, json.loads(json.dumps(facts(train)))).close()

    return resume


def test_a_run_resumes_on_its_data_wherever_they_are(begun, tmp_path):
    begun(source(tmp_path / "data"))
    shutil.copytree(tmp_path / "data", tmp_path / "moved", copy_function=shutil.copyfile)
    begun(source(tmp_path / "moved"))


def test_replaced_images_are_noticed(begun, tmp_path):
    """Under the same names, sizes and times."""
    path = tmp_path / "data" / "2.png"
    times = path.stat()
    path.write_bytes(b"x" * 500)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(UserError, match="belongs to a run on other data: its contents differ") as e:
        begun(source(tmp_path / "data"))
    assert "\n" not in str(e.value)


def test_other_columns_are_noticed(begun, tmp_path):
    with pytest.raises(UserError, match="belongs to a run on other data: its columns differ"):
        begun(source(tmp_path / "data", cameras=(0, 1, 1, 1)))


def test_replaced_sounds_are_noticed(tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(b"sound")
    rows = clips.AudioClips(
        [(tmp_path / "a",), (), (tmp_path / "b",)], samples=400, frames=lambda n: n // 100
    )
    inputs = SimpleNamespace(made={"train": rows})
    before = AudioInputs.fingerprint(inputs)
    assert AudioInputs.fingerprint(inputs) == before and rows.total == 2
    (tmp_path / "b").write_bytes(b"other")
    assert AudioInputs.fingerprint(inputs) != before
