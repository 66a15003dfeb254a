"""The server of the page: loopback only, behind a token in its address.

Other users of the machine can connect to a loopback port, and so can pages of other sites in the
same browser (also by a name of theirs that leads to 127.0.0.1). So each request must have the token
in its path, name this server in Host, and, where a browser says on whose behalf it asks (Origin,
Sec-Fetch-Site), name this page. What changes something must be a POST with a header that no form
can send.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from umktls.errors import UmktlsError
from umktls.watch import page
from umktls.watch.asked import Answer, object_of
from umktls.watch.feed import Feed, Message
from umktls.watch.lessons import Lessons
from umktls.watch.recording import Recorder
from umktls.watch.stepping import Stepper

__all__ = ["Guard", "application"]

OWN_HEADER = b"x-umktls-watch"
TYPES = {"css": "text/css", "js": "text/javascript"}
MOST_DIGITS = 19
HISTORY_PIECE = 2_000  # events in one message

HEADERS = [
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]


class Guard:
    """Lets nobody through who is not meant: see the module."""

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app = app
        self._prefix = f"/{token}/".encode()
        self._hosts = {f"{name}:{port}".encode() for name in ("127.0.0.1", "localhost", "[::1]")}
        self._origins = {b"http://" + host for host in self._hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        problem = self._problem(scope)
        if problem is not None:
            refusal = Answer({"error": problem}, 403)
            await refusal(scope, receive, send)
            return

        async def sealed(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        path = scope["path"][len(self._prefix) - 1 :]
        await self._app({**scope, "path": path, "raw_path": path.encode()}, receive, sealed)

    def _problem(self, scope: Scope) -> str | None:
        """Why a request is refused; None where it is not."""
        headers = dict(scope["headers"])
        if headers.get(b"host", b"") not in self._hosts:
            return "this server has another name"
        path = scope["path"].encode()[: len(self._prefix)]
        if not secrets.compare_digest(path, self._prefix):
            return "the token is missing: open the address that umktls watch has printed"
        if headers.get(b"origin") not in {None, *self._origins}:
            return "another page asks"
        if headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
            return "another site asks"
        if scope["method"] not in ("GET", "HEAD") and OWN_HEADER not in headers:
            return "this is for the page alone"
        return None


class Pages:
    """What the page asks for, but for lessons: `routes`."""

    def __init__(
        self, feed: Feed, recorder: Recorder, stepper: Stepper, *, secrets_shown: bool
    ) -> None:
        self._feed = feed
        self._recorder = recorder
        self._stepper = stepper
        self._secrets_shown = secrets_shown
        self.routes = [
            Route("/", self._index),
            Route("/static/{name}", static),
            Route("/events", self._events),
            Route("/record/{host}/{number}", self._record),
            Route("/recording", self._recording),
            Route("/do", self._do, methods=["POST"]),
            Route("/step", self._step, methods=["POST"]),
        ]

    async def _index(self, request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self' "
            "'unsafe-inline'; img-src data:; connect-src 'self'; base-uri 'none'; "
            "form-action 'none'; frame-ancestors 'none'"
        )
        facts = {**page.about(), "live": True, "secrets": self._secrets_shown}
        return HTMLResponse(page.live(facts, nonce), headers={"content-security-policy": policy})

    async def _events(self, request: Request) -> Response:
        return StreamingResponse(stream(self._feed, self._stepper), media_type="text/event-stream")

    async def _record(self, request: Request) -> Response:
        asked = request.path_params
        host, number = asked["host"], number_of(asked["number"])
        kept = self._recorder.kept(host, number)
        return Answer(kept or await self._feed.record(host, number))

    async def _recording(self, request: Request) -> Response:
        await self._recorder.keep(list(self._feed.events))
        text = page.recorded(self._recorder.recording())
        name = {"content-disposition": 'attachment; filename="umktls-recording.html"'}
        return HTMLResponse(text, headers=name)

    async def _do(self, request: Request) -> Response:
        asked = await object_of(request)
        return Answer(await self._feed.do(str(asked.get("host")), asked))

    async def _step(self, request: Request) -> Response:
        asked = await object_of(request)
        await self._stepper.obey(asked)
        return Answer(self._stepper.message())


def number_of(text: str) -> int:
    """Of a record. Such numbers have less digits than Python would count in vain."""
    if not (text.isascii() and text.isdigit() and len(text) < MOST_DIGITS):
        raise HTTPException(404)
    return int(text)


async def static(request: Request) -> Response:
    name = request.path_params["name"]
    try:
        return Response(page.static(name), media_type=TYPES[name.rpartition(".")[2]])
    except KeyError:
        raise HTTPException(404) from None


def application(
    feed: Feed,
    recorder: Recorder,
    token: str,
    port: int,
    stepper: Stepper | None = None,
    *,
    secrets_shown: bool = False,
) -> ASGIApp:
    """The page of a feed, and what it asks for. `stepper`: it runs, if it is to do anything."""
    pages = Pages(feed, recorder, stepper or Stepper(feed), secrets_shown=secrets_shown)
    failures: dict[Any, Callable[[Request, Any], Awaitable[Response]]] = {UmktlsError: refused}
    routes = [*pages.routes, *Lessons(feed).routes]
    return Guard(Starlette(routes=routes, exception_handlers=failures), token, port)


async def refused(request: Request, error: UmktlsError) -> Response:
    """What a host has refused, in its words."""
    return Answer({"error": str(error), "errno": error.errno_name}, 409)


async def stream(feed: Feed, stepper: Stepper) -> AsyncIterator[str]:
    """Server-sent events: what was, then what is. The page is open as long as it reads them."""
    with feed.listening() as messages, stepper.page():
        for message in feed.history():
            for piece in cut(message):
                yield line(piece)
        yield line(stepper.message())
        await feed.ask_stat()
        async for message in messages:
            yield line(message)


def cut(message: Message) -> list[Message]:
    """A message with many events in several, so that no line is endless."""
    if message["t"] != "events" or not message["events"]:
        return [message]
    events = message["events"]
    starts = range(0, len(events), HISTORY_PIECE)
    return [{"t": "events", "events": events[at : at + HISTORY_PIECE]} for at in starts]


def line(message: Message) -> str:
    return f"data: {json.dumps(message, default=str)}\n\n"
