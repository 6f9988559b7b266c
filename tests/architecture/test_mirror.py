"""tests/ mirrors fusionjax/: whoever has changed a module finds its tests without a search, and the other way round."""

import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]
TESTS, PACKAGE = ROOT / "tests", ROOT / "fusionjax"
OTHER = {"architecture", "faults", "commands", "docs", "extension", "parity", "support"}
"""Folders of what concerns no single package."""


def mirrored(path):
    parts = path.relative_to(TESTS).parts
    return parts[0] not in OTHER and "__pycache__" not in parts


@pytest.mark.parametrize(
    "path",
    [p for p in sorted(TESTS.rglob("test_*.py")) if mirrored(p)],
    ids=lambda p: str(p.relative_to(TESTS)),
)
def test_a_test_file_is_named_for_a_module_and_lies_where_it_does(path):
    place = PACKAGE / path.relative_to(TESTS).with_name(path.stem.removeprefix("test_"))
    assert place.with_suffix(".py").exists() or (place / "__init__.py").exists(), f"there is no {place}"


def test_every_package_with_modules_has_a_folder_of_tests():
    packages = {p.parent.relative_to(PACKAGE) for p in PACKAGE.rglob("*.py") if p.stem != "__init__"}
    folders = {p.parent.relative_to(TESTS) for p in TESTS.rglob("test_*.py") if mirrored(p)}
    assert sorted(map(str, packages - folders)) == []
    assert sorted(map(str, folders - packages)) == []
