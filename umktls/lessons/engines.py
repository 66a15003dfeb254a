"""What the lessons about engines see of a connection between two real hosts."""

from __future__ import annotations

from typing import Any

from umktls.lessons.hosts import Lab, Real
from umktls.rpc.message import NULL_AUTH
from umktls.testing.echo import SAY

__all__ = ["TEXT", "carried", "lines"]

TEXT = b"attack at dawn"
TLS_TYPES = range(20, 24)


async def carried(stage: Lab, client: str, server: str = "software") -> dict[str, Any]:
    """Three calls over a connection of hosts with these engines; see `facts_of`."""
    async with stage.real(client, server) as hosts:
        for _ in range(3):
            await hosts.both.rpc.call(SAY, TEXT, NULL_AUTH)
        await hosts.both.event("client", "first-rpc", 2)
        return facts_of(hosts)


def facts_of(hosts: Real) -> dict[str, Any]:
    """The client's side.

    modes: TCP_TLS_MODE_* of sending and receiving. early: records, and bytes on the wire, that came
    behind the handshake and were no data. swallowed: such records that ended in the daemon's
    library. held: bytes that a card held back. waiting: bytes in the receive queue when the key was
    set, None where none was. clear: units that passed with TEXT in them, to be read by everybody.
    behind: units behind the handshake that are no TLS records.
    """
    both = hosts.both
    half = both.client.stat()["connections"][-1]
    (early,) = both.events("client", "post-handshake")
    keys = both.events("client", "rx-keys")
    held = both.events("client", "held-back")
    units = [unit for way in hosts.units.values() for unit in way]
    plain = [unit for unit in units if unit[0] not in TLS_TYPES]
    return {
        "modes": [half["tx"]["mode"], half["rx"]["mode"]],
        "early": [early["records"], early["bytes"]],
        "swallowed": len(both.events("client", "swallowed")),
        "tickets": len(both.events("client", "ticket")),
        "dropped": len(both.events("client", "dropped-record")),
        "held": [event["bytes"] for event in held],
        "waiting": keys[0]["waiting"] if keys else None,
        "clear": sum(TEXT in unit for unit in units),
        "plain": len(plain),
        "units": len(units),
    }


def lines(facts: dict[str, Any]) -> tuple[str, ...]:
    """The facts for people."""
    sending, receiving = facts["modes"]
    records, size = facts["early"]
    return (
        f"the client's kernel: sending {sending}, receiving {receiving}",
        f"{facts['units']} units on the wire; {facts['plain']} are no TLS record, and "
        f"{facts['clear']} have {TEXT.decode()!r} in them to be read",
        f"behind the handshake: {records} records of {size} bytes for the kernel, "
        f"{facts['swallowed']} swallowed by SSL_read; tickets in the daemon: {facts['tickets']}",
    )
