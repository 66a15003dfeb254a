"""Whole hosts, started as a user starts them, and ended whatever a test does."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from umktls.certs import layout
from umktls.cli.sandbox import Sandbox
from umktls.kernel.children import program_path

MOUNT_SECONDS = 40


def needs_fuse() -> None:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("this machine's kernel lacks FUSE: /dev/fuse cannot be opened")


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """An empty sandbox with good certificates."""
    needs_fuse()
    with Sandbox("test") as box:
        layout.create(box.certs)
        yield box


@dataclass(frozen=True)
class Finished:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """What it said on stderr, which has to be one line."""
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, lines
        return lines[0]


Command = Callable[..., Finished]


@pytest.fixture
def umktls(sandbox: Sandbox) -> Command:
    """Runs `umktls` with arguments in the sandbox, with a deadline."""

    def run(*arguments: object, **environment: str) -> Finished:
        with (sandbox.top / "out").open("w+") as out, (sandbox.top / "err").open("w+") as err:
            done = subprocess.run(
                [program_path("umktls"), *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=sandbox.environment() | environment,
                timeout=MOUNT_SECONDS,
                check=False,
            )
            out.seek(0)
            err.seek(0)
            return Finished(done.returncode, out.read(), err.read())

    return run


def tool(name: str) -> str:
    """A program that set-up installs; a test that lacks it says so."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: make set-up installs it")
    return path
