"""The layers of the design hold: the contracts in pyproject.toml, checked by import-linter."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import patience

TOP = Path(__file__).parents[1]


def contracts() -> list[str]:
    with (TOP / "pyproject.toml").open("rb") as file:
        tool = tomllib.load(file)["tool"]["importlinter"]
    return [contract["id"] for contract in tool["contracts"]]


@pytest.fixture(scope="module")
def graph_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("imports")


@pytest.mark.parametrize("contract", contracts())
def test_contract_is_kept(contract: str, graph_cache: Path) -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    command += ["--contract", contract, "--cache-dir", str(graph_cache)]
    done = subprocess.run(
        command, cwd=TOP, capture_output=True, text=True, timeout=patience(60), check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 kept, 0 broken" in done.stdout


def test_threads_are_asked_for_in_one_place() -> None:
    """So that a lack of them is an error of the world's, which has an answer everywhere."""
    exempt = ("umktls/kernel/ground/", "umktls/lessons/")
    found = [
        name
        for folder in ("umktls", "fs", "daemons")
        for path in (TOP / folder).rglob("*.py")
        if not (name := str(path.relative_to(TOP))).startswith(exempt)
        and "to_thread.run_sync" in path.read_text()
    ]
    assert found == []
