"""One answer of many: what `umktls stat` and the others are told by all workers of a server.

Each worker is a host with a control socket of its own, and is asked over that. Numbers of what was
counted are added up; connections, whose numbers differ among workers, are in one list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import trio

from umktls.errors import PeerError, WorldError
from umktls.kernel.host.knobs import REXMIT_KNOB
from umktls.ktls.session.counters import KNOBS

__all__ = ["added", "ask", "events", "stat_of_all", "sysctl_of_all"]

Answer = dict[str, Any]
# Of a backend.
COUNTS = ("connections", "total")
# The last number of a line, such as `kern.ipc.tls.enable: 1`.
COUNTED = re.compile(r"(.*\D)(\d+)")


async def ask(rundir: Path, request: Answer, seconds: float) -> Answer:
    """The answer of the host in that run directory, which may be an error it tells.

    Raises `WorldError` where there is none in time.
    """
    with trio.move_on_after(seconds):
        try:
            async with await trio.open_unix_socket(str(rundir / "control.sock")) as stream:
                await stream.send_all(json.dumps(request).encode() + b"\n")
                answer = bytearray()
                while data := await stream.receive_some(65536):
                    answer += data
                found: Answer = json.loads(answer)
                return found
        except (OSError, ValueError, trio.BrokenResourceError) as error:
            raise WorldError(f"the worker in {rundir} does not answer: {error}") from error
    raise WorldError(f"the worker in {rundir} has not answered within {seconds:g} s")


async def events(rundir: Path, take: Any) -> None:
    """Call `take` with each event of the host, those that it has kept first, until it ends."""
    try:
        async with await trio.open_unix_socket(str(rundir / "control.sock")) as stream:
            await stream.send_all(b'{"op": "trace", "since": 0, "follow": true}\n')
            rest = b""
            while data := await stream.receive_some(65536):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    take(json.loads(line))
    except (OSError, ValueError, trio.BrokenResourceError):
        return


def added(answers: Sequence[Answer]) -> Answer:
    """The numbers of all, added up."""
    return {
        name: sum(int(answer.get(name) or 0) for answer in answers)
        for name in dict.fromkeys(name for answer in answers for name in answer)
    }


def refused(answers: Sequence[Answer]) -> Answer | None:
    """The error to be told if none has done what was asked."""
    errors = [answer for answer in answers if "error" in answer]
    return errors[0] if len(errors) == len(answers) else None


def stat_of_all(own: Answer, answers: Sequence[Answer]) -> Answer:
    """own: what all are together."""
    connections = [one for answer in answers for one in answer.get("connections") or []]
    views = {name: value for answer in answers for name, value in answer.items()}
    if "backends" in views:
        views["backends"] = backends_of_all(answer.get("backends") or [] for answer in answers)
    return {
        **views,
        **own,
        "daemons": [one for answer in answers for one in answer.get("daemons") or []],
        "connections": sorted(connections, key=lambda one: int(one["id"][1:])),
        "totals": added([answer.get("totals") or {} for answer in answers]),
    }


def backends_of_all(views: Iterable[Sequence[Answer]]) -> list[Answer]:
    """Each backend of a front once: down where one worker has it down, with the clients of all."""
    found: dict[str, Answer] = {}
    for one in (backend for view in views for backend in view):
        known = found.get(one["name"])
        if known is None:
            found[one["name"]] = dict(one)
            continue
        counted = added([{name: each[name] for name in COUNTS} for each in (known, one)])
        known.update(one if known["up"] and not one["up"] else {}, **counted)
    return list(found.values())


def sysctl_of_all(answers: Sequence[Answer]) -> Answer:
    return {
        table: list(map(line_of_all, zip(*(answer[table] for answer in answers), strict=True)))
        for table in ("sysctl", "tls_stat")
    }


def line_of_all(lines: Sequence[str]) -> str:
    """One line of a table: knobs are the same everywhere, and all else is counted."""
    name = lines[0].partition(":")[0]
    found = [COUNTED.fullmatch(line) for line in lines]
    numbers = [match for match in found if match is not None]
    if name in KNOBS or name == REXMIT_KNOB or len(numbers) < len(lines):
        return lines[0]
    return f"{numbers[0][1]}{sum(int(match[2]) for match in numbers)}"


def checked(answers: Sequence[Answer]) -> Sequence[Answer]:
    """The answers that are no errors. Raises PeerError where there are no others."""
    if not answers:
        raise WorldError("no worker is up at present: they are being started")
    error = refused(answers)
    if error is not None:
        raise PeerError(str(error["error"]))
    return [answer for answer in answers if "error" not in answer]
