"""The life of the first connection, out of traces made up for it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from umktls.cli.progress import progress
from umktls.cli.story import CLIENT_STEPS, SERVER_STEPS, Event, first_connection, life, missing
from umktls.errors import WorldError


def event(side: str, connection: str | None, name: str, **fields: str) -> Event:
    return {"side": side, "connection": connection, "event": name, **fields}


def connection(client: str, server: str, local: str) -> list[Event]:
    """A whole life: each side's steps, the accept after the connect."""
    fields = {"tcp-connect": {"local": local}, "tcp-accept": {"peer": local}}
    events = [event("client", client, step, **fields.get(step, {})) for step in CLIENT_STEPS]
    events[1:1] = [event("server", server, step, **fields.get(step, {})) for step in SERVER_STEPS]
    return events


FIRST = connection("c1", "s2", "127.0.0.1:50001")
SECOND = connection("c2", "s3", "127.0.0.1:50002")
STRANGER = [event("server", "s1", "tcp-accept", peer="127.0.0.1:9"), event("client", None, "up")]


def test_the_first_connection_is_the_one_both_saw() -> None:
    assert first_connection([*STRANGER, *FIRST, *SECOND]) == ("c1", "s2")


def test_no_common_connection_is_an_error() -> None:
    with pytest.raises(WorldError, match="no connection in common"):
        first_connection([*STRANGER, event("client", "c1", "tcp-connect", local="127.0.0.1:8")])


def test_life_has_only_that_connection_and_ends_with_the_first_rpc() -> None:
    later = [event("client", "c1", "closed"), event("server", "s2", "closed")]
    same_name = [event("client", "s2", "probe"), event("server", "c1", "probe")]
    events = [*STRANGER, *same_name, *FIRST, *SECOND, *later]
    assert life(events, ("c1", "s2")) == FIRST
    assert missing(FIRST) == []


@pytest.mark.parametrize(("side", "steps"), [("client", CLIENT_STEPS), ("server", SERVER_STEPS)])
def test_each_step_is_missed(side: str, steps: tuple[str, ...]) -> None:
    for step in steps:
        rest = [e for e in FIRST if (e["side"], e["event"]) != (side, step)]
        assert missing(rest) == [f"{side}: {step}"]


def test_a_life_that_broke_off_is_told_to_its_end() -> None:
    broken = [e for e in FIRST if e["event"] not in ("first-rpc", "post-handshake")]
    assert life(broken, ("c1", "s2")) == broken
    assert life([], ("c1", "s2")) == []


@pytest.mark.parametrize(
    ("total", "steps", "lines"),
    [
        (1 << 20, [1 << 18] * 4, ["25 %", "50 %", "75 %", "100 %"]),
        (100, [99, 1], ["25 %", "50 %", "75 %", "100 %"]),
        (100, [10] * 3, ["25 %"]),
        (0, [0, 0], []),
    ],
)
def test_progress_off_a_terminal_is_a_few_lines(
    total: int, steps: list[int], lines: list[str]
) -> None:
    output = io.StringIO()
    with progress(Console(file=output), "there", total) as advance:
        for step in steps:
            advance(step)
    said = output.getvalue().splitlines()
    assert [line.split(": ")[1].split(" of")[0] for line in said] == lines


def test_progress_on_a_terminal_leaves_nothing() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=100)
    with progress(console, "there", 10) as advance:
        advance(10)
    assert "there" in output.getvalue()
    assert output.getvalue().endswith("\x1b[2K")
