"""What `umktls watch` does, until Ctrl-C."""

from __future__ import annotations

import secrets
import signal
import socket
import webbrowser
from functools import partial
from pathlib import Path

import click
import trio

from umktls.errors import UnsupportedError, WorldError
from umktls.kernel.ground.groups import single_error
from umktls.kernel.ground.refusals import in_thread
from umktls.lessons.player import Part
from umktls.watch.feed import Feed
from umktls.watch.recording import Recorder, write
from umktls.watch.stepping import Stepper
from umktls.watch.tours import tour

__all__ = ["record_page", "serve_page"]

# What a host says last is in the feed by then.
LAST_EVENTS_SECONDS = 0.5

MISSING = (
    "umktls watch serves its page with two packages that are not there: "
    "pip install 'umktls[watch]' (--record needs neither)"
)


def record_page(feed: Feed, path: Path, seconds: float | None, lesson: str | None) -> None:
    """Record until interrupted, or for so long, or until the lesson of that name has been played;
    then write the page. Raises WorldError, also where that lesson breaks off."""
    trio.run(recording, feed, path, seconds, lesson)


def serve_page(
    feed: Feed, stepper: Stepper, port: int, *, opens: bool, secrets_shown: bool
) -> None:
    """Serve the page until interrupted. Raises WorldError, UnsupportedError."""
    trio.run(partial(serving, feed, stepper, port, opens=opens, secrets_shown=secrets_shown))


async def until_interrupted(nursery: trio.Nursery) -> None:
    """End the nursery's tasks at Ctrl-C or SIGTERM."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            nursery.cancel_scope.cancel()
            return


async def recording(feed: Feed, path: Path, seconds: float | None, lesson: str | None) -> None:
    recorder = Recorder(feed)
    click.echo(f"Recording; Ctrl-C ends it and writes {path}.")

    async def taught(nursery: trio.Nursery, name: str) -> None:
        await tour(feed, name, only_failure, nobody_answers)
        await trio.sleep(LAST_EVENTS_SECONDS)
        nursery.cancel_scope.cancel()

    with single_error():
        async with trio.open_nursery() as nursery:
            if seconds is not None:
                nursery.cancel_scope.deadline = trio.current_time() + seconds
            nursery.start_soon(feed.run)
            nursery.start_soon(recorder.run)
            nursery.start_soon(until_interrupted, nursery)
            if lesson is not None:
                nursery.start_soon(taught, nursery, lesson)
    feed.flush()
    found = recorder.recording()
    try:
        write(found, path)
    except OSError as error:
        raise WorldError(f"{path} cannot be written: {error.strerror}", error.errno) from error
    click.echo(f"{len(found['events'])} events, {len(found['records'])} records: {path}")


async def only_failure(part: Part) -> None:
    """The texts are kept with the feed. One that breaks off is nothing to take along."""
    if part["part"] == "failed":
        raise WorldError(f"the lesson breaks off: {part['text']}")


async def nobody_answers() -> None:
    """Who plays the recording does."""


async def serving(
    feed: Feed, stepper: Stepper, port: int, *, opens: bool, secrets_shown: bool
) -> None:
    try:
        from hypercorn.config import Config
        from hypercorn.trio import serve
    except ImportError as error:
        raise UnsupportedError(MISSING) from error
    from umktls.watch.app import application

    token = secrets.token_urlsafe(24)
    listener = bound(port)
    number = listener.getsockname()[1]
    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.accesslog = None
    config.loglevel = "WARNING"
    config.graceful_timeout = 0.5
    recorder = Recorder(feed)
    app = application(feed, recorder, token, number, stepper, secrets_shown=secrets_shown)
    address = f"http://127.0.0.1:{number}/{token}/"
    with single_error():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed.run)
            nursery.start_soon(stepper.run)
            # Hosts of lessons are gone when somebody comes to look at their records.
            nursery.start_soon(recorder.run, feed.is_guest)
            nursery.start_soon(until_interrupted, nursery)
            ready = await nursery.start(partial(serve, app, config, mode="asgi"))  # type: ignore[arg-type]
            assert ready
            click.echo(f"Watch at {address} (Ctrl-C ends)")
            if opens:
                await in_thread(webbrowser.open, address)


def bound(port: int) -> socket.socket:
    """A listening socket on loopback. Raises WorldError."""
    sock = socket.socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen(64)
    except OSError as error:
        sock.close()
        raise WorldError(f"port {port} of 127.0.0.1: {error.strerror}", error.errno) from error
    return sock
