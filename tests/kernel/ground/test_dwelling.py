"""How long, for what and how often the whole process waits for a reply that most likely comes."""

from __future__ import annotations

import pytest

from umktls.kernel.ground.dwelling import FD_SETSIZE, LEFT_OUT, REPLY_SECONDS, TURNS, VAIN, Dwell

REQUESTS, SOCKET = 3, 4
Descriptors = list[int]


class Waits:
    """select(2), played: `ready` is what each wait ends with."""

    def __init__(self) -> None:
        self.ready: Descriptors = []
        self.seen: list[tuple[Descriptors, float]] = []
        self.idle = True
        self.dwell = Dwell(self.select)

    def select(
        self, reading: Descriptors, _: Descriptors, __: Descriptors, seconds: float
    ) -> tuple[Descriptors, Descriptors, Descriptors]:
        self.seen.append((reading, seconds))
        return [each for each in reading if each in self.ready], [], []

    def begin(self, requests: int = REQUESTS) -> None:
        self.dwell.begin(requests, lambda: self.idle)


@pytest.fixture
def waits() -> Waits:
    waits = Waits()
    waits.begin()
    return waits


def test_there_are_none_before_the_beginning_and_behind_the_end(waits: Waits) -> None:
    new = Waits()
    waits.dwell.end()
    for each in (new, waits):
        each.ready = [REQUESTS, SOCKET]
        assert not each.dwell.reply(SOCKET)
        assert each.seen == []


@pytest.mark.parametrize(
    ("ready", "there"),
    [([SOCKET], True), ([SOCKET, REQUESTS], True), ([REQUESTS], False), ([], False)],
)
def test_a_reply_is_waited_for_until_there_is_a_request(
    waits: Waits, ready: Descriptors, there: bool
) -> None:
    waits.ready = ready
    assert waits.dwell.reply(SOCKET) is there
    assert waits.seen == [([SOCKET, REQUESTS], REPLY_SECONDS)]


def test_in_a_row_each_so_many_times_the_loop_has_a_turn(waits: Waits) -> None:
    waits.ready = [SOCKET]
    found = [waits.dwell.reply(SOCKET) for _ in range(3 * TURNS)]
    assert found == 3 * [*(TURNS - 1) * [True], False]


def test_who_has_waited_in_vain_waits_no_more_for_a_while(waits: Waits) -> None:
    waits.ready = [REQUESTS]  # that is not in vain
    for _ in range(VAIN):
        waits.dwell.reply(SOCKET)
    waits.ready = []
    for _ in range(VAIN):
        assert not waits.dwell.reply(SOCKET)
    waits.seen.clear()
    waits.ready = [SOCKET]
    assert not any(waits.dwell.reply(SOCKET) for _ in range(LEFT_OUT))
    assert waits.seen == []
    assert waits.dwell.reply(SOCKET)


def test_nobody_is_kept_waiting_who_could_go_on(waits: Waits) -> None:
    waits.ready = [SOCKET]
    waits.idle = False
    assert not waits.dwell.reply(SOCKET)
    assert waits.seen == []


def test_descriptors_that_select_does_not_take(waits: Waits) -> None:
    assert not waits.dwell.reply(FD_SETSIZE)
    waits.dwell.end()
    waits.begin(FD_SETSIZE)
    assert not waits.dwell.reply(SOCKET)
    assert waits.seen == []
