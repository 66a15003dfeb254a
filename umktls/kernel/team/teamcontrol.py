"""The control socket of a server that is several workers: all are asked, and one answer given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import trio

from umktls.errors import CallerError, WorldError
from umktls.kernel.ground.events import Trace
from umktls.kernel.host.control import Controlled, ControlServer, send_line
from umktls.kernel.team import gather

__all__ = ["TeamControl"]

Answer = dict[str, Any]
# `umktls` waits ten seconds for an answer, and sixty for one that takes handshake daemons.
ANSWER_SECONDS = 8.0
SECONDS = {"rekey": 55.0}


class Asked(Protocol):
    """A worker."""

    number: int
    rundir: Path
    up: bool


class Team(Protocol):
    """A server of several workers, as far as it is asked. `knobs` were turned."""

    trace: Trace
    knobs: dict[str, Any]

    @property
    def workers(self) -> Sequence[Asked]: ...

    def own_stat(self) -> Answer:
        """What `stat` says of all together."""


class TeamControl(ControlServer):
    """Serves the control socket of a team."""

    def __init__(self, team: Team) -> None:
        super().__init__(cast(Controlled, team))  # for its trace
        self._team = team
        merge: dict[str, Callable[[Sequence[Answer]], Answer]] = {
            "stat": self._merged_stat,
            "rekey": gather.added,
            "sysctl": gather.sysctl_of_all,
            "txmode": gather.added,
        }
        self._merge = merge
        for name in ("record", "do"):  # records are the workers', and so are steps
            del self._operations[name]
        self._operations |= dict.fromkeys(merge, self._ask_all)
        self._operations["capture"] = self._refuse_capture

    async def _refuse_capture(self, stream: trio.SocketStream, request: Answer) -> None:
        """Each worker has its own sockets."""
        places = ", ".join(str(worker.rundir) for worker in self._team.workers)
        raise CallerError(
            f"there are several workers, each of which is captured by itself: name one of {places}"
        )

    async def _ask_all(self, stream: trio.SocketStream, request: Answer) -> None:
        op = str(request["op"])
        answers: list[Answer] = []

        async def ask(worker: Asked) -> None:
            try:
                answers.append(
                    await gather.ask(worker.rundir, request, SECONDS.get(op, ANSWER_SECONDS))
                )
            except WorldError as error:
                self._team.trace.emit("warning", None, reason=str(error))

        async with trio.open_nursery() as nursery:
            for worker in self._asked(request.get("connection")):
                nursery.start_soon(ask, worker)
        good = answers if op == "stat" else gather.checked(answers)
        if op == "sysctl" and isinstance(request.get("set"), dict):
            self._team.knobs.update(request["set"])
        await send_line(stream, self._merge[op](good))

    def _asked(self, connection: object) -> list[Asked]:
        """Whom a request is for: of one connection, the worker that has connections of its number
        (umktls.kernel.krpc.post.Post.first)."""
        up = [worker for worker in self._team.workers if worker.up]
        number = str(connection or "")[1:]
        if not number.isdecimal():
            return up
        theirs = (int(number) - 1) % len(self._team.workers) + 1
        return [worker for worker in up if worker.number == theirs]

    def _merged_stat(self, answers: Sequence[Answer]) -> Answer:
        return gather.stat_of_all(self._team.own_stat(), answers)
