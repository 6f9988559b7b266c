"""The device mesh and where arrays lie on it; eight devices are a process of their own."""

import json
import types

import jax
import numpy as np
import pytest

from fusionjax.distributed import mesh as mesh_lib
from tests.support import process, tiny

EIGHT = """
import jax
import numpy as np
from fusionjax.distributed import mesh as mesh_lib
from fusionjax.errors import UserError

mesh = mesh_lib.create(16)
assert mesh.size == 8 and mesh.axis_names == ("data",)
batch = {"label": np.arange(16), "image": np.ones((16, 2, 2, 3), np.uint8)}
put = mesh_lib.put_batch(batch, mesh)
assert [s.data.tolist() for s in put["label"].addressable_shards] == np.arange(16).reshape(8, 2).tolist()
jax.tree.map(np.testing.assert_array_equal, mesh_lib.to_host(put), batch)
kept = mesh_lib.put_replicated({"w": np.arange(3.0)}, mesh)["w"]
assert kept.is_fully_replicated and len(kept.addressable_shards) == 8
try:
    mesh_lib.create(12)
except UserError as e:
    print(e)
"""


@pytest.mark.parametrize(("size", "devices", "want"), [(7, 8, 8), (16, 8, 16), (7, 1, 7), (1, 8, 8)])
def test_round_up(size, devices, want):
    assert mesh_lib.round_up(size, types.SimpleNamespace(size=devices)) == want


def test_one_device_takes_any_batch_and_keeps_it_whole():
    mesh = jax.make_mesh((1,), (mesh_lib.DATA,), devices=jax.devices()[:1])
    batch = {"label": np.arange(7)}
    put = mesh_lib.put_batch(batch, mesh)
    np.testing.assert_array_equal(mesh_lib.to_host(put)["label"], batch["label"])


def test_a_batch_is_split_over_eight_devices_and_parameters_are_on_all():
    done = process.python("-c", EIGHT, devices=8)
    assert "config.train.batch_size=12 must be a multiple of the 8 devices" in done.stdout


def test_dcal_reduces_its_gradients_and_sends_nothing_else(tmp_path):
    """The streams of PWCA and the selection of GLCA stay where their images are."""
    root = tiny.pictures(tmp_path / "root", per_class=6)
    done = process.python("-m", "tests.support.collectives", root, "full", devices=2)
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == {"all-reduce"}, found
