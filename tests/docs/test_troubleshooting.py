"""Every message of docs/troubleshooting.md, and of the block that a report begins with, is one that the program prints."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def messages(page: str) -> list[str]:
    """Code in the first column of the tables whose head is "… says"."""
    found, inside = [], False
    for line in (ROOT / "docs" / page).read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        inside = line.startswith("|") and (inside or cells[0].endswith("says"))
        found += re.findall(r"`([^`]+)`", cells[0]) if inside else []
    return found


def texts(node: ast.AST) -> str:
    """The text of a literal; a value that is filled in is a NUL."""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(texts, node.values))
    return str(node.value) if isinstance(node, ast.Constant) and isinstance(node.value, str) else "\0"


@pytest.fixture(scope="module")
def literals() -> list[str]:
    """Every text in the source that is not a docstring."""
    found = []
    for path in sorted((ROOT / "fusionjax").rglob("*.py")):
        tree = ast.parse(path.read_text())
        bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        found += [
            texts(n)
            for n in ast.walk(tree)
            if isinstance(n, ast.JoinedStr | ast.Constant) and id(n) not in bare
        ]
    return found


@pytest.mark.parametrize(
    ("page", "message"),
    [(page, text) for page in ("troubleshooting.md", "first_steps.md") for text in messages(page)],
)
def test_the_program_says_so(page, message, literals):
    """Its parts, between which … stands for what is filled in, are in one text and in this order."""
    parts = [re.escape(part.strip()) for part in message.split("…") if part.strip()]
    pattern = re.compile(".*".join(parts), re.S)
    assert any(pattern.search(text) for text in literals), message


def test_a_message_that_nothing_prints_is_found(literals):
    with pytest.raises(AssertionError):
        test_the_program_says_so("troubleshooting.md", "the … moon is … full", literals)
    assert len(messages("troubleshooting.md")) > 20 and len(messages("first_steps.md")) > 5
