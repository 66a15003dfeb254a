"""A network of a test's own: a namespace with nothing but loopback in it, where any port is free.

Its processes are in a process namespace too, so that all of them end with the test, whatever became
of it; and they have directories of their own in /run and /var/lib, so that programs with fixed
paths meet nobody. What runs in there is a real program started with `command`, or a socket of this
process made by `connect`.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.conftest import patience

__all__ = ["Namespace", "namespace", "needs"]

T = TypeVar("T")

START_SECONDS = 20.0
END_SECONDS = 20.0
CLONE_NEWNET = 0x40000000
# In front of a command: it ends with whoever started it.
TIED = ("setpriv", "--pdeathsig", "KILL", "--")
# The process that keeps it alive. What is given to it as arguments are more commands for `ip`. A
# mount namespace begins with a copy of all mounts: those of tests beside would not end before it.
KEEPER = """
umount --all --lazy --types fuse.umktls
ip link set lo up
mount -t tmpfs -o mode=755 none /run
mkdir -p /run/nfs
mount --bind /run/nfs /var/lib/nfs 2>/dev/null
for line; do ip $line || exit 1; done
echo ready
exec sleep infinity
"""


def needs(*programs: str) -> None:
    """Skip the test where namespaces cannot be made or a program is missing."""
    if os.geteuid() != 0:
        pytest.skip("only root can have a network namespace")
    for name in ("ip", *programs):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed: make set-up installs it")


@dataclass
class Namespace:
    """`pid` is the process that keeps it, as it is called outside."""

    pid: int

    def network(self, *command: object) -> list[str]:
        """The command, to be run in this network; all else is as outside, so that what it mounts
        is there for everybody."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *map(str, command)]

    def command(self, *command: object) -> list[str]:
        """The command, to be run wholly in here, with the /run and the processes of here."""
        kinds = {"net": "net", "mount": "mnt", "pid": "pid"}
        where = [f"--{kind}=/proc/{self.pid}/ns/{name}" for kind, name in kinds.items()]
        # nsenter(1) has it as its child, which has to end with it.
        return ["nsenter", *where, "--", *TIED, *map(str, command)]

    def path(self, path: str) -> Path:
        """What is at `path` in here, as this process reaches it."""
        return Path(f"/proc/{self.pid}/root{path}")

    def within(self, function: Callable[[], T]) -> T:
        """What the function returns, run by a thread that is in this network. Sockets that it
        makes stay in it."""
        results: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                enter(Path(f"/proc/{self.pid}/ns/net"))
                results.append(function())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def connect(self, port: int, host: str = "127.0.0.1", seconds: float = 10) -> socket.socket:
        """A TCP connection in this network."""
        return self.within(lambda: socket.create_connection((host, port), seconds))

    def wire(self, near: str, far: str) -> None:
        """A cable to the network outside, which goes with this one; the addresses of its ends."""
        name = f"umktls{self.pid}"
        link = f"link add {name} type veth peer name outside netns {self.pid}"
        for line in (link, f"address add {near} peer {far} dev {name}", f"link set {name} up"):
            subprocess.run(["ip", *line.split()], check=True)
        for line in (f"address add {far} peer {near} dev outside", "link set outside up"):
            subprocess.run(self.network("ip", *line.split()), check=True)

    @contextmanager
    def running(
        self, *command: object, log: Path, **more: Any
    ) -> Iterator[subprocess.Popen[bytes]]:
        """The program runs wholly in here inside the block, and says what it says to `log`."""
        with log.open("ab") as said, started(self.command(*command), stdout=said, **more) as one:
            yield one


def enter(path: Path) -> None:
    """setns(2) for the calling thread; Python has it from 3.12 on."""
    library = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if library.setns(descriptor, CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


@contextmanager
def started(command: Sequence[str], **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block, or with this process."""
    process = subprocess.Popen(
        [*TIED, *command],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        **more,
    )
    try:
        yield process
    finally:
        # Nothing gentler reaches what is behind unshare(1) and nsenter(1).
        process.kill()
        process.wait(patience(END_SECONDS))
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def namespace(*ip: str) -> Iterator[Namespace]:
    """A namespace inside the block. ip: lines for ip(8), as "link add dummy0 type dummy"."""
    needs("unshare", "nsenter", "setpriv")
    kinds = ("--net", "--mount", "--pid", "--fork", "--kill-child")
    command = ["unshare", *kinds, "sh", "-c", KEEPER, "keeper", *ip]
    with started(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], patience(START_SECONDS))
        said = process.stdout.readline() if readable else b""
        assert said == b"ready\n", f"no namespace: {said!r}"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield Namespace(int(children[0]))
