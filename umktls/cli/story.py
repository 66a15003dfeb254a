"""The life of a connection as both of its hosts saw it, out of their traces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from umktls.errors import WorldError

__all__ = ["Event", "first_connection", "life", "missing"]

Event = dict[str, Any]

# What the life of a connection over TLS must show, on both sides. A trace that lacks one of these
# does not prove what it is meant to prove.
CLIENT_STEPS = (
    *("tcp-connect", "probe", "starttls", "upcall", "socket-taken", "handshake", "tx-keys"),
    *("rx-keys", "mode", "upcall-answered", "first-rpc", "post-handshake"),
)
SERVER_STEPS = ("tcp-accept", *CLIENT_STEPS[1:-1])


def first_connection(events: Iterable[Event]) -> tuple[str, str]:
    """The names (client's, server's) of the first connection that both sides have seen.

    The client's own address is what the server calls its peer. Raises WorldError if there is none.
    """
    events = list(events)
    accepted = {e.get("peer"): e["connection"] for e in events if e["event"] == "tcp-accept"}
    for event in events:
        if event["event"] == "tcp-connect" and event.get("local") in accepted:
            return str(event["connection"]), str(accepted[event["local"]])
    raise WorldError("the hosts' traces have no connection in common")


def life(events: Sequence[Event], names: tuple[str, str]) -> list[Event]:
    """The events of that connection up to the first RPCs in TLS, in the order they happened."""
    sides = dict(zip(("client", "server"), names, strict=True))
    own = [e for e in events if e.get("connection") == sides.get(str(e.get("side")))]
    lasts = [i for i, e in enumerate(own) if e["event"] in ("first-rpc", "post-handshake")]
    return own[: max(lasts, default=len(own) - 1) + 1]


def missing(events: Iterable[Event]) -> list[str]:
    """The steps that these events lack, each as `side: event`."""
    seen = {(e.get("side"), e["event"]) for e in events}
    wanted = [("client", step) for step in CLIENT_STEPS]
    wanted += [("server", step) for step in SERVER_STEPS]
    return [f"{side}: {step}" for side, step in wanted if (side, step) not in seen]
