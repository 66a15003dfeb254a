"""Each package says where to begin reading it, and the files that it names are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PACKAGES = [
    path.parent
    for top in ("umktls", "fs", "daemons")
    for path in sorted((TOP / top).glob("**/__init__.py"))
]
OF_USERS = {"conftest.py"}  # a file of whoever uses umktls


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(TOP)))
def test_where_to_begin(package: Path) -> None:
    head = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    assert re.search(r"\bBegin(?: reading)?\s(?:with|in)\s`?[\w/]+\.py\b", head)
    named = set(re.findall(r"(?<![\w./])[\w/]+\.py\b", head)) - OF_USERS
    assert [
        name for name in named if not any((top / name).is_file() for top in (package, TOP))
    ] == []


def test_the_page_names_files_that_there_are() -> None:
    text = (TOP / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`((?:[\w.]+/)*\w+\.py)`", text))
    assert len(named) > 50
    files = [str(path.relative_to(TOP)) for package in PACKAGES for path in package.glob("*.py")]
    files += [str(path.relative_to(TOP)) for path in (TOP / "tests").rglob("*.py")]
    assert [
        name for name in named if not any(f"/{one}".endswith(f"/{name}") for one in files)
    ] == []
