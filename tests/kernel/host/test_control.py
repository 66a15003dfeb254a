"""The control socket: operations, refusals, following the trace."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.capture.blocks import packets
from tests.conftest import patience
from umktls.errors import CallerError
from umktls.kernel.captures.capture import Capture
from umktls.kernel.captures.config import CaptureConfig
from umktls.kernel.captures.line import HOST
from umktls.kernel.captures.sinks import Counts
from umktls.kernel.ground.events import Trace
from umktls.kernel.ground.refusals import NO_THREAD
from umktls.kernel.host import control
from umktls.kernel.host.capturing import Capturing
from umktls.kernel.host.control import ControlServer
from umktls.kernel.sockets.ktls_socket import KernelSocket


class FakeHost:
    """What the control socket shows."""

    def __init__(self) -> None:
        self.trace = Trace("h", "client", clock=lambda: 5.0)
        self.name = "h"
        self.rekeyed: list[str | None] = []
        self.sockets: dict[str, KernelSocket] = {}
        self.capture: Capture | None = None
        self.capturing = Capturing(self, client=True)

    def stat(self) -> dict[str, Any]:
        return {"schema": 1}

    async def renew(self, connection: str | None, how: str | None) -> dict[str, int]:
        self.rekeyed.append(connection if how is None else f"{connection} {how}")
        return {"rekeyed": 3, "reconnected": 1}

    def sysctl(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"sysctl": [f"{name}: {value}" for name, value in values.items()], "tls_stat": []}

    async def tx_mode(self, mode: str, connection: str | None) -> int:
        self.rekeyed.append(f"{mode} {connection}")
        return 2

    def meddle(self, what: str, connection: str | None) -> int:
        self.rekeyed.append(f"{what} {connection}")
        return 1

    def record(self, number: int) -> dict[str, Any]:
        if number != 7:
            raise CallerError(f"record {number} is kept no more")
        return {"sequence": 70}


@asynccontextmanager
async def client_of(host: FakeHost) -> AsyncIterator[trio.SocketStream]:
    ours, theirs = trio.socket.socketpair()
    stream = trio.SocketStream(ours)
    with trio.fail_after(patience(5)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ControlServer(host).serve_client, trio.SocketStream(theirs))
            async with stream:
                yield stream


async def ask(stream: trio.SocketStream, request: bytes) -> list[dict[str, Any]]:
    await stream.send_all(request + b"\n")
    data = b"".join([chunk async for chunk in stream])
    return [json.loads(line) for line in data.splitlines()]


async def test_stat() -> None:
    async with client_of(FakeHost()) as stream:
        assert await ask(stream, b'{"op": "stat"}') == [{"schema": 1}]


async def test_sysctl() -> None:
    async with client_of(FakeHost()) as stream:
        assert await ask(stream, b'{"op": "sysctl", "set": {"a.b": 1}}') == [
            {"sysctl": ["a.b: 1"], "tls_stat": []}
        ]


async def test_sysctl_takes_names_and_values() -> None:
    async with client_of(FakeHost()) as stream:
        (answer,) = await ask(stream, b'{"op": "sysctl", "set": [1]}')
    assert "set is not an object" in answer["error"]


async def test_txmode() -> None:
    host = FakeHost()
    async with client_of(host) as stream:
        assert await ask(stream, b'{"op": "txmode", "mode": "SW", "connection": "c1"}') == [
            {"switched": 2}
        ]
    assert host.rekeyed == ["SW c1"]


async def test_a_record_and_what_there_is_to_do() -> None:
    host = FakeHost()
    for request, answer in (
        ({"op": "record", "record": 7}, {"sequence": 70}),
        ({"op": "do", "what": "flip", "connection": "c1"}, {"done": 1}),
    ):
        async with client_of(host) as stream:
            assert await ask(stream, json.dumps(request).encode()) == [answer]
    assert host.rekeyed == ["flip c1"]
    for number, reason in ((8, "kept no more"), ("x", "not the number")):
        async with client_of(host) as stream:
            line = json.dumps({"op": "record", "record": number}).encode()
            assert reason in (await ask(stream, line))[0]["error"]


async def test_rekey_one_and_all() -> None:
    host = FakeHost()
    async with client_of(host) as stream:
        assert await ask(stream, b'{"op": "rekey"}') == [{"rekeyed": 3, "reconnected": 1}]
    async with client_of(host) as stream:
        await ask(stream, b'{"op": "rekey", "connection": "c1"}')
    async with client_of(host) as stream:
        await ask(stream, b'{"op": "rekey", "how": "keyupdate"}')
    assert host.rekeyed == [None, "c1", "None keyupdate"]


@pytest.mark.parametrize(
    ("request_line", "reason"),
    [
        (b"\xff\xfe", "not a line of JSON"),
        (b"[" * 5000, "not a line of JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"op": "halt"}', "no operation 'halt'"),
        (b'{"op": "trace", "since": "yesterday"}', "since is 'yesterday'"),
        (b'{"op": "trace", "since": true}', "since is True"),
        (b'{"op": "trace", "since": NaN}', "since is nan"),
    ],
)
async def test_refusals_say_why(request_line: bytes, reason: str) -> None:
    async with client_of(FakeHost()) as stream:
        (answer,) = await ask(stream, request_line)
    assert reason in answer["error"]
    assert answer["errno"] == "EINVAL"


async def send_slowly(stream: trio.SocketStream, size: int) -> None:
    """Zeros, so that each piece is read before the next one comes."""
    for _ in range(size // 16384):
        await stream.send_all(bytes(16384))
        await trio.testing.wait_all_tasks_blocked()


async def answer_to(line: bytes) -> dict[str, Any]:
    """The answer to a line whose end comes by itself."""
    async with client_of(FakeHost()) as stream:
        await stream.send_all(line)
        await trio.testing.wait_all_tasks_blocked()
        (answer,) = await ask(stream, b"")
        return answer


async def test_the_longest_request() -> None:
    request = b'{"op": "stat"}'
    assert await answer_to(request.ljust(control.LINE_LIMIT)) == {"schema": 1}
    async with client_of(FakeHost()) as stream:
        (answer,) = await ask(stream, request.ljust(control.LINE_LIMIT + 1))
    assert "the request is longer than" in answer["error"]
    assert answer["errno"] == "EMSGSIZE"


async def test_a_line_without_an_end_is_not_kept() -> None:
    async with client_of(FakeHost()) as stream:
        with pytest.raises(trio.BrokenResourceError):
            await send_slowly(stream, 1 << 20)


async def test_the_kept_events() -> None:
    host = FakeHost()
    host.trace.emit("probe", "c1")
    async with client_of(host) as stream:
        (event,) = await ask(stream, b'{"op": "trace"}')
    assert (event["event"], event["connection"]) == ("probe", "c1")


async def test_following_ends_when_the_client_goes() -> None:
    host = FakeHost()
    async with client_of(host) as stream:
        await stream.send_all(b'{"op": "trace", "follow": true}\n')
        await trio.testing.wait_all_tasks_blocked()
        host.trace.emit("warning", None, reason="live")
        line = await stream.receive_some(4096)
        assert json.loads(line)["text"] == "live"
    # client_of waits for the server's task: it has seen the end and does not hang.
    assert not host.trace._subscribers


async def test_following_ends_when_the_client_goes_without_reading() -> None:
    host = FakeHost()
    async with client_of(host) as stream:
        await stream.send_all(b'{"op": "trace", "follow": true}\n')
        await trio.testing.wait_all_tasks_blocked()
        host.trace.emit("warning", None, reason="unread")
        await trio.testing.wait_all_tasks_blocked()
        # The server's task gets ECONNRESET now, and not the end of the stream.
    assert not host.trace._subscribers


async def test_who_follows_too_slowly_hears_how_many_events_are_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The newest were lost for it, and nothing said so."""
    monkeypatch.setattr(control, "FOLLOW_QUEUE", 20)
    host, told = FakeHost(), []
    async with client_of(host) as stream:
        await stream.send_all(b'{"op": "trace", "follow": true}\n')
        await trio.testing.wait_all_tasks_blocked()
        host.trace.emit("warning", None, reason="before")
        told.append(await line_of(stream))
        for _ in range(2):
            for _ in range(50):
                host.trace.emit("warning", None, reason="much at once")
            told += [await line_of(stream) for _ in range(20)]
    assert [each.get("skipped", 0) for each in told] == [0, *([30] + [0] * 19) * 2]
    lost_before = 0
    for place, each in enumerate(told, 1):
        lost_before += each.get("skipped", 0)
        assert each["number"] == place + lost_before
    assert told[-1]["number"] == 101


async def test_a_host_that_ends_tells_its_last_events() -> None:
    host = FakeHost()
    ours, theirs = trio.socket.socketpair()
    async with trio.SocketStream(ours) as stream:
        with trio.fail_after(patience(5)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ControlServer(host).serve_client, trio.SocketStream(theirs))
                await stream.send_all(b'{"op": "trace", "follow": true}\n')
                await trio.testing.wait_all_tasks_blocked()
                for number in range(300):  # as many connections are closed, for instance
                    host.trace.emit("warning", None, reason=str(number))
                nursery.cancel_scope.cancel()
            data = b"".join([piece async for piece in stream])
    told = [json.loads(line)["reason"] for line in data.splitlines()]
    assert told == [str(number) for number in range(300)]


async def test_another_user_gets_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "peer_credentials", lambda sock: (1, os.geteuid() + 1, 1))
    async with client_of(FakeHost()) as stream:
        assert await stream.receive_some(10) == b""


# ---- captures


async def line_of(stream: trio.SocketStream) -> dict[str, Any]:
    """The next line."""
    line = b""
    while not line.endswith(b"\n"):
        line += await stream.receive_some(1)
    answer: dict[str, Any] = json.loads(line)
    return answer


def capture_request(path: Path, **more: Any) -> bytes:
    return json.dumps({"op": "capture", "path": str(path), **more}).encode() + b"\n"


async def test_a_capture_lasts_as_long_as_its_client(tmp_path: Path) -> None:
    host, path = FakeHost(), tmp_path / "a.pcapng"
    async with client_of(host) as stream:
        await stream.send_all(capture_request(path))
        assert await line_of(stream) == {"capturing": 0}
        host.trace.emit("warning", None, reason="while it lasts")
        await stream.send_eof()
        assert await line_of(stream) == {"ended": ""}
    host.trace.emit("warning", None, reason="behind it")
    (one,) = packets(path, HOST)
    assert one.text["text"] == "while it lasts"
    assert host.capture is None
    assert not host.trace._subscribers


async def test_a_capture_ends_without_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lacks(*args: Any, **options: Any) -> None:
        raise RuntimeError(NO_THREAD)

    host, path = FakeHost(), tmp_path / "a.pcapng"
    async with client_of(host) as stream:
        await stream.send_all(capture_request(path))
        await line_of(stream)
        host.trace.emit("warning", None, reason="while it lasts")
        monkeypatch.setattr(trio.to_thread, "run_sync", lacks)
        await stream.send_eof()
        assert await line_of(stream) == {"ended": ""}
    (one,) = packets(path, HOST)
    assert one.text["text"] == "while it lasts"


async def test_there_is_one_capture_at_a_time(tmp_path: Path) -> None:
    host = FakeHost()
    async with client_of(host) as first:
        await first.send_all(capture_request(tmp_path / "a.pcapng"))
        await line_of(first)
        async with client_of(host) as second:
            await second.send_all(capture_request(tmp_path / "b.pcapng"))
            answer = await line_of(second)
        assert answer["errno"] == "EBUSY"
        assert "a.pcapng" in answer["error"]
        assert host.capture is not None
    assert not (tmp_path / "b.pcapng").exists()


async def test_a_client_hears_what_has_ended_its_capture(tmp_path: Path) -> None:
    host, path = FakeHost(), tmp_path / "a.pcapng"
    async with client_of(host) as stream:
        await stream.send_all(capture_request(path, size=65536))
        await line_of(stream)
        (tmp_path / "a.1.pcapng").mkdir()  # where the full file is to go
        for _ in range(1000):
            host.trace.emit("warning", None, reason="x" * 200)
        answer = await line_of(stream)
    assert answer["ended"].startswith("the capture ends, the host goes on: capture ")
    assert host.capture is None
    assert [event["text"] for event in host.trace.since()][-1] == answer["ended"]


def refuse(counts: Counts) -> bytes:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_is_full_when_the_host_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is told then, and no traceback either (pytest fails for one in a thread)."""
    host = FakeHost()

    async def life() -> None:
        host.capturing.begin(CaptureConfig(tmp_path / "a.pcapng"))

    trio.run(life)
    sink = host.capturing._file
    assert sink is not None
    monkeypatch.setattr(Counts, "blocks", refuse)
    sink.close()
    assert sink.failure.endswith("No space left on device")


async def test_a_client_hears_of_a_disk_that_is_full_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = FakeHost()
    async with client_of(host) as stream:
        await stream.send_all(capture_request(tmp_path / "a.pcapng"))
        await line_of(stream)
        monkeypatch.setattr(Counts, "blocks", refuse)
        await stream.send_eof()
        answer = await line_of(stream)
    assert answer["ended"].endswith("No space left on device")
    assert [event["text"] for event in host.trace.since()][-1] == answer["ended"]


@pytest.mark.parametrize(
    "request_", [{}, {"path": 7}, {"path": "a.pcapng"}, {"path": "/a.pcapng", "size": "much"}]
)
async def test_captures_that_make_no_sense(request_: dict[str, Any]) -> None:
    async with client_of(FakeHost()) as stream:
        (answer,) = await ask(stream, json.dumps({"op": "capture", **request_}).encode())
    assert "absolute path" in answer["error"]


async def test_memory_gives_way_to_what_somebody_wants(tmp_path: Path) -> None:
    host = FakeHost()
    host.capturing.remember()
    host.trace.emit("warning", None, reason="remembered")
    remembered = host.capturing.remembered()
    assert remembered is not None
    assert [one.text["text"] for one in packets(remembered, HOST)] == ["remembered"]
    host.capturing.begin(CaptureConfig(tmp_path / "a.pcapng"))
    assert host.capturing.remembered() is None
    host.capturing.remember()
    assert host.capturing.remembered() is None
    await host.capturing.end()
    assert len(packets(tmp_path / "a.pcapng", HOST)) == 0
