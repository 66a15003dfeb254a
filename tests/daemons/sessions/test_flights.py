"""What a daemon tells of the flights of a handshake."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from umktls_daemons.sessions.flights import RETRY, Flights, name_of
from umktls_daemons.sessions.handshake import handshake
from umktls_daemons.tls.tlsadapter import ClientCertificates

from tests.daemons.pki import context
from tests.daemons.sessions.memorypeer import CLIENT, SERVER, MemoryPeer, soon
from umktls.upcall.syscalls import MAX_UTRACE

HELLO = ["ServerHello", "EncryptedExtensions", "CertificateRequest", "Certificate"]
SERVERS = [*HELLO, "CertificateVerify", "Finished"]
CLIENTS = ["Certificate", "CertificateVerify", "Finished"]


def told_at(*, server: bool) -> list[Mapping[str, Any]]:
    told: list[Mapping[str, Any]] = []
    if server:
        ours = context(server=True).server(ClientCertificates.DEMAND)
        peer = MemoryPeer(context(server=False).client("localhost"))
    else:
        ours = context(server=False).client("localhost")
        peer = MemoryPeer(context(server=True).server(ClientCertificates.DEMAND))
    look = Flights(ours, told.append, server=server)
    handshake(peer, ours, soon(), SERVER if server else CLIENT, look)
    return told


def names(told: list[Mapping[str, Any]], direction: str) -> list[str]:
    return [str(event["name"]) for event in told if event.get("direction") == direction]


@pytest.mark.parametrize("server", [False, True])
def test_each_message_by_its_name(server: bool) -> None:
    told = told_at(server=server)
    sent, received = names(told, "sent"), names(told, "received")
    if server:
        assert received == ["ClientHello", *CLIENTS]
        assert sent == [*SERVERS, "NewSessionTicket", "NewSessionTicket"]
    else:
        assert sent == ["ClientHello", *CLIENTS]
        assert received == SERVERS
    for event in told:
        if event["event"] == "handshake-message":
            message = bytes.fromhex(event["hex"])
            assert len(message) == event["bytes"] == 4 + int.from_bytes(message[1:4], "big")


def test_a_flight_is_told_of_before_it_goes_and_behind_what_led_to_it() -> None:
    told = told_at(server=False)
    order = [event.get("messages") or event["name"] for event in told]
    flight = ", ".join(CLIENTS)
    assert order == ["ClientHello", "ClientHello", *SERVERS, *CLIENTS, flight]
    assert told[-1]["bytes"] > sum(e["bytes"] for e in told[-4:-1])


def test_names_of_what_is_rare() -> None:
    assert name_of(bytes((2, 0, 0, 34, 3, 3)) + RETRY) == "HelloRetryRequest"
    assert name_of(bytes((99, 0, 0, 0))) == "message 99"


def told_of(*messages: bytes) -> list[Mapping[str, Any]]:
    """What is told of messages in clear, each in a record of its own."""
    told: list[Mapping[str, Any]] = []
    flights = Flights(context(server=False).client("localhost"), told.append, server=False)
    records = [b"\x16\x03\x03" + len(message).to_bytes(2) + message for message in messages]
    flights("received", records)
    return told


def test_a_message_with_nothing_behind_its_length() -> None:
    """As ServerHelloDone is in TLS 1.2: it is whole, and does not wait for the next."""
    (event,) = told_of(b"\x0e\0\0\0")
    assert (event["name"], event["bytes"], event["hex"]) == ("ServerHelloDone", 4, "0e000000")


def test_of_a_long_message_as_much_is_told_as_fits_into_a_trace() -> None:
    message = b"\x0b" + (9000).to_bytes(3) + bytes(9000)
    (event,) = told_of(message)
    assert (event["name"], event["bytes"]) == ("Certificate", len(message))
    told = bytes.fromhex(event["hex"])
    assert len(told) > 1000
    assert message.startswith(told)
    assert len(json.dumps({**event, "fd": 1 << 31})) <= MAX_UTRACE
