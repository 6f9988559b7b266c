"""ONNX files: tensors without running the graph, anonymous weights by the node that uses them, damage in one line."""

import sys

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from fusionjax import pretrained
from fusionjax.errors import UserError
from fusionjax.models.backbones.records import vit_keys


def node(operation, name, *inputs):
    return helper.make_node(operation, list(inputs), [f"{name}_out"], name=name)


def write(path, tensors, *nodes):
    initialisers = [
        tensor if isinstance(tensor, TensorProto) else numpy_helper.from_array(tensor, name)
        for name, tensor in tensors.items()
    ]
    graph = helper.make_graph(nodes, "exported", [], [], initialisers)
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


@pytest.fixture
def exported(tmp_path, rng):
    """As torch's exporter writes a model with a backbone: two linear layers, a table of positions in two parts."""
    tensors = {
        "net.embeddings.cls_token": rng.normal(size=(1, 1, 2)),
        "net.q.bias": rng.normal(size=3),
        "onnx::MatMul_7": rng.normal(size=(2, 3)),
        "onnx::Concat_8": rng.normal(size=(1, 1, 2)),
        "onnx::Reshape_9": rng.normal(size=(1, 4, 2)),
        "onnx::Add_10": rng.normal(size=2),
        "onnx::Mul_11": rng.normal(size=2),
    }
    tensors = {name: array.astype(np.float32) for name, array in tensors.items()}
    nodes = (
        node("MatMul", "/net/q/MatMul", "x", "onnx::MatMul_7"),
        node("Concat", "/net/embeddings/Concat_6", "onnx::Concat_8", "y"),
        node("Reshape", "/net/embeddings/Reshape_1", "onnx::Reshape_9", "z"),
        node("Add", "/net/a/Add", "x", "onnx::Add_10"),
        node("Add", "/net/b/Add", "x", "onnx::Add_10"),
    )
    return write(tmp_path / "x.onnx", tensors, *nodes), tensors


@pytest.mark.parametrize("shapes_only", [False, True])
def test_anonymous_weights_are_named_for_the_module_that_uses_them(exported, shapes_only):
    path, tensors = exported
    found = pretrained.read(path, shapes_only=shapes_only)
    want = {
        "net.embeddings.cls_token": tensors["net.embeddings.cls_token"],
        "net.q.bias": tensors["net.q.bias"],
        "net.q.weight": tensors["onnx::MatMul_7"].T,
        "net.embeddings.Concat_6": tensors["onnx::Concat_8"],
        "net.embeddings.Reshape_1": tensors["onnx::Reshape_9"],
        # Used twice, and not at all: their place is unknown.
        "onnx::Add_10": tensors["onnx::Add_10"],
        "onnx::Mul_11": tensors["onnx::Mul_11"],
    }
    assert {name: t.shape for name, t in found.items()} == {name: t.shape for name, t in want.items()}
    for name, tensor in want.items() if not shapes_only else ():
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)
    inner = {name.removeprefix("net."): tensor for name, tensor in found.items()}
    table = vit_keys.clean(inner)["embeddings.position_embeddings"]
    assert table.shape == (1, 5, 2)
    if not shapes_only:
        np.testing.assert_array_equal(table[:, :1], tensors["onnx::Concat_8"])


def changed(**fields):
    """A tensor of four numbers, with fields of its message changed."""
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "w")
    for field, value in fields.items():
        if field == "dims":
            del tensor.dims[:]
            tensor.dims.extend(value)
        else:
            setattr(tensor, field, value)
    return tensor


def listed(count):
    return TensorProto(name="w", dims=[4], data_type=TensorProto.FLOAT, float_data=[1.0] * count)


DAMAGED = {
    "quantised": (changed(data_type=TensorProto.INT4), "w has ONNX's dtype 22: quantised weights"),
    "text": (changed(data_type=TensorProto.STRING), "w has ONNX's dtype 8"),
    "in another file": (changed(data_location=TensorProto.EXTERNAL), "w is stored in another file"),
    "more than there is": (changed(dims=(2**40, 2**40)), "w claims another number of bytes"),
    "less than there is": (changed(dims=(3,)), "w claims another number of bytes"),
    "negative": (changed(dims=(-4,)), "w has the shape"),
    "a short list": (listed(3), "w claims another number of values"),
    "an empty list": (listed(0), "w claims another number of values"),
}


@pytest.mark.parametrize("shapes_only", [False, True])
@pytest.mark.parametrize("case", DAMAGED)
def test_a_tensor_that_is_not_whole_is_one_line(tmp_path, case, shapes_only):
    tensor, message = DAMAGED[case]
    path = write(tmp_path / "x.onnx", {"w": tensor})
    with pytest.raises(UserError, match=rf"^{path}: {message}[^\n]*$"):
        pretrained.read(path, shapes_only=shapes_only)


@pytest.mark.parametrize("content", [b"", b"\x00" * 50, b"<html>", "cut", "noise"])
def test_a_file_that_is_not_whole_is_one_line(tmp_path, exported, content, rng):
    path = tmp_path / "damaged.onnx"
    whole = exported[0].read_bytes()
    for attempt in range(20 if isinstance(content, str) else 1):
        if content == "cut":
            path.write_bytes(whole[: int(rng.integers(1, len(whole)))])
        elif content == "noise":
            data = np.frombuffer(whole, np.uint8).copy()
            data[rng.integers(0, len(data), 5)] = rng.integers(0, 256, 5)
            path.write_bytes(data.tobytes())
        else:
            path.write_bytes(content)
        try:
            found = pretrained.read(path)
        except UserError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error), attempt
        else:  # a changed value or name is no damage that can be seen
            assert content == "noise" and found


def test_without_the_package_the_extra_is_named(tmp_path, exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r'needs the package onnx: pip install "fusionjax\[onnx\]"'):
        pretrained.read(exported[0])


def test_numbers_in_a_list_are_read(tmp_path):
    found = pretrained.read(write(tmp_path / "x.onnx", {"w": listed(4)}))
    np.testing.assert_array_equal(found["w"], np.ones(4, np.float32))
