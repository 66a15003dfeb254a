"""A RecordStream over memory: the other side of a handshake, in the same thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from umktls_daemons.sessions.handshake import Expectations
from umktls_daemons.sessions.records import split_records
from umktls_daemons.tls.tlsadapter import Endpoint, TlsError

from umktls.userland.streams import Deadline, DeadlinePassed, EndOfStream

CLIENT = Expectations(server=False, name="localhost", trust="the test's CA")
SERVER = Expectations(server=True, name="", trust="the test's CA", certificate_demanded=True)


class MemoryPeer:
    """A RecordStream whose other end is an endpoint in the same thread.

    `damage` may change or drop each record on its way here.
    """

    def __init__(
        self, endpoint: Endpoint, damage: Callable[[int, bytes], bytes | None] | None = None
    ) -> None:
        self.endpoint = endpoint
        self.error: TlsError | None = None
        self.sent: list[bytes] = []
        self._queue: deque[bytes] = deque()
        self._damage = damage or (lambda _, record: record)
        self._count = 0

    def write_all(self, data: bytes, deadline: Deadline) -> None:
        self.endpoint.feed(data)
        self._go_on()

    def _go_on(self) -> None:
        try:
            self.endpoint.handshake()
        except TlsError as error:
            self.error = error
        for record in split_records(self.endpoint.output()):
            self.sent.append(record)
            changed = self._damage(self._count, record)
            self._count += 1
            if changed is not None:
                self._queue += split_records(changed)

    def read_record(self, deadline: Deadline) -> bytes:
        if not self._queue:
            self._go_on()
        if not self._queue:
            raise EndOfStream("the end") if self.error else DeadlinePassed("nothing more")
        return self._queue.popleft()

    def records_ahead(self, deadline: Deadline | None = None) -> bytes:
        if deadline is not None and not self._queue:
            self._go_on()
        return b"".join(self._queue)

    def take_ahead(self, records: bytes) -> None:
        for record in split_records(records):
            assert record == self._queue.popleft()

    def drain(self) -> list[bytes]:
        """What was sent and not read."""
        left = list(self._queue)
        self._queue.clear()
        return left


def soon() -> Deadline:
    return Deadline.after(20)
