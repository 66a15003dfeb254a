"""Threads that share what there is to read."""

from __future__ import annotations

import logging
import threading
from queue import SimpleQueue

import pytest

from umktls.errors import WorldError
from umktls.userland.threads import KEPT, Readers, Threads

SECONDS = 20.0


def no_thread(thread: threading.Thread) -> None:
    """What Thread.start comes to where the system has none."""
    raise RuntimeError("can't start new thread")


class Source:
    """What there is to read: numbers, then the end. Working on one waits until it is let go."""

    def __init__(self, limit: int) -> None:
        self.items: SimpleQueue[int | None] = SimpleQueue()
        self.begun: SimpleQueue[tuple[int, int]] = SimpleQueue()
        self.let_go = threading.Event()
        self.ended = threading.Event()
        self.readers = Readers(self.items.get, self._work, self.ended.set, limit, "reader")
        self.readers.start()

    def _work(self, item: int) -> None:
        self.begun.put((item, threading.get_ident()))
        assert self.let_go.wait(SECONDS)
        if item < 0:
            raise ValueError("a number below zero")

    def begins(self) -> tuple[int, int]:
        """The next item that is being worked on, and by which thread."""
        return self.begun.get(timeout=SECONDS)

    def end(self) -> None:
        self.let_go.set()
        for _ in range(2 * KEPT):
            self.items.put(None)
        assert self.ended.wait(SECONDS)


def test_somebody_reads_while_others_work() -> None:
    source = Source(3)
    for item in range(3):
        source.items.put(item)
    begun = [source.begins() for _ in range(3)]
    assert sorted(item for item, _ in begun) == [0, 1, 2]
    assert len({thread for _, thread in begun}) == 3
    # The limit: nobody reads the fourth before one of them is done.
    source.items.put(3)
    assert source.items.qsize() == 1
    source.let_go.set()
    item, thread = source.begins()
    assert item == 3
    assert thread in {thread for _, thread in begun}
    source.end()


def test_all_of_them_end_also_those_that_are_not_kept() -> None:
    source = Source(KEPT + 10)
    for item in range(KEPT + 8):
        source.items.put(item)
    for _ in range(KEPT + 8):
        source.begins()
    threads = [one for one in threading.enumerate() if one.name == "reader"]
    assert len(threads) > KEPT
    source.let_go.set()
    source.items.put(99)
    assert source.begins()[0] == 99
    source.end()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()


def test_what_nobody_foresaw_is_logged_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    source = Source(1)
    source.let_go.set()
    source.items.put(-1)
    source.items.put(1)
    assert [source.begins()[0] for _ in range(2)] == [-1, 1]
    source.end()
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert "a number below zero" in str(record.exc_info[1])


def test_without_another_thread_the_one_that_is_there_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever was to read next cannot be started: what was read is worked on, and then it reads
    again; later there may be more of them."""
    source = Source(3)
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    for item in range(3):
        source.items.put(item)
    begun = [source.begins()]
    source.let_go.set()
    begun += [source.begins(), source.begins()]
    monkeypatch.undo()
    assert [item for item, _ in begun] == [0, 1, 2]
    assert len({thread for _, thread in begun}) == 1
    source.items.put(3)
    assert source.begins()[0] == 3
    assert source.readers._threads == 2
    source.end()
    assert "can't start new thread" in caplog.text


def test_readers_that_cannot_be_started_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with pytest.raises(WorldError, match="no thread is left"):
        Source(1)


def test_jobs_without_a_thread_are_done_by_who_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them than there are places: each gives its own back."""
    threads, done = Threads(2, "job"), list[int]()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        for _ in range(3):
            threads.run(lambda: done.append(threading.get_ident()))
    assert done == [threading.get_ident()] * 3
    other = SimpleQueue[int]()
    threads.run(lambda: other.put(threading.get_ident()))
    assert other.get(timeout=SECONDS) != threading.get_ident()
