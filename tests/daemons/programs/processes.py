"""The daemons, and OpenSSL's programs, as processes."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.conftest import patience
from tests.daemons.fakekernel import FakeKernel
from tests.daemons.fakesocket import SECONDS, FakeSocket
from tests.daemons.pki import certificates
from umktls.upcall.rpctls import RPCTLSCD_V1, RPCTLSSD_V1


class Process:
    """A child process whose output can be waited for."""

    def __init__(self, command: Sequence[str | Path], **environment: str) -> None:
        self.output = b""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def wait_for(self, text: bytes) -> bytes:
        """Read until `text` has come; what came up to there since the last wait."""
        ends = time.monotonic() + SECONDS
        while text not in self.output:
            self._read(max(0.0, ends - time.monotonic()))
        before, found, self.output = self.output.partition(text)
        return before + found

    def _read(self, seconds: float) -> None:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        assert ready, f"no more output than {self.output!r}"
        data = os.read(self._process.stdout.fileno(), 65536)
        assert data, f"the process ended; it said {self.output!r}"
        self.output += data

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """The exit code; the rest of the output is in `output`."""
        rest, _ = self._process.communicate(timeout=patience(SECONDS))
        self.output += rest
        return self._process.returncode

    def end(self) -> None:
        """For the end of a test, however it ended."""
        if self._process.poll() is None:
            self._process.kill()
        with contextlib.suppress(ValueError, BrokenPipeError):
            self._process.communicate(timeout=patience(SECONDS))


def program(name: str) -> Path:
    return Path(sys.executable).with_name(name)


class Host:
    """A small kernel and a real daemon process."""

    def __init__(self, kernel: FakeKernel, daemon: Process) -> None:
        self.kernel = kernel
        self.daemon = daemon

    def receive(self, sock: FakeSocket, length: int) -> bytes:
        return sock.receive(length, self.kernel.handlerecord)


@contextlib.contextmanager
def host(name: str, directory: Path, *arguments: str | Path, **environment: str) -> Iterator[Host]:
    """A host with the daemon `name`, started with these arguments."""
    server = name == "rpctlssd"
    certdir = certificates().certdir("server" if server else "client", directory / "certdir")
    command: list[str | Path] = [program(name), "--rundir", directory, "-D", certdir]
    command += ["-l", certificates().ca, *arguments]
    with FakeKernel(directory, RPCTLSSD_V1 if server else RPCTLSCD_V1) as kernel:
        daemon = Process(command, **environment)
        try:
            assert kernel.registered.wait(patience(SECONDS))
            yield Host(kernel, daemon)
        finally:
            daemon.end()


@contextlib.contextmanager
def running(command: Sequence[str | Path]) -> Iterator[Process]:
    process = Process(command)
    try:
        yield process
    finally:
        process.end()
