"""A recording: what was told, and the bytes of its records, for a page that plays it back."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from umktls.errors import UmktlsError, WorldError
from umktls.private import open_file
from umktls.watch.feed import Feed
from umktls.watch.page import recorded

__all__ = ["Recorder", "write"]

# Bytes of records that a recording has: for a page that a browser opens at once.
MOST_BYTES = 24 << 20
MOST_RECORDS = 4_000


class Recorder:
    """Fetches records while hosts keep them."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._records: dict[str, Any] = {}
        self._bytes = 0

    async def run(self, wanted: Callable[[dict[str, Any]], bool] = lambda event: True) -> None:
        """Record the events that are wanted from now on, until cancelled."""
        while True:
            with self._feed.listening() as messages:
                await self.keep(list(filter(wanted, self._feed.events)))
                async for message in messages:
                    if message["t"] == "events":
                        await self.keep(list(filter(wanted, message["events"])))

    def kept(self, host: str, number: int) -> dict[str, Any] | None:
        """A record that was fetched while its host kept it."""
        return self._records.get(f"{host}/{number}")

    async def keep(self, events: list[dict[str, Any]]) -> None:
        """The bytes of the records among these, as far as there is room."""
        by_host: dict[str, list[int]] = {}
        for event in events:
            if "record" in event:
                by_host.setdefault(event["host"], []).append(event["record"])
        async with trio.open_nursery() as nursery:
            for host, numbers in by_host.items():
                nursery.start_soon(self._keep, host, numbers)

    async def _keep(self, host: str, numbers: list[int]) -> None:
        """Those of one host, as long as it answers: hosts do not wait for each other."""
        for number in numbers:
            name = f"{host}/{number}"
            full = len(self._records) >= MOST_RECORDS or self._bytes > MOST_BYTES
            if full or name in self._records:
                continue
            try:
                found = await self._feed.record(host, number)
            except WorldError:
                return
            except UmktlsError:
                continue
            if name not in self._records:
                self._records[name] = found
                self._bytes += len(found["wire"]) + len(found["plain"])

    def recording(self) -> dict[str, Any]:
        """All of it, as the page takes it."""
        return {
            "made": time.time(),
            "pairs": self._feed.pairs,
            "stats": list(self._feed.stats),
            "events": list(self._feed.events),
            "records": self._records,
            "tours": list(self._feed.tours),
        }


def write(recording: dict[str, Any], path: Path) -> None:
    """The recording as a page, for this user alone: what was said is in it, in clear. Raises
    OSError, CallerError."""
    descriptor = open_file(path, os.O_WRONLY | os.O_TRUNC, "recording")
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, 0o600)
        file.write(recorded(recording))
