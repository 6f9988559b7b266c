"""The restricted reader of torch checkpoints: right tensors, nothing executed, one line for every damage."""

import io
import struct
import time
import zipfile

import ml_dtypes
import numpy as np
import pytest

from fusionjax.errors import UserError
from fusionjax.pretrained.files import package_file
from fusionjax.pretrained.torch_file import MAGIC, PROTOCOL, read_torch

# --- pickle opcodes by hand: what torch writes, without torch ---


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def integer(value: int) -> bytes:
    return b"\x8a" + bytes([9]) + value.to_bytes(9, "little", signed=True)


def name(path: str) -> bytes:
    module, _, attribute = path.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def counts(values) -> bytes:
    return b"(" + b"".join(map(integer, values)) + b"t"


def storage(key, kind, size) -> bytes:
    return b"(" + text("storage") + name(f"torch.{kind}") + text(key) + text("cpu") + integer(size) + b"tQ"


def tensor(key, kind, size, offset, shape, strides) -> bytes:
    hooks = name("collections.OrderedDict") + b")R"
    arguments = storage(key, kind, size) + integer(offset) + counts(shape) + counts(strides) + b"\x89" + hooks
    return name("torch._utils._rebuild_tensor_v2") + b"(" + arguments + b"tR"


def mapping(items: dict[str, bytes]) -> bytes:
    body = b"".join(text(key) + value for key, value in items.items())
    return name("collections.OrderedDict") + b")R(" + body + b"u"


def program(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def zipped(body: bytes, storages: dict[str, bytes], compression=zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program(body))
        archive.writestr("archive/byteorder", "little")
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
    return buffer.getvalue()


def legacy(body: bytes, storages: dict[str, bytes], item_size: int = 4) -> bytes:
    system = b"}(" + text("protocol_version") + integer(PROTOCOL) + text("little_endian") + b"\x88u"
    keys = b"](" + b"".join(map(text, storages)) + b"e"
    head = b"\x8a\x0a" + MAGIC.to_bytes(10, "little")
    parts = [program(head), program(integer(PROTOCOL)), program(system), program(body), program(keys)]
    for data in storages.values():
        parts.append(struct.pack("<q", len(data) // item_size) + data)
    return b"".join(parts)


FORMATS = pytest.mark.parametrize("pack", [zipped, legacy])
VALUES = np.arange(24, dtype=np.float32)
WHOLE = tensor("0", "FloatStorage", 24, 0, (4, 6), (6, 1))


@pytest.fixture
def write(tmp_path):
    def function(data: bytes):
        path = tmp_path / "weights.pth"
        path.write_bytes(data)
        return path

    return function


def refused(path, match) -> None:
    """Reading ends in one line that names the file, within a second of computing."""
    start = time.process_time()
    with pytest.raises(UserError, match=match) as raised:
        read_torch(path)
    assert time.process_time() - start < 1
    assert "weights.pth" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500


@FORMATS
def test_views_offsets_and_shared_storages(write, pack):
    items = {
        "whole": WHOLE,
        "transposed": tensor("0", "FloatStorage", 24, 0, (6, 4), (1, 6)),
        "part": tensor("0", "FloatStorage", 24, 7, (2, 3), (6, 2)),
        "scalar": tensor("0", "FloatStorage", 24, 5, (), ()),
        "empty": tensor("0", "FloatStorage", 24, 0, (0, 3), (3, 1)),
        "parameter": name("torch._utils._rebuild_parameter")
        + b"("
        + WHOLE
        + b"\x88"
        + name("collections.OrderedDict")
        + b")RtR",
    }
    got = read_torch(write(pack(mapping(items), {"0": VALUES.tobytes()})))
    whole = VALUES.reshape(4, 6)
    np.testing.assert_array_equal(got["whole"], whole)
    np.testing.assert_array_equal(got["transposed"], whole.T)
    np.testing.assert_array_equal(got["part"], np.lib.stride_tricks.as_strided(VALUES[7:], (2, 3), (24, 8)))
    np.testing.assert_array_equal(got["scalar"], 5)
    np.testing.assert_array_equal(got["parameter"], whole)
    assert got["empty"].shape == (0, 3)
    assert not got["whole"].flags.writeable


@FORMATS
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("DoubleStorage", np.float64),
        ("HalfStorage", np.float16),
        ("BFloat16Storage", ml_dtypes.bfloat16),
        ("LongStorage", np.int64),
        ("IntStorage", np.int32),
        ("ShortStorage", np.int16),
        ("CharStorage", np.int8),
        ("ByteStorage", np.uint8),
        ("BoolStorage", np.bool_),
    ],
)
def test_dtypes(write, pack, kind, dtype):
    values = np.array([0, 1, 1, 0, 1]).astype(dtype)
    body = mapping({"x": tensor("0", kind, 5, 0, (5,), (1,))})
    arguments = {"item_size": values.itemsize} if pack is legacy else {}
    got = read_torch(write(pack(body, {"0": values.tobytes()}, **arguments)))["x"]
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, values)


@FORMATS
def test_wrappers_prefixes_and_other_values(write, pack):
    data = {"0": VALUES.tobytes()}
    inner = mapping({"module.w": WHOLE})
    for wrapper in ("state_dict", "model"):
        body = mapping({"epoch": integer(3), wrapper: inner, "lr": b"G" + struct.pack(">d", 0.1)})
        assert list(read_torch(write(pack(body, data)))) == ["module.w"]
    assert list(read_torch(write(pack(mapping({"note": text("x"), "w": WHOLE}), data)))) == ["w"]
    assert list(read_torch(write(pack(mapping({"weights": inner}), data)))) == ["module.w"]
    refused(write(pack(mapping({"epoch": integer(3)}), data)), "holds no tensors; its entries are epoch")
    refused(write(pack(b"](K\x01e", data)), "no dict of tensors")


@FORMATS
def test_one_of_several_state_dicts(write, pack):
    data = {"0": VALUES.tobytes()}
    one, other = mapping({"a": WHOLE}), mapping({"b": WHOLE, "c": WHOLE})
    training = mapping({"optimizer": mapping({"state": one}), "state_dict": one, "state_dict_ema": other})
    said = []
    assert list(read_torch(write(pack(training, data)), log=said.append)) == ["a"]
    assert said == [
        f"{write(pack(training, data))}: state_dict is read, not state_dict_ema (2 tensors): FILE#NAME reads another"
    ]
    assert list(read_torch(write(pack(training, data)), "state_dict_ema", log=said.append)) == ["b", "c"]
    assert len(said) == 1
    teacher = mapping({"backbone.b": WHOLE, "head.c": WHOLE})
    dino = mapping({"student": one, "teacher": teacher, "epoch": integer(1)})
    refused(
        write(pack(dino, data)), r"holds student \(1 tensors\), teacher \(2 .*: name one, as in FILE#student"
    )
    assert list(read_torch(write(pack(dino, data)), "teacher")) == ["backbone.b", "head.c"]
    assert list(read_torch(write(pack(dino, data)), "teacher.backbone")) == ["b"]
    with pytest.raises(UserError, match=r"holds no 'ema'; it holds student \(1 tensors\), teacher"):
        read_torch(write(pack(dino, data)), "ema")
    nested = mapping({"model": mapping({"state_dict": other, "note": text("x")})})
    assert list(read_torch(write(pack(nested, data)))) == ["b", "c"]


def built(path: str, *arguments: bytes) -> bytes:
    """An object as copyreg writes it: class, arguments, state."""
    return name(path) + b"(" + b"".join(arguments) + b"t\x81}(" + text("lr") + integer(1) + b"ub"


@FORMATS
def test_tensors_beside_objects_of_other_programs(write, pack, tmp_path):
    marker = tmp_path / "marker"
    scalar = call(
        "numpy._core.multiarray.scalar", call("numpy.dtype", text("f8"), b"\x89", b"\x88"), text("12345678")
    )
    counter = call("collections.Counter", b"}" + integer(5) + integer(1) + b"s")
    items = {
        "state_dict": mapping({"w": WHOLE}),
        "args": built("argparse.Namespace"),
        "best": scalar,
        "milestones": counter,
        "old": b"(" + text("x") + b"imodule\nClass\n",
        "keyed": b"}(" + integer(1) + integer(2) + b"\x86" + integer(3) + b"u",
        "defaults": call("collections.defaultdict", name("builtins.list")) + text("a") + integer(1) + b"s",
        "run": call("os.system", text(f"touch {marker}")),
        "device": call("torch.device", text("cuda")),
    }
    said = []
    got = read_torch(write(pack(mapping(items), {"0": VALUES.tobytes()})), log=said.append)
    np.testing.assert_array_equal(got["w"], VALUES.reshape(4, 6))
    assert not marker.exists()
    assert len(said) == 1
    assert "skipped, without running them: argparse.Namespace, collections.Counter" in said[0]


@FORMATS
def test_shapes_alone(write, pack):
    items = {"w": WHOLE, "t": tensor("0", "FloatStorage", 24, 0, (6, 4), (1, 6))}
    path = write(pack(mapping(items), {"0": VALUES.tobytes()}))
    got = read_torch(path, shapes_only=True)
    assert {key: (value.shape, value.dtype, value.strides) for key, value in got.items()} == {
        "w": ((4, 6), np.float32, (0, 0)),
        "t": ((6, 4), np.float32, (0, 0)),
    }
    # A file without its last storage is damaged for those who read shapes too.
    cut = tensor("1", "FloatStorage", 24, 0, (4, 6), (6, 1))
    path = write(pack(mapping({"w": cut}), {"0": VALUES.tobytes()}))
    with pytest.raises(UserError, match="storage 1 is missing"):
        read_torch(path, shapes_only=True)


def call(path: str, *arguments: bytes) -> bytes:
    return name(path) + b"(" + b"".join(arguments) + b"tR"


def poisons(marker: str) -> dict[str, tuple[bytes, str]]:
    shell, code = text(f"touch {marker}"), text(f"open({marker!r}, 'w')")
    state = b"}(" + text("__setstate__") + name("os.system") + b"u"
    return {
        "os": (call("os.system", shell), r"an object of os\.system, which is not run"),
        "posix": (call("posix.system", shell), r"an object of posix\.system"),
        "eval": (call("builtins.eval", code), r"an object of builtins\.eval"),
        "python 2": (call("__builtin__.exec", code), r"an object of __builtin__\.exec"),
        "stack global": (text("os") + text("system") + b"\x93(" + shell + b"tR", r"object of os\.system"),
        "nested": (mapping({"x": call("builtins.eval", code)}), r"objects that are not run: builtins\.eval"),
        "in a tensor": (
            call("torch._utils._rebuild_parameter", call("os.system", shell)),
            r"object of os\.system",
        ),
        "as an argument": (
            call("collections.OrderedDict", call("os.system", shell)),
            r"object of collections\.",
        ),
        "setstate": (name("collections.OrderedDict") + b")R" + state + b"b", "holds no tensors"),
        "inst": (b"(" + shell + b"ios\nsystem\n", r"object of os\.system"),
        "inst of a known name": (b"(icollections\nOrderedDict\n", r"object of collections\.OrderedDict"),
        "getattr": (call("builtins.getattr", WHOLE, text("tofile")), r"object of builtins\.getattr"),
        "dotted": (
            text("collections") + text("OrderedDict.fromkeys") + b"\x93)R",
            r"object of collections\.OrderedDict\.fromkeys",
        ),
        "torch.load": (call("torch.serialization.load", shell), r"object of torch\.serialization\.load"),
        "a dtype as a function": (
            call("torch.FloatStorage", integer(10**9)),
            r"object of torch\.FloatStorage",
        ),
        "numpy": (
            call("numpy.core.multiarray._reconstruct", shell),
            r"object of numpy\.core\.multiarray\._reconstruct",
        ),
        "obj": (b"(" + name("os.system") + shell + b"o", r"object of os\.system"),
        "newobj": (name("subprocess.Popen") + b"(" + shell + b"t\x81", r"object of subprocess\.Popen"),
        "newobj ex": (name("subprocess.Popen") + b"(" + shell + b"t}\x92", r"object of subprocess\.Popen"),
        "extension": (b"\x82\x01", "opcode EXT1"),
        "call of a call": (name("collections.OrderedDict") + b")R(tR", "not a function"),
        "call of a skipped": (call("os.system", shell) + b"(tR", r"object of os\.system"),
        "build of a name": (name("torch._utils._rebuild_tensor_v2") + b"}b", "no dict of tensors"),
        "tensor of no storage": (
            call("torch._utils._rebuild_tensor_v2", text("x"), integer(0), b")", b")"),
            "storage",
        ),
    }


@FORMATS
@pytest.mark.parametrize("poison", poisons(""))
def test_poison_is_named_and_not_run(write, tmp_path, pack, poison):
    marker = tmp_path / "marker"
    body, match = poisons(str(marker))[poison]
    refused(write(pack(body, {"0": VALUES.tobytes()})), match)
    assert not marker.exists()


def test_poison_in_the_other_pickles_of_the_legacy_format(write, tmp_path):
    marker = tmp_path / "marker"
    bad = program(call("os.system", text(f"touch {marker}")))
    parts = [program(b"\x8a\x0a" + MAGIC.to_bytes(10, "little")), program(integer(PROTOCOL))]
    refused(write(bad), "neither a zip archive nor torch's legacy format")
    refused(write(parts[0] + bad), "unknown version")
    refused(write(parts[0] + parts[1] + bad), "big-endian")
    whole = legacy(mapping({"w": WHOLE}), {"0": VALUES.tobytes()})
    end = whole.rindex(b"](")
    refused(write(whole[: end - 2] + bad), "no list of storages")
    assert not marker.exists()


def deep(levels: int) -> bytes:
    return b")" + b"\x85" * levels


BOMBS = {
    "memo index": b"}r\xff\xff\xff\x7f",
    "string length": b"\x8d" + struct.pack("<Q", 2**60),
    "bytes length": b"\x8e" + struct.pack("<Q", 2**60),
    "deep tuple as a key": b"}(" + deep(50_000) + b"Nu",
    "doubling tuple as a key": b"}(" + b")" + b"2\x86" * 100 + b"Nu",
    "deep tuple": mapping({"w": deep(50_000)}),
    "shape beyond the storage": mapping({"w": tensor("0", "FloatStorage", 24, 0, (10**12,), (1,))}),
    "expanded": mapping({"w": tensor("0", "FloatStorage", 24, 0, (10**12,), (0,))}),
    "offset": mapping({"w": tensor("0", "FloatStorage", 24, 10, (4, 6), (6, 1))}),
    "stride": mapping({"w": tensor("0", "FloatStorage", 24, 0, (2, 2), (2**62, 1))}),
    "negative stride": mapping({"w": tensor("0", "FloatStorage", 24, 10, (2,), (-1,))}),
    "negative shape": mapping({"w": tensor("0", "FloatStorage", 24, 0, (-1,), (1,))}),
    "empty but wide": mapping({"w": tensor("0", "FloatStorage", 24, 0, (0, 2**70), (1, 1))}),
    "storage claims more": mapping({"w": tensor("0", "FloatStorage", 10**12, 0, (10**12,), (1,))}),
    "storage is missing": mapping({"w": tensor("1", "FloatStorage", 24, 0, (4, 6), (6, 1))}),
    "33 axes": mapping({"w": tensor("0", "FloatStorage", 24, 0, (1,) * 33, (1,) * 33)}),
    "too many digits": b"I" + b"9" * 100_000 + b"\n",
    "underflow": b"u",
    "no mark": b"]e",
    "unstored memo": b"h\x05",
    "odd items": b"}(" + text("a") + b"u",
    "append to a number": b"K\x01K\x02a",
}


@FORMATS
@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_cost_nothing(write, pack, bomb):
    refused(write(pack(BOMBS[bomb], {"0": VALUES.tobytes()})), "not a complete torch checkpoint|holds no")


@FORMATS
def test_truncated_anywhere(write, pack):
    whole = pack(mapping({"w": WHOLE}), {"0": VALUES.tobytes()})
    for length in [0, 1, 3, 4, 12, 30, *range(31, len(whole), 17), len(whole) - 1]:
        refused(write(whole[:length]), "not a complete torch checkpoint")


@pytest.mark.parametrize("share", [0.0001, 0.001, 0.1, 0.5, 0.999999])
def test_the_real_file_truncated(write, share):
    data = package_file("efficientnet_lite0").read_bytes()
    refused(write(data[: int(len(data) * share)]), "not a complete torch checkpoint")


def test_the_real_file():
    got = read_torch(package_file("efficientnet_lite0"))
    assert len(got) == 296
    assert sum(array.size for key, array in got.items() if key.endswith(("weight", "bias"))) == 4_652_008
    assert got["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert got["_bn0.num_batches_tracked"].dtype == np.int64
    assert all(np.isfinite(array).all() for array in got.values())


def test_damaged_archives(write):
    body, data = mapping({"w": WHOLE}), {"0": VALUES.tobytes()}
    whole = zipped(body, data)
    at = whole.index(VALUES.tobytes())
    refused(write(whole[:at] + b"\xff" + whole[at + 1 :]), "CRC")
    refused(write(zipped(body, data, zipfile.ZIP_DEFLATED)), "compressed entries")
    refused(write(whole.replace(b"archive/data.pkl", b"archive/dato.pkl")), "without one data.pkl")
    refused(write(whole.replace(b"little", b"bigxxx")), "CRC|big-endian")
    refused(write(b"not weights at all"), "neither a zip archive nor torch's legacy format")
    refused(write(b"<html>404</html>"), "neither a zip archive nor torch's legacy format")


def test_overlapping_entries_cannot_multiply_the_file(write):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", program(mapping({"w": WHOLE})))
        archive.writestr("archive/data/0", bytes(100_000))
        first = archive.infolist()[1]
        for index in range(1, 50):
            twin = zipfile.ZipInfo(f"archive/data/{index}")
            for field in ("header_offset", "CRC", "compress_size", "file_size"):
                setattr(twin, field, getattr(first, field))
            archive.filelist.append(twin)
    refused(write(buffer.getvalue()), "claim more bytes than the file has|[Oo]verlap")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_torch(tmp_path / "none.pth")
    with pytest.raises(UserError, match="cannot be read"):
        read_torch(tmp_path)
