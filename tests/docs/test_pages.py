"""The paths, modules, config fields and links in the documents exist; CITATION.cff is complete."""

import importlib
import pathlib
import re

import pytest
import yaml
from ml_collections import ConfigDict

from fusionjax import config as config_lib
from fusionjax import register

ROOT = pathlib.Path(__file__).parents[2]
METHOD_PAGES = sorted((ROOT / "docs" / "methods").glob("*.md"))
SOURCES = [
    p for top in ("fusionjax", "configs", "tests", "benchmarks") for p in sorted((ROOT / top).rglob("*.py"))
]
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
PATH = re.compile(r"(?<![\w/.-])(?:fusionjax|configs|tests|benchmarks|docs)/[\w./-]*[\w/]")
DOTTED = re.compile(r"(?<![\w./-])fusionjax(?:\.\w+)+")

# Not imported, for they define flags; `tests/architecture` starts each.
COMMANDS = (
    "main",
    "evaluate",
    "predict",
    "visualize",
    "export",
    "inspect",
    "prepare",
    "compare",
    "sweep",
    "table",
)
COMMENT = re.compile(r"<!--.*?-->", re.S)

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def shown(page: pathlib.Path) -> str:
    """What a reader sees of a page."""
    return COMMENT.sub("", page.read_text())


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or something that a module has."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError as error:
            if not error.name or not error.name.startswith("fusionjax"):
                raise
            continue
        for part in parts[count:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@pages
def test_paths_exist(page):
    for path in PATH.findall(shown(page)):
        assert (ROOT / path).exists(), f"{page.name}: {path}"


@pages
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pages
def test_dotted_names_resolve(page):
    groups = {
        found.group
        for found in (register.tasks, register.datasets, register.backbones, register.fusion_heads)
    }
    for name in sorted(set(DOTTED.findall(shown(page))) - groups):
        if name.removeprefix("fusionjax.") not in COMMANDS:
            assert resolves(name), f"{page.name}: {name}"


def fields(section, prefix: str = "") -> set[str]:
    """Names of all fields and sections, e.g. data.cache and data.cache.passes."""
    found = set()
    for key, value in section.items():
        found.add(f"{prefix}{key}")
        if isinstance(value, ConfigDict):
            found |= fields(value, f"{prefix}{key}.")
    return found


@pages
def test_config_fields_exist(page):
    """Every `section.field` in code type, with or without a value; a * stands for any ending."""
    names = fields(config_lib.default())
    for name in re.findall(
        r"`([a-z]+(?:\.[a-z_0-9]+)*\.?[a-z_0-9]+\*?|[a-z.]+\.\*)(?:=[^`]*)?`", shown(page)
    ):
        if "." in name and name.partition(".")[0] in names:
            start, star, _ = name.partition("*")
            assert any(n.startswith(start) if star else n == start for n in names), f"{page.name}: {name}"


def test_every_method_has_a_line_in_the_index():
    index = (ROOT / "docs" / "methods" / "index.md").read_text()
    for page in METHOD_PAGES:
        assert page.name == "index.md" or f"({page.name})" in index, page.name


def test_documents_that_the_source_names_exist():
    for source in SOURCES:
        for path in re.findall(r"\b(?:docs/[\w/]+|CONTRIBUTING)\.md", source.read_text()):
            assert (ROOT / path).is_file(), f"{source}: {path}"


def test_no_reference_to_a_document_outside_the_repository():
    """The methods' equations are in docs/methods/ or in the papers."""
    for file in (*SOURCES, *PAGES):
        assert not re.search(r"\bMETHODS\b", file.read_text()), file


def test_the_guide_shows_the_toys_as_they_are():
    """CONTRIBUTING.md shows every toy of tests/extension in full, after a comment with its path."""
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    for toy in (ROOT / "tests" / "extension").glob("toy_*.py"):
        assert f"<!-- tests/extension/{toy.name} -->\n\n```python\n{toy.read_text()}```\n" in guide, toy.name


def test_the_citation_file_is_complete():
    """Required keys of the Citation File Format 1.2.0, and references with authors and year."""
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cff["cff-version"] == "1.2.0"
    assert cff["title"] == "fusionjax" and cff["license"] == "Apache-2.0" and cff["message"]
    assert cff["authors"] and all("name" in a or "family-names" in a for a in cff["authors"])
    assert cff["version"] == importlib.import_module("fusionjax").__version__
    for reference in cff["references"]:
        assert {"type", "title", "authors", "year"} <= reference.keys(), reference
        assert all("family-names" in a or "name" in a for a in reference["authors"]), reference["title"]
    titles = " ".join(r["title"] for r in cff["references"])
    for family in (
        "Dual Cross-Attention",
        "CrossViT",
        "Multimodal Disease",
        "Contrastive Learning of Visual",
        "wav2vec 2.0",
    ):
        assert family in titles, family
