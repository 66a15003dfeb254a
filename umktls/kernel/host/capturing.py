"""A host that is captured: into a file that somebody has named, or into memory, for a mount that
fails.

There is one capture at a time. That into memory gives way to one that somebody wants.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import trio

from umktls.errors import CallerError
from umktls.kernel.captures.capture import Capture
from umktls.kernel.captures.config import CaptureConfig, heading
from umktls.kernel.captures.sinks import FileSink, MemorySink
from umktls.kernel.ground.events import Trace
from umktls.kernel.ground.refusals import NoThread, in_thread
from umktls.kernel.sockets.ktls_socket import KernelSocket

__all__ = ["Captured", "Capturing"]

# What a mount that fails may leave, in bytes.
MEMORY = 1 << 20


class Captured(Protocol):
    """What is captured of a host."""

    trace: Trace
    name: str
    capture: Capture | None

    @property
    def sockets(self) -> Mapping[str, KernelSocket]: ...


class Capturing:
    """The capture of a host. Its begin and end are here, its work is in umktls.kernel.captures."""

    def __init__(self, host: Captured, *, client: bool) -> None:
        self._host = host
        self._client = client
        self._memory: MemorySink | None = None
        self._file: FileSink | None = None
        self._path: Path | None = None
        self.ended = trio.Event()
        self.failure = ""

    def begin(self, config: CaptureConfig) -> None:
        """Into a file. Raises `CallerError` EBUSY where there is one already, and what `FileSink`
        does."""
        if self._file is not None:
            text = f"{self._host.name} is captured already, into {self._path}"
            raise CallerError(text, errno.EBUSY)
        token = trio.lowlevel.current_trio_token()

        def failed(reason: str) -> None:
            with suppress(trio.RunFinishedError):  # the disk has outlasted the host
                token.run_sync_soon(self._failed, sink, reason)

        comments = heading(self._host.name, secrets=config.secrets)
        sink = FileSink(config.path, comments, failed, config.size)
        self.forget()
        self._file, self._path, self.failure = sink, config.path, ""
        self.ended = trio.Event()
        how = "with SECRETS" if config.secrets else "without secrets"
        self._host.trace.emit("capture", None, path=str(config.path), how=how)
        self._start(sink, secrets=config.secrets)

    def remember(self) -> None:
        """Into memory, until `forget`; nothing where there is a capture already."""
        if self._host.capture is None:
            self._memory = MemorySink(heading(self._host.name, secrets=False), MEMORY)
            self._start(self._memory, secrets=False)

    def remembered(self) -> bytes | None:
        """The file of what was captured into memory."""
        return None if self._memory is None else self._memory.contents()

    def forget(self) -> None:
        """End what goes into memory."""
        if self._memory is not None:
            self._stop()
            self._memory = None

    def _start(self, sink: FileSink | MemorySink, *, secrets: bool) -> None:
        capture = Capture(self._host.trace, sink, client=self._client, secrets=secrets)
        capture.begin([*self._host.sockets.values()])
        self._host.capture = capture

    def _stop(self) -> None:
        if self._host.capture is not None:
            self._host.capture.end()
            self._host.capture = None

    def _failed(self, sink: FileSink, reason: str) -> None:
        """Of one that is being closed, `end` tells."""
        if self._file is sink:
            self.failure = reason
            self._stop()
            self._host.trace.emit("warning", None, reason=reason)
            self._file = None
            self.ended.set()

    async def end(self) -> None:
        """End the capture into a file, and have all of it there."""
        if self._file is not None:
            self._stop()
            sink, self._file = self._file, None
            try:
                await in_thread(sink.close)
            except NoThread:  # then all wait for the disk
                sink.close()
            self.failure = sink.failure
            if self.failure:
                self._host.trace.emit("warning", None, reason=self.failure)
            else:
                self._host.trace.emit("capture-ended", None, path=str(self._path))
            self.ended.set()
