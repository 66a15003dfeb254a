"""Lessons on the page: each is played (tours.py), and its parts are told as they come, one a line.

A run has a name, which the page chooses. Where a lesson asks for a prediction it waits, until the
page answers for that run, or goes away. So many run at a time, since some of them start daemons.
"""

from __future__ import annotations

import json
import math
from typing import Any

import trio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from umktls.errors import CallerError, UmktlsError
from umktls.lessons.player import Part
from umktls.lessons.table import LESSONS
from umktls.watch.asked import Answer, object_of
from umktls.watch.feed import Feed
from umktls.watch.tours import tour

__all__ = ["Lessons"]

MOST_RUNS = 4
LONGEST_NAME = 64


class Lessons:
    """What the page asks for about lessons: `routes`."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._answers: dict[str, trio.MemorySendChannel[str | None]] = {}
        self.routes = [
            Route("/lessons", listed),
            Route("/lesson/{name}", self._play, methods=["POST"]),
            Route("/answer", self._answer, methods=["POST"]),
        ]

    async def _play(self, request: Request) -> Response:
        name, run = request.path_params["name"], run_of(await object_of(request))
        if name not in LESSONS:
            raise HTTPException(404)
        if run in self._answers:
            raise CallerError("a run of this name goes on already; give each a name of its own")
        if len(self._answers) >= MOST_RUNS:
            raise CallerError(f"{len(self._answers)} lessons run already; close one of them")
        return Told(self._feed, name, run, self._answers)

    async def _answer(self, request: Request) -> Response:
        asked = await object_of(request)
        run, text = run_of(asked), asked.get("text")
        waiting = self._answers.get(run)
        if waiting is None:
            raise CallerError("this lesson has ended; begin it again")
        await waiting.send(text if isinstance(text, str) and text else None)
        return Answer({})


async def listed(request: Request) -> Response:
    rows = [
        {"name": name, "about": entry.about, "minutes": entry.minutes}
        for name, entry in LESSONS.items()
    ]
    return Answer(rows)


def run_of(asked: dict[str, Any]) -> str:
    run = asked.get("run")
    if not isinstance(run, str) or not 0 < len(run) <= LONGEST_NAME:
        raise HTTPException(400)
    return run


class Told(Response):
    """A lesson, as an answer that goes on as it does. See `umktls.lessons.player.Audience`."""

    def __init__(
        self,
        feed: Feed,
        name: str,
        run: str,
        answers: dict[str, trio.MemorySendChannel[str | None]],
    ) -> None:
        super().__init__()
        self._feed, self._name, self._run = feed, name, run
        self._answers = answers
        # The channel is there from the beginning: a second run of that name is refused.
        answers[run], self._heard = trio.open_memory_channel[str | None](math.inf)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._send = send
        try:
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(until_gone, receive, nursery.cancel_scope)
                await self._played()
                nursery.cancel_scope.cancel()
        finally:
            del self._answers[self._run]

    async def _played(self) -> None:
        try:
            await tour(self._feed, self._name, self.hear, self.answer)
        except UmktlsError as error:
            await self.hear({"part": "failed", "text": str(error)})
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def hear(self, part: Part) -> None:
        body = json.dumps(part).encode() + b"\n"
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def answer(self) -> str | None:
        return await self._heard.receive()


HEADERS = [(b"content-type", b"application/x-ndjson")]


async def until_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
