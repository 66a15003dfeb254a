"""How long, and when, who expects something at once stays awake for it."""

from __future__ import annotations

import os
import socket

import pytest

from umktls.kernel.ground.wakeful import LEFT_OUT, VAIN, WANTED_LEFT_OUT, Wakeful

AWAKE, SLEEP, WANTED = 0.25, 3.0, 0.15
NEAR = 7


class Played:
    """select(2) and a clock: `there` from the so-manyth look on. Each look takes 0.1 s; others take
    `away` seconds when they may have the processor."""

    def __init__(self, there: int = 1 << 30, processors: int = 2) -> None:
        self.there = there
        self.away = 0.0
        self.now = 0.0
        self.seen: list[float] = []
        self.given_way = 0
        self.wait = Wakeful(
            AWAKE,
            self.select,
            now=lambda: self.now,
            give_way=self.give_way,
            processors=lambda: processors,
            wanted=WANTED,
        )

    def select(
        self, reading: list[int], _: object, __: object, seconds: float
    ) -> tuple[list[int], list[int], list[int]]:
        self.seen.append(seconds)
        self.now += 0.1
        return (reading if len(self.seen) >= self.there else []), [], []

    def give_way(self) -> None:
        self.given_way += 1
        self.now += self.away

    def ready(self) -> list[int]:
        return self.wait([NEAR], (), (), SLEEP)[0]


@pytest.mark.parametrize("there", [1, 2, 3])
def test_what_comes_at_once_is_waited_for_without_sleeping(there: int) -> None:
    played = Played(there)
    assert played.ready() == [NEAR]
    assert played.seen == [0] * there
    assert played.given_way == there - 1


def test_it_sleeps_when_that_takes_longer() -> None:
    played = Played()
    assert played.ready() == []
    assert played.seen == [0, 0, 0, SLEEP]


def test_on_one_processor_it_sleeps_at_once() -> None:
    played = Played(processors=1)
    assert played.ready() == []
    assert played.seen == [SLEEP]


def test_it_is_not_awake_for_a_while_where_that_was_in_vain() -> None:
    played = Played()
    for _ in range(VAIN):
        played.ready()
    played.seen.clear()
    for _ in range(LEFT_OUT):
        played.ready()
    assert played.seen == [SLEEP] * LEFT_OUT
    played.ready()
    assert played.seen[LEFT_OUT:] == [0, 0, 0, SLEEP]


def test_what_was_not_in_vain_begins_to_count_anew() -> None:
    played = Played()
    for _ in range(3 * VAIN):
        for there in (1 << 30, 1):
            played.there = there
            played.seen.clear()
            played.ready()
    assert played.seen == [0]


def test_it_sleeps_where_others_want_the_processor() -> None:
    played = Played()
    played.ready()
    assert played.seen == [0, 0, 0, SLEEP]
    played.away = 0.1
    played.seen.clear()
    for _ in range(1 + WANTED_LEFT_OUT):
        played.ready()
    assert played.seen == [0, 0, *[SLEEP] * (1 + WANTED_LEFT_OUT)]
    played.seen.clear()
    played.ready()
    assert played.seen == [0, 0, SLEEP]


def test_real_descriptors() -> None:
    near, far = socket.socketpair()
    with near, far:
        wait = Wakeful(0.001, processors=lambda: 2)
        assert wait([near.fileno()], (), (), 0.001) == ([], [], [])
        os.write(far.fileno(), b".")
        assert wait([near.fileno()], (), (), 60)[0] == [near.fileno()]
