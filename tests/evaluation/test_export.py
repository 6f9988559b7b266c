"""Exported embeddings: read back by NumPy and pyarrow alone, whole or absent, nothing pickled."""

import os

import numpy as np
import pyarrow.parquet
import pytest

from fusionjax.errors import UserError
from fusionjax.evaluation import export

HOSTILE = ["a/0.npy", 'ash, "x"\n日本.tif', "odd\udcff.npy"]
SAFE = [*HOSTILE[:2], "odd\\udcff.npy"]


def sample(**changes):
    rng = np.random.default_rng(0)
    fields = {
        "names": HOSTILE,
        "labels": [2, 0, 2],
        "class_names": ["ash", "never seen", "<oak>"],
        "modalities": {m: rng.normal(size=(3, 4)).astype(np.float32) for m in ("rgb", "uv")},
    } | changes
    return export.Embeddings(**fields | {"labels": np.asarray(fields["labels"])})


def test_npz_is_plain_numpy(tmp_path):
    given = sample()
    path = export.write(tmp_path / "new" / "e.npz", given)
    assert path == tmp_path / "new" / "e.npz" and os.listdir(path.parent) == ["e.npz"]
    with np.load(path, allow_pickle=False) as file:
        assert set(file.files) == {"name", "label", "modality", "embedding", "class_names"}
        uv = file["modality"] == "uv"
        np.testing.assert_array_equal(file["embedding"][uv], given.modalities["uv"])
        assert file["name"][uv].tolist() == SAFE and file["label"][uv].tolist() == [2, 0, 2]
        assert file["class_names"][file["label"]][:2].tolist() == ["<oak>", "ash"]
        assert file["embedding"].dtype == np.float32 and file["label"].dtype == np.int32


def test_parquet_is_a_plain_table(tmp_path):
    given = sample()
    table = pyarrow.parquet.read_table(export.write(tmp_path / "e.parquet", given))
    assert table.column_names == ["name", "label", "class", "modality", "embedding"]
    rows = table.to_pylist()
    assert [r["name"] for r in rows] == SAFE * 2 and [r["modality"] for r in rows] == ["rgb"] * 3 + ["uv"] * 3
    assert [r["class"] for r in rows[:3]] == ["<oak>", "ash", "<oak>"]
    np.testing.assert_array_equal(
        np.asarray([r["embedding"] for r in rows[3:]], np.float32), given.modalities["uv"]
    )
    assert table.schema.field("embedding").type.list_size == 4


@pytest.mark.parametrize("suffix", export.SUFFIXES)
@pytest.mark.parametrize("changes", [{}, {"modalities": {"one": np.arange(6.0).reshape(3, 2)}}])
def test_read_gives_back_what_was_written(tmp_path, suffix, changes):
    given = sample(**changes)
    found = export.read(export.write(tmp_path / f"e{suffix}", given))
    assert found.names == given.names == tuple(SAFE) and found.class_names == given.class_names
    np.testing.assert_array_equal(found.labels, given.labels)
    assert list(found.modalities) == list(given.modalities)
    for name, values in given.modalities.items():
        np.testing.assert_array_equal(found.modalities[name], values)


@pytest.mark.parametrize("suffix", export.SUFFIXES)
def test_a_failed_write_leaves_what_was_there(tmp_path, suffix, monkeypatch):
    path = export.write(tmp_path / f"e{suffix}", sample())
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    monkeypatch.setattr(pyarrow.parquet, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        export.write(path, sample(labels=[0, 0, 0]))
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", export.SUFFIXES)
@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"x" * 500])
def test_damaged_files_are_one_line(tmp_path, suffix, damage):
    path = export.write(tmp_path / f"e{suffix}", sample())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="is damaged or contains no exported embeddings") as e:
        export.read(path)
    assert "\n" not in str(e.value)


def test_other_files_and_mistakes(tmp_path):
    with pytest.raises(UserError, match=r"must end in .npz or .parquet, which 'e.csv'"):
        export.write(tmp_path / "e.csv", sample())
    with pytest.raises(UserError, match="is missing"):
        export.read(tmp_path / "e.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(UserError, match="contains no exported embeddings"):
        export.read(tmp_path / "other.npz")
    np.savez(tmp_path / "pickled.npz", name=np.asarray([{}], object))
    with pytest.raises(UserError, match="contains no exported embeddings"):
        export.read(tmp_path / "pickled.npz")
    columns = export._columns(sample())
    columns["label"][4] = 1  # the second example, in the other modality
    np.savez(tmp_path / "torn.npz", **columns, class_names=np.asarray(["a", "b", "c"]))
    with pytest.raises(UserError, match="column 'label' differs between the modalities 'uv' and 'rgb'"):
        export.read(tmp_path / "torn.npz")


@pytest.mark.parametrize(
    "changes",
    [
        {"names": ["a", "b", "b"]},
        {"names": ["a", "b"]},
        {"labels": [0, 1]},
        {"labels": [0, 1, 3]},
        {"labels": [0, 1, -1]},
        {"modalities": {}},
        {"modalities": {"rgb": np.zeros((3, 4)), "uv": np.zeros((3, 5))}},
        {"modalities": {"rgb": np.zeros(3)}},
    ],
)
def test_sizes_must_agree(changes):
    with pytest.raises(ValueError):
        sample(**changes)
