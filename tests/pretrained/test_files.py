"""Weight files as people bring them: recognised by content, damaged ones named in one line, shapes without values."""

import io
import json
import lzma
import resource
import struct
import zipfile
import zlib

import jax
import numpy as np
import pytest
import safetensors.numpy

from fusionjax import pretrained
from fusionjax.errors import UserError
from fusionjax.pretrained import files, native
from tests.pretrained.test_sources import said, save_torch, shallow


def safetensors_file(path, kind, count):
    """A file with one tensor of this dtype, which the library cannot write from NumPy."""
    header = json.dumps({"w": {"dtype": kind, "shape": [8], "data_offsets": [0, count]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(count))
    return path


def member(array=None, header=None):
    """The bytes of a .npy file; `header` replaces the description of the array."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.zeros(3, np.float32) if array is None else array)
    if header is None:
        return buffer.getvalue()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(12)


def npz(path, content, name="a.npy", compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(name, content)
    return path


def damaged_member(path, compression):
    """An archive whose compressed member has one changed byte in its middle."""
    values = np.random.default_rng(0).integers(0, 9, 4000).astype(np.float32)
    npz(path, member(values), compression=compression)
    data = bytearray(path.read_bytes())
    for at in range(200, 600, 50):
        data[at] ^= 0xFF
    path.write_bytes(data)
    return path


def encrypted(path):
    npz(path, member())
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + flags] |= 1
    path.write_bytes(data)
    return path


CASES = {
    "float8 e4m3": lambda p: (safetensors_file(p / "x.safetensors", "F8_E4M3", 8), "w has dtype F8_E4M3"),
    "float8 e5m2": lambda p: (safetensors_file(p / "x.safetensors", "F8_E5M2", 8), "w has dtype F8_E5M2"),
    "float4": lambda p: (safetensors_file(p / "x.safetensors", "F4", 4), "w has dtype F4: quantised"),
    "float6": lambda p: (safetensors_file(p / "x.safetensors", "F6_E2M3", 6), "w has dtype F6_E2M3"),
    "deflated": lambda p: (damaged_member(p / "x.npz", zipfile.ZIP_DEFLATED), "not a complete .npz"),
    "lzma": lambda p: (damaged_member(p / "x.npz", zipfile.ZIP_LZMA), "not a complete .npz"),
    "bzip2": lambda p: (damaged_member(p / "x.npz", zipfile.ZIP_BZIP2), "not a complete .npz"),
    "encrypted": lambda p: (encrypted(p / "x.npz"), "is encrypted"),
    "without .npy": lambda p: (npz(p / "x.npz", b"text", "a.txt"), "not a complete .npz"),
    "no array": lambda p: (npz(p / "x.npz", b"text"), "not a complete .npz"),
    "unbalanced header": lambda p: (npz(p / "x.npz", member(header=b"{'descr': ('<f4', ")), "not a complete"),
    "header of a call": lambda p: (npz(p / "x.npz", member(header=b"__import__('os')\n")), "not a complete"),
    "more than there is": lambda p: (
        npz(
            p / "x.npz", member(header=b"{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000,)}\n")
        ),
        "claims more bytes than it has",
    ),
}


BEHIND_THE_HEADER = ("deflated", "lzma", "bzip2")


@pytest.mark.parametrize(
    ("case", "shapes_only"),
    [*((case, False) for case in CASES), *((case, True) for case in CASES if case not in BEHIND_THE_HEADER)],
)
def test_damage_is_one_line(tmp_path, case, shapes_only):
    path, message = CASES[case](tmp_path)
    with pytest.raises(UserError) as caught:
        pretrained.read(path, shapes_only=shapes_only)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_damage_is_that_of_the_decompressors(tmp_path):
    # The cases above are the exceptions that got through; each is raised by another library.
    for compression, error in ((zipfile.ZIP_DEFLATED, zlib.error), (zipfile.ZIP_LZMA, lzma.LZMAError)):
        path = damaged_member(tmp_path / "x.npz", compression)
        with pytest.raises((error, zipfile.BadZipFile)), zipfile.ZipFile(path) as archive:
            archive.read("a.npy")


@pytest.mark.parametrize(
    "name", ["checkpoint.pth.tar", "checkpoint.ckpt", "weights", "epoch.12", "model.npz"]
)
def test_content_decides_not_the_name(tmp_path, name):
    tensors = shallow()
    want = pretrained.convert("vit_shallow", tensors)["params"]["norm"]["scale"]
    torch, arrays, safe = (
        tmp_path / "torch" / name,
        tmp_path / "numpy" / name,
        tmp_path / "safetensors" / name,
    )
    for path in (torch, arrays, safe):
        path.parent.mkdir()
    save_torch(torch, tensors)
    with arrays.open("wb") as file:
        np.savez(file, **tensors)
    safetensors.numpy.save_file(tensors, safe)
    for path in (torch, arrays, safe):
        np.testing.assert_array_equal(
            pretrained.load(path, "vit_shallow")["params"]["norm"]["scale"], want, err_msg=str(path)
        )


def test_a_file_that_is_no_weight_file(tmp_path):
    (tmp_path / "notes.tar").write_bytes(b"<html></html>")
    (tmp_path / "model.h5").write_bytes(b"\x89HDF\r\n")
    said(tmp_path / "notes.tar", "vit_shallow", "not a complete torch checkpoint")
    said(tmp_path / "model.h5", "vit_shallow", "not from '.h5'")


def test_shapes_alone_need_no_memory(tmp_path):
    big = {"w": np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (40_000, 1000), (0, 0))}
    safetensors.numpy.save_file({"w": np.ascontiguousarray(big["w"])}, tmp_path / "x.safetensors")
    np.savez(tmp_path / "x.npz", **big)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for suffix in ("safetensors", "npz"):
        got = pretrained.read(tmp_path / f"x.{suffix}", shapes_only=True)["w"]
        assert (got.shape, got.dtype, got.strides) == ((40_000, 1000), np.float32, (0, 0))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB; the tensor has 160,000


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth"])
def test_shapes_alone_convert_as_values_do(tmp_path, suffix):
    tensors, path = shallow(5), tmp_path / f"x{suffix}"
    if suffix == ".pth":
        save_torch(path, tensors)
    elif suffix == ".npz":
        np.savez(path, **tensors)
    else:
        safetensors.numpy.save_file(tensors, path)
    values, shapes = (pretrained.load(path, "vit_shallow", shapes_only=only) for only in (False, True))
    assert shapes["params"]["blocks"]["qkv"]["kernel"].strides == (0, 0, 0)
    described = [
        {key: (value.shape, value.dtype) for key, value in tree["params"]["patch_embed"].items()}
        for tree in (values, shapes)
    ]
    assert described[0] == described[1]


def test_a_part_of_a_flat_file(tmp_path):
    tensors = shallow()
    both = {f"student.{key}": value + 1 for key, value in tensors.items()}
    both |= {f"teacher.{key}": value for key, value in tensors.items()}
    safetensors.numpy.save_file(both, tmp_path / "x.safetensors")
    got = pretrained.load(f"{tmp_path}/x.safetensors#teacher", "vit_shallow")["params"]["norm"]["scale"]
    np.testing.assert_array_equal(got, tensors["norm.weight"])
    said(f"{tmp_path}/x.safetensors#ema", "vit_shallow", "holds no 'ema'; it holds the top level")
    # A file may have the sign in its name.
    safetensors.numpy.save_file(tensors, tmp_path / "run#2.safetensors")
    assert pretrained.read(tmp_path / "run#2.safetensors").keys() == tensors.keys()


# --- files of this package ---


def test_native_files_with_other_content(tmp_path):
    model = np.frombuffer(b"vit_shallow", np.uint8)

    def refused(message, **tensors):
        safetensors.numpy.save_file({native.MODEL: model, **tensors}, tmp_path / "x.safetensors")
        for shapes_only in (False, True):
            with pytest.raises(UserError, match=message) as caught:
                pretrained.load(tmp_path / "x.safetensors", "vit_shallow", shapes_only=shapes_only)
            assert "\n" not in str(caught.value)

    one = np.ones(3, np.float32)
    refused("1 inside another: params/a/b", **{"params/a": one, "params/a/b": one})
    refused("1 of no collection: other/a", **{"params/a": one, "other/a": one})
    refused("1 of another dtype: params/a int64", **{"params/a": np.ones(3, np.int64)})
    broken = {"params/a": np.array([1, np.inf], np.float32), native.MODEL: model}
    safetensors.numpy.save_file(broken, tmp_path / "x.safetensors")
    said(tmp_path / "x.safetensors", "vit_shallow", "1 not finite: params/a")


def test_a_whole_run_in_a_native_file(tmp_path):
    """Every collection comes back; other models take the weights alone, or those of its trunk with its neck."""
    rng = np.random.default_rng(0)
    kernel = {name: rng.standard_normal((2, 3)).astype(np.float32) for name in ("low", "high", "head")}
    variables = {
        "params": {
            "trunk": {"stem": kernel["low"]},
            "neck": {"top": kernel["high"]},
            "head": {"kernel": kernel["head"]},
        },
        "batch_stats": {"trunk": {"mean": np.float32([1, 2])}},
        "counts": {"images": np.int32(7), "seen": np.array([1, 0], np.int32)},
        "empty": {},
    }
    path = native.write(tmp_path / "x.safetensors", variables, "fusion", trunk="resnet50", state=True)
    template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), variables)
    tensors = files.read(path)
    again = native.whole(tensors, template)
    assert (
        jax.tree.all(jax.tree.map(np.array_equal, variables, again)) and again["counts"]["images"].shape == ()
    )
    assert set(native.variables_of(tensors, "fusion")) == {"params", "batch_stats"}
    trunk = native.variables_of(tensors, "resnet50")
    assert trunk["params"].keys() == {"stem", "top"} and trunk["batch_stats"].keys() == {"mean"}
    with pytest.raises(UserError, match="these are weights of fusion, not of resnet101"):
        native.variables_of(tensors, "resnet101")
    for change, message in (
        ({"params/other": kernel["low"]}, "1 left over: params/other"),
        ({"state/counts/images": np.int64(7)}, "1 of another shape: counts/images int64"),
        ({"params/neck/top": kernel["low"][:1]}, r"1 of another shape: params/neck/top float32 \(1, 3\)"),
    ):
        with pytest.raises(UserError, match=message):
            native.whole({**tensors, **change}, template)
    with pytest.raises(UserError, match="1 missing: params/head/kernel"):
        native.whole({k: v for k, v in tensors.items() if "head" not in k}, template)
