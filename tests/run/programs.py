"""Programs under `umktls run`, and how they are told to use kernel TLS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import patience

__all__ = [
    "CONFIGURATION",
    "Program",
    "c_agent",
    "figures_of",
    "make_certificate",
    "started",
    "under_run",
]

# What has OpenSSL use kernel TLS wherever it can.
CONFIGURATION = """openssl_conf = all
[all]
ssl_conf = ssl
[ssl]
system_default = defaults
[defaults]
Options = KTLS
"""


def under_run(*options: str) -> list[str]:
    """What to write in front of a command; at its end the figures come on standard error."""
    return [sys.executable, "-m", "tests.run.umktls_main", "run", "--json", *options, "--"]


def make_certificate(where: Path) -> None:
    """key.pem and cert.pem for localhost, and ktls.cnf."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=localhost"]
    subprocess.run(command, cwd=where, check=True, capture_output=True, timeout=patience(20))
    (where / "ktls.cnf").write_text(CONFIGURATION)


def c_agent(where: Path) -> str:
    """The handshake agent in C, built in that directory."""
    program = where / "agent"
    libraries = ["pkg-config", "--cflags", "--libs", "libnl-genl-3.0", "gnutls"]
    flags = subprocess.run(libraries, check=True, capture_output=True, timeout=patience(20)).stdout
    source = Path(__file__).with_name("agents") / "agent.c"
    build = ["gcc", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(source)]
    subprocess.run([*build, *flags.decode().split()], check=True, timeout=patience(40))
    return str(program)


class Program:
    """One program with its output, which can be waited for by the line."""

    def __init__(
        self, command: Sequence[str], where: Path, *, ktls: bool = True, stdin: int | None = None
    ) -> None:
        environment = os.environ | {"PYTHONPATH": os.getcwd()}
        if ktls:
            environment["OPENSSL_CONF"] = str(where / "ktls.cnf")
        self._errors = where / f"{id(self)}.err"
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command,
                cwd=where,
                env=environment,
                stdin=subprocess.PIPE if stdin is None else stdin,
                stdout=subprocess.PIPE,
                stderr=errors,
            )

    def wait_for(self, text: bytes) -> bytes:
        """The line of its output that has the text in it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if text in line:
                return line
        raise AssertionError(f"{text!r} never came; {self.errors}")

    def say(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def end(self, seconds: float = 30) -> bytes:
        """Nothing more is said to it; the rest of its output when it has ended."""
        rest, _ = self.process.communicate(timeout=patience(seconds))
        assert isinstance(rest, bytes)
        return rest

    def rest(self, seconds: float = 30) -> bytes:
        """The rest of its output when it has ended by itself: it could still be told something."""
        assert self.process.stdout is not None
        rest: bytes = self.process.stdout.read()
        self.process.wait(patience(seconds))
        return rest

    @property
    def errors(self) -> str:
        return self._errors.read_text(errors="replace")

    @property
    def figures(self) -> dict[str, Any]:
        return figures_of(self.errors)


def figures_of(errors: str) -> dict[str, Any]:
    """What `--json` has written last."""
    lines = [line for line in errors.splitlines() if line.startswith('{"schema"')]
    assert lines, errors
    found: dict[str, Any] = json.loads(lines[-1])
    return found


@contextmanager
def started(program: Program) -> Iterator[Program]:
    """It is no more at the block's end."""
    try:
        yield program
    finally:
        if program.process.poll() is None:
            program.process.terminate()
            try:
                program.process.wait(patience(10))
            except subprocess.TimeoutExpired:
                program.process.kill()
                program.process.wait()
        for stream in (program.process.stdin, program.process.stdout):
            if stream is not None:
                stream.close()
