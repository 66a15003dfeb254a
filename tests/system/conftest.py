"""Whole hosts, started as a user starts them, and ended whatever a test does."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import patience
from tests.system.live import Live, live, needs_fuse
from tests.system.relay import Relay, relaying
from umktls.certs import layout
from umktls.cli.sandbox import Sandbox
from umktls.kernel.host.commands import program_path

MOUNT_SECONDS = 40


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
                timeout=patience(MOUNT_SECONDS),
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


@pytest.fixture(scope="module")
def mount() -> Iterator[Live]:
    """A mount with mutual TLS for all tests of a file."""
    with live("system") as one:
        # Other users may pass here; what they may do is up to the modes below the mount.
        one.box.top.chmod(0o755)
        one.export.chmod(0o755)
        yield one


@pytest.fixture
def place(mount: Live, request: pytest.FixtureRequest) -> Path:
    """An empty directory on that mount."""
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    path = mount.path / name
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def relay() -> Iterator[Relay]:
    with relaying() as one:
        yield one


@pytest.fixture(scope="module")
def relayed(relay: Relay) -> Iterator[Live]:
    """A mount through the relay."""
    # A mistake in the relay must not take minutes.
    with live("relayed", ("-o", "mtls,timeo=100"), port=relay.to) as one:
        yield one
