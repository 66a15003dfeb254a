"""One FUSE session of libfuse's, opened by pyfuse3: with what it says when it cannot be opened, and
with whether the kernel is still at its other end."""

from __future__ import annotations

import os
import select
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pyfuse3

from umktls.errors import WorldError

from .mountpoint import alone_at

__all__ = ["fuse_session"]


class FuseOption(str):
    """An option for libfuse. pyfuse3 has it encoded as ASCII; the names in it are bytes."""

    __slots__ = ()

    def encode(self, encoding: str = "", errors: str = "") -> bytes:
        return super().encode(sys.getfilesystemencoding(), "surrogateescape")


@contextmanager
def fuse_session(
    operations: pyfuse3.Operations, mountpoint: str, options: set[str]
) -> Iterator[Callable[[], bool]]:
    """A FUSE session is open inside the block, whose value says whether the kernel still is at its
    other end. Raises WorldError with what libfuse had to say, and CallerError where something is
    mounted there by now."""
    said: list[str] = []
    before = fuse_descriptors()
    with ExitStack() as stack:
        with alone_at(mountpoint):
            try:
                with captured_errors(said):
                    pyfuse3.init(operations, mountpoint, set(map(FuseOption, options)))
            except RuntimeError as error:
                reason = "; ".join(said) or str(error)
                raise WorldError(f"cannot mount on {mountpoint}: {reason}") from None
            stack.callback(pyfuse3.close, unmount=True)
        sessions = fuse_descriptors() - before
        yield lambda: all(map(is_connected, sessions))


def fuse_descriptors() -> set[int]:
    """The descriptors of this process that are FUSE sessions; pyfuse3 keeps its one to itself."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}") == "/dev/fuse":
                found.add(int(name))
    return found


def is_connected(session: int) -> bool:
    """Whether the kernel still has the mount: neither unmounted nor aborted (fuse_dev_poll)."""
    poll = select.poll()
    poll.register(session, 0)
    return not poll.poll(0)


@contextmanager
def captured_errors(lines: list[str]) -> Iterator[None]:
    """libfuse and fusermount3 say on standard error why they fail, and nowhere else."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()
