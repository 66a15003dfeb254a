"""Which records belong together, and what calls were: what it takes to take a record apart."""

from __future__ import annotations

import base64
from collections import OrderedDict
from typing import Any

from umktls.cli.control import Host
from umktls.errors import UmktlsError
from umktls.ktls.session.framing import MAX_PLAINTEXT
from umktls.ktls.session.session import SECRETS
from umktls.watch.dissect import dissect
from umktls.watch.hosts import answer

__all__ = ["Records"]

REMEMBERED = 20_000
APPLICATION_DATA = 23
# A message that takes more records than this is not put together for looking at it.
MOST_RECORDS = 80

Place = tuple[str, str, int, int]  # here, direction, generation, sequence number


class Records:
    """Notes the records and calls of all hosts as they are told. `secrets`: a record is given with
    its keys, if its host tells them."""

    def __init__(self, *, secrets: bool = False) -> None:
        self._secrets = secrets
        self._events: OrderedDict[tuple[str, int], dict[str, Any]] = OrderedDict()
        self._places: dict[Place, dict[str, Any]] = {}
        self._calls: OrderedDict[tuple[str, int], tuple[int, int, str]] = OrderedDict()

    def note(self, event: dict[str, Any]) -> None:
        """An event, in its turn."""
        if "record" in event:
            self._events[event["host"], event["record"]] = event
            self._places[place_of(event)] = event
            if len(self._events) > REMEMBERED:
                _, old = self._events.popitem(last=False)
                self._places.pop(place_of(old), None)
        elif event["event"] in ("call-sent", "call-received"):
            asked = event["program"], event["version_number"], event["procedure"]
            self._calls[event["here"], event["xid"]] = asked
            if len(self._calls) > REMEMBERED:
                self._calls.popitem(last=False)

    async def dissected(self, host: Host, number: int) -> dict[str, Any]:
        """The record of that number, with the rest of its message. Raises UmktlsError."""
        told = await ask(host, number)
        if not self._secrets:
            for name in SECRETS:
                told.pop(name, None)
        event = self._events.get((host.name, number))
        payload = base64.b64decode(told["payload"])
        pieces, before = [payload], 0
        if event is not None and event["event"] == "record-refused":
            told["refused"] = event["reason"]
        elif event is not None and told["type"] == APPLICATION_DATA:
            pieces, before = await self._message(host, event, payload)
        here = event["here"] if event is not None else ""
        return dissect(told, pieces, before, lambda xid: self._calls.get((here, xid)))

    async def _message(
        self, host: Host, event: dict[str, Any], payload: bytes
    ) -> tuple[list[bytes], int]:
        """The payloads of the message's records, as far as they are kept, and how many are in
        front: a message is cut into full records and the rest."""
        pieces, before, at = [payload], 0, event
        while len(pieces) < MOST_RECORDS and (at := self._beside(at, -1) or {}):
            if at.get("bytes", 0) < MAX_PLAINTEXT or (piece := await payload_of(host, at)) is None:
                break
            pieces.insert(0, piece)
            before += 1
        at = event
        while len(pieces) < MOST_RECORDS and at.get("bytes") == MAX_PLAINTEXT:
            at = self._beside(at, 1) or {}
            if not at or (piece := await payload_of(host, at)) is None:
                break
            pieces.append(piece)
        return pieces, before

    def _beside(self, event: dict[str, Any], step: int) -> dict[str, Any] | None:
        here, direction, generation, sequence = place_of(event)
        beside = self._places.get((here, direction, generation, sequence + step))
        return beside if beside and beside.get("type") == APPLICATION_DATA else None


def place_of(event: dict[str, Any]) -> Place:
    return event["here"], event["direction"], event["generation"], event["sequence"]


async def ask(host: Host, number: int) -> dict[str, Any]:
    return await answer(host, {"op": "record", "record": number})


async def payload_of(host: Host, event: dict[str, Any]) -> bytes | None:
    try:
        return base64.b64decode((await ask(host, event["record"]))["payload"])
    except UmktlsError:
        return None
