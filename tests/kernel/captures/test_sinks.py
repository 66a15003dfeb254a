"""Where captures go: private files, their limits, losses that are counted, disks that are full."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.capture.blocks import STATISTICS, blocks, packets
from tests.conftest import patience
from tests.descriptors import descriptors
from umktls.capture import pcapng
from umktls.capture.pdus import host_pdu
from umktls.errors import CallerError, WorldError
from umktls.kernel.captures import sinks
from umktls.kernel.captures.line import HOST
from umktls.kernel.captures.sinks import OVERHEAD, FileSink, MemorySink, older


def packet(text: str) -> Callable[[Sequence[str]], bytes]:
    data = host_pdu(None, None, {"kind": "event", "text": text})
    return lambda said: pcapng.packet(HOST, 1.0, data, None, list(said))


def nobody(reason: str) -> None:
    pytest.fail(f"the capture has ended: {reason}")


def texts(path: Path) -> list[str]:
    return [one.text["text"] for one in packets(path, HOST)]


def test_what_is_put_in_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    sink = FileSink(path, ["the head"], nobody)
    for number in range(100):
        sink.put(HOST, 10, packet(str(number)))
    sink.put(None, 10, lambda said: pcapng.tls_secrets(b"CLIENT_RANDOM 00 00\n"))
    sink.close()
    assert texts(path) == [str(number) for number in range(100)]
    assert b"CLIENT_RANDOM 00 00" in path.read_bytes()


def test_a_capture_that_can_have_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    before = descriptors()
    with pytest.raises(WorldError, match="cannot start a thread"):
        FileSink(tmp_path / "a.pcapng", [], nobody)
    assert descriptors() <= before


def test_the_file_is_for_its_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    path.write_bytes(b"of another time" * 1000)
    path.chmod(0o644)
    FileSink(path, [], nobody).close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"another time" not in path.read_bytes()
    assert [one.kind for one in blocks(path)][4:] == [STATISTICS] * 3


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a.pcapng").symlink_to(tmp_path / "precious")
    with pytest.raises(CallerError, match="symbolic link"):
        FileSink(tmp_path / "a.pcapng", [], nobody)
    assert not (tmp_path / "precious").exists()


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WorldError, match=r"capture .*/none/a.pcapng: No such file") as caught:
        FileSink(tmp_path / "none" / "a.pcapng", [], nobody)
    assert caught.value.errno == errno.ENOENT


def test_a_full_file_is_kept_once_and_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    sink = FileSink(path, ["the head"], nobody, size=4000)
    for number in range(100):
        sink.put(HOST, 10, packet(f"number {number} " + "x" * 200))
    sink.close()
    kept = sorted(each.name for each in tmp_path.iterdir())
    assert kept == ["a.1.pcapng", "a.pcapng"]
    both = []
    for each in (older(path), path):
        assert each.stat().st_size < 4000 + 500
        assert each.stat().st_mode & 0o777 == 0o600
        assert b"the head" in each.read_bytes()
        both += texts(each)
    numbers = [int(text.split()[1]) for text in both]
    assert numbers == list(range(numbers[0], 100))


def test_no_file_stays_open(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "a.pcapng", [], nobody, size=2000)
    for number in range(100):
        sink.put(HOST, 10, packet(f"number {number} " + "x" * 200))
    sink.close()
    links = [Path("/proc/self/fd", each.name) for each in Path("/proc/self/fd").iterdir()]
    opened = [os.readlink(link) for link in links if link.is_symlink()]
    assert not [name for name in opened if name.startswith(str(tmp_path))]


def hold(sink: FileSink) -> Callable[[], None]:
    """Give the sink a packet of 1000 bytes that keeps its thread busy, until what this returns is
    called."""
    going, held = threading.Event(), threading.Event()

    def slow(said: Sequence[str]) -> bytes:
        held.set()
        assert going.wait(patience(10))
        return packet("slow")(said)

    sink.put(HOST, 1000, slow)
    assert held.wait(patience(10))
    return going.set


def test_a_disk_that_does_not_answer_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "CLOSE_SECONDS", 0.01)
    sink = FileSink(tmp_path / "a.pcapng", [], nobody)
    go_on = hold(sink)
    sink.close()
    assert "a.pcapng is not there: the disk does not answer" in sink.failure
    go_on()


def test_what_just_fits_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    sink = FileSink(path, [], nobody, limit=2 * (1000 + OVERHEAD))
    go_on = hold(sink)
    sink.put(HOST, 1000, packet("the rest"))
    sink.put(HOST, 0, packet("too much"))
    go_on()
    sink.close()
    assert texts(path) == ["slow", "the rest"]


def test_what_does_not_fit_is_lost_counted_and_said(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    sink = FileSink(path, [], nobody, limit=2000)
    go_on = hold(sink)
    for _ in range(7):
        sink.put(HOST, 1000, packet("lost"))
    sink.put(HOST, 10, packet("small"))
    go_on()
    sink.close()
    assert texts(path) == ["slow", "small"]
    _, small = packets(path, HOST)
    (comment,) = small.comments
    assert comment.startswith("7 packets in front of this one are not in the file")
    counts = [one for one in blocks(path) if one.kind == STATISTICS][HOST]
    received, dropped = (int.from_bytes(counts.option(code) or b"", "little") for code in (4, 5))
    assert (received, dropped) == (9, 7)


def test_a_full_disk_ends_the_capture_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pcapng"
    reasons: list[str] = []
    told = threading.Event()

    def failed(reason: str) -> None:
        reasons.append(reason)
        told.set()

    sink = FileSink(path, [], failed)
    write = os.write

    def full(descriptor: int, data: memoryview) -> int:
        if path.stat().st_size > 1500:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[:7])

    monkeypatch.setattr(os, "write", full)
    for number in range(100):
        sink.put(HOST, 10, packet(f"{number} " + "x" * 100))
    assert told.wait(patience(10))
    sink.put(HOST, 10, packet("too late"))
    sink.close()
    monkeypatch.undo()
    (reason,) = reasons
    assert reason.startswith("the capture ends, the host goes on: capture ")
    assert reason.endswith("No space left on device")
    assert texts(path)[0].startswith("0 x")


def test_memory_keeps_the_newest(tmp_path: Path) -> None:
    sink = MemorySink(["the head"], 3000)
    for number in range(100):
        sink.put(HOST, 10, packet(f"number {number} " + "x" * 200))
    sink.close()
    path = tmp_path / "a.pcapng"
    path.write_bytes(sink.contents())
    numbers = [int(text.split()[1]) for text in texts(path)]
    assert numbers == list(range(numbers[0], 100))
    assert 5 < len(numbers) < 20
