"""Where the blocks of a capture go: into a file, by a thread, or into memory.

A host puts in what it has, and never waits. What is not written yet is bounded: where the disk does
not keep up, packets are lost for the file, counted, and the next one that gets in says so. A file
that is as large as it may be is renamed (NAME.1.pcapng, in the place of the one before), and begun
anew. What ends the file, a full disk for instance, ends the capture and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from umktls.capture import pcapng
from umktls.errors import UmktlsError, WorldError
from umktls.kernel.captures.config import DEFAULT_SIZE
from umktls.kernel.ground.refusals import no_thread
from umktls.private import open_file

__all__ = ["INTERFACES", "FileSink", "MemorySink", "Render", "Sink", "older"]

# So much waits to be written, in bytes.
QUEUE_LIMIT = 32 * 1024 * 1024
# How long the end of a capture waits for the disk.
CLOSE_SECONDS = 10.0
# What an entry takes besides its payload.
OVERHEAD = 256

# A block, with these comments in it.
Render = Callable[[Sequence[str]], bytes]

# The interfaces of every file, by number: link type, name, description.
INTERFACES = (
    (pcapng.LinkType.RAW, "tcp", "what passed the host's TCP sockets; IP and TCP headers made up"),
    (
        pcapng.LinkType.UPPER_PDU,
        "rpc",
        "RPC messages in clear, as the host's RPC sent and got them",
    ),
    (pcapng.LinkType.UPPER_PDU, "host", "events, upcalls and system calls; see umktls.lua"),
)


class Sink(Protocol):
    """Where a capture goes."""

    def put(self, interface: int | None, size: int, render: Render) -> None:
        """A block that holds `size` bytes until it is written. `interface` is None for one that is
        no packet. `render` is called in whatever thread writes. Does not wait."""

    def close(self) -> None:
        """Write what waits. May wait, for a while."""


class Counts:
    """How many packets of each interface there were, and how many are lost."""

    def __init__(self) -> None:
        self.began = time.time()
        self.received = [0] * len(INTERFACES)
        self.dropped = [0] * len(INTERFACES)
        self._unsaid = [0] * len(INTERFACES)

    def lose(self, interface: int) -> None:
        self.received[interface] += 1
        self.dropped[interface] += 1
        self._unsaid[interface] += 1

    def take(self, interface: int) -> list[str]:
        """One more gets in; what it has to say of those before it."""
        self.received[interface] += 1
        lost, self._unsaid[interface] = self._unsaid[interface], 0
        what = f"{lost} packets in front of this one are not in the file: the disk did not keep up"
        return [what] if lost else []

    def blocks(self) -> bytes:
        """What stands at a file's end."""
        now = time.time()
        numbers = zip(self.received, self.dropped, strict=True)
        return b"".join(
            pcapng.statistics(number, self.began, now, received, dropped, ())
            for number, (received, dropped) in enumerate(numbers)
        )


def beginning(comments: Sequence[str]) -> bytes:
    """What stands at a file's beginning."""
    blocks = [pcapng.section("umktls", comments)]
    blocks += [pcapng.interface(*each) for each in INTERFACES]
    return b"".join(blocks)


def older(path: Path) -> Path:
    """Where a file that is full goes."""
    return path.with_name(f"{path.stem}.1{path.suffix}")


class FileSink:
    """See the module. The file is for this user alone; one that is there is overwritten.

    comments: at the head of each file. failed: called from another thread, once, with what has
    ended the capture, which `failure` is too from then on.
    Raises `CallerError`, `WorldError` where the file cannot be begun.
    """

    def __init__(
        self,
        path: Path,
        comments: Sequence[str],
        failed: Callable[[str], None],
        size: int = DEFAULT_SIZE,
        limit: int = QUEUE_LIMIT,
    ) -> None:
        self._path = path
        self._comments = comments
        self._failed = failed
        self._size = size
        self._limit = limit
        self._counts = Counts()
        self._waiting: deque[tuple[int, Callable[[], bytes]]] = deque()
        self._held = 0
        self._closing = False
        self.failure = ""
        self._changed = threading.Condition()
        try:
            self._fd = self._new_file()
            self._begin()
        except OSError as error:
            raise WorldError(self._text(error), error.errno) from error
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            os.close(self._fd)
            raise no_thread() from error

    def _text(self, error: OSError) -> str:
        return f"capture {self._path}: {error.strerror or error}"

    def _new_file(self) -> int:
        descriptor = open_file(self._path, os.O_WRONLY | os.O_TRUNC, "capture")
        os.fchmod(descriptor, 0o600)
        return descriptor

    def _begin(self) -> None:
        self._written = 0
        self._write(beginning(self._comments))

    # ---- the host's side

    def put(self, interface: int | None, size: int, render: Render) -> None:
        size += OVERHEAD
        with self._changed:
            if self._closing:
                return
            if self._held + size > self._limit:
                if interface is not None:
                    self._counts.lose(interface)
                return
            said = [] if interface is None else self._counts.take(interface)
            self._held += size
            self._waiting.append((size, lambda: render(said)))
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self.failure = (
                f"the end of the capture {self._path} is not there: the disk does not answer"
            )

    # ---- the thread's

    def _run(self) -> None:
        try:
            while (entry := self._next()) is not None:
                size, render = entry
                self._append(render())
                with self._changed:
                    self._held -= size
            self._write(self._counts.blocks())
        except OSError as error:
            self._give_up(self._text(error))
        except UmktlsError as error:
            self._give_up(str(error))
        finally:
            os.close(self._fd)

    def _next(self) -> tuple[int, Callable[[], bytes]] | None:
        with self._changed:
            while not self._waiting and not self._closing:
                self._changed.wait()
            return self._waiting.popleft() if self._waiting else None

    def _append(self, block: bytes) -> None:
        if self._written + len(block) > self._size:
            self._write(self._counts.blocks())
            os.rename(self._path, older(self._path))
            full, self._fd = self._fd, self._new_file()
            os.close(full)
            self._begin()
        self._write(block)

    def _write(self, block: bytes) -> None:
        """All of it, or nothing: half a block would spoil the file for readers."""
        view = memoryview(block)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._written)
            raise
        self._written += len(block)

    def _give_up(self, reason: str) -> None:
        with self._changed:
            self._closing = True
        self.failure = f"the capture ends, the host goes on: {reason}"
        self._failed(self.failure)


class MemorySink:
    """The newest blocks, of `size` bytes together."""

    def __init__(self, comments: Sequence[str], size: int) -> None:
        self._comments = comments
        self._size = size
        self._counts = Counts()
        self._blocks: deque[tuple[int | None, bytes]] = deque()
        self._held = 0

    def put(self, interface: int | None, size: int, render: Render) -> None:
        block = render([] if interface is None else self._counts.take(interface))
        self._blocks.append((interface, block))
        self._held += len(block)
        while self._held > self._size:
            oldest, gone = self._blocks.popleft()
            self._held -= len(gone)
            if oldest is not None:
                self._counts.dropped[oldest] += 1

    def close(self) -> None:
        """There is nothing to wait for."""

    def contents(self) -> bytes:
        """The file."""
        blocks = b"".join(block for _, block in self._blocks)
        return beginning(self._comments) + blocks + self._counts.blocks()
