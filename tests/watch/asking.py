"""One request to the page's server, without a socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import trio
from starlette.types import ASGIApp

from tests.conftest import patience

TOKEN, PORT = "t0ken", 4711
OURS = f"127.0.0.1:{PORT}"

Came = Callable[[bytes], Awaitable[None]]


@dataclass
class Answer:
    """What came, as far as it was waited for."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def take(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {k.decode(): v.decode() for k, v in message["headers"]}
        else:
            self.body += message["body"]


async def request(
    app: ASGIApp,
    path: str,
    headers: Mapping[str, str],
    body: bytes = b"",
    *,
    method: str = "GET",
    came: Came | None = None,
    gone: trio.Event | None = None,
) -> Answer:
    """`came` is called with each piece of the answer's body; the browser hangs up with `gone`."""
    answer, hung_up = Answer(), trio.Event() if gone is None else gone
    bodies = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, Any]:
        for message in bodies:
            return message
        await hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        answer.take(message)
        if came is not None and message.get("body"):
            await came(message["body"])

    with trio.fail_after(patience(30)):
        await app(scope(path, headers, method), receive, send)
    return answer


def scope(path: str, headers: Mapping[str, str], method: str) -> dict[str, Any]:
    """As a server makes it of a request."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
