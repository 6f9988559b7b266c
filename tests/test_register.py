"""The registries: built-in names, a user's own, and what is said of a name that is not there."""

import importlib.metadata
import importlib.util
import sys

import pytest

from fusionjax import register
from fusionjax.errors import UserError
from fusionjax.register import DatasetRecord, Registry

SOURCE = """
from fusionjax import register

@register.dataset("shapes", reads=("root", "languages"))
def create(data, split, *, seed):
    return split
"""


@pytest.fixture
def datasets(monkeypatch):
    """An empty registry of data sets, in place of the package's."""
    own = Registry("data set", "data.source", {"cub": "fusionjax.data.datasets.cub:RECORD"}, "fusionjax.none")
    monkeypatch.setattr(register, "datasets", own)
    return own


@pytest.mark.parametrize("registry", [register.tasks, register.datasets], ids=["tasks", "datasets"])
def test_a_built_in_record_bears_its_name(registry):
    assert registry.names() and all(record.name == name for name, record in registry.records())


def test_a_decorator_registers_and_leaves_the_function(datasets):
    @register.dataset("shapes", reads=("root", "languages"))
    def create(data, split, *, seed):
        return split

    record = datasets.get("shapes")
    assert record.create is create and record.reads == ("root", "languages")
    assert datasets.names() == ("cub", "shapes")
    with pytest.raises(
        UserError, match=r"config.data.source='shape' is not known; allowed: cub, shapes \(did you"
    ):
        datasets.get("shape")


def test_a_name_is_taken_once(datasets, tmp_path):
    (tmp_path / "mine.py").write_text(SOURCE)
    for _ in range(2):  # a module that is imported twice registers the same thing
        exec(compile(SOURCE, str(tmp_path / "mine.py"), "exec"), {})
    assert datasets.get("shapes").create(None, "train", seed=0) == "train"
    for name in ("shapes", "cub"):
        with pytest.raises(UserError, match=f"the data set '{name}' is registered already"):
            register.dataset(name)(lambda data, split, *, seed: None)


def test_an_installed_package_brings_a_record(datasets, monkeypatch):
    point = importlib.metadata.EntryPoint("shapes", f"{__name__}:RECORD", "fusionjax.none")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [point])
    assert datasets.get("shapes") is RECORD and datasets.names() == ("cub", "shapes")


RECORD = DatasetRecord("shapes", lambda data, split, *, seed: None)


def test_the_module_of_an_entry_point_may_register_itself(datasets, monkeypatch, tmp_path):
    (tmp_path / "own_shapes.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    points = [
        importlib.metadata.EntryPoint("shapes", "own_shapes:create", "fusionjax.none"),
        importlib.metadata.EntryPoint("gone", "no_such_module:create", "fusionjax.none"),
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: points)
    assert datasets.get("shapes").reads == ("root", "languages"), (
        "the record, not the function that it decorates"
    )
    with pytest.raises(UserError, match="the data set 'gone' cannot be imported from no_such_module:create"):
        datasets.get("gone")


def test_a_class_in_a_file_that_is_imported_twice_is_the_same(monkeypatch, tmp_path):
    heads = Registry("fusion head", "fusion.head", {}, "fusionjax.none")
    monkeypatch.setattr(register, "fusion_heads", heads)
    file = tmp_path / "own_head.py"
    file.write_text(
        "from fusionjax import register\n\n@register.fusion_head('mine')\nclass Mine:\n    pass\n"
    )
    for name in ("own_head", "config_with_own_head"):
        spec = importlib.util.spec_from_file_location(name, file)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
    assert heads.names() == ("mine",)
