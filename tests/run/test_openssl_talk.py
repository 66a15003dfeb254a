"""What OpenSSL's own server and client say to each other: pages, new keys, writes, ends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.run.openssl import client, connection, server
from tests.run.programs import Program, make_certificate, started

pytestmark = pytest.mark.long

VERSIONS = ["tls1_2", "tls1_3"]
SIDES = ["server", "client", "both"]
BAD_MAC = "bad record mac"
BIG = 1_000_000
TINY = 60


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a certificate and a configuration."""
    make_certificate(tmp_path)
    return tmp_path


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("side", SIDES)
def test_the_status_page(place: Path, version: str, side: str) -> None:
    """`-www`: the server's answer is sealed by its kernel, and opened by the client's."""
    port = free_port()
    at_server, at_client = side in ("server", "both"), side in ("client", "both")
    with (
        started(server(place, port, version, "-www", ktls=at_server)) as serving,
        started(client(place, port, version, "-quiet", "-ign_eof", ktls=at_client)) as asking,
    ):
        asking.say(b"GET / HTTP/1.0\r\n\r\n")
        page = asking.end()
        serving.end()
    assert b"s_server -accept" in page
    assert page.rstrip().lower().endswith(b"</html>")
    if at_server:
        assert connection(serving)["tx"]["bytes"] >= len(page)
    if at_client:
        found = connection(asking)
        assert found["tx"]["records"] >= 1
        # OpenSSL 3.0 receives TLS 1.3 by itself.
        assert (
            found["rx"]["bytes"] >= len(page) if version == "tls1_2" else not found["rx"]["bytes"]
        )


def say(sender: Program, receiver: Program, text: bytes) -> None:
    """It arrives."""
    sender.say(text + b"\n")
    receiver.wait_for(text)


def refuse(sender: Program, receiver: Program, text: bytes) -> None:
    """It arrives, and does not verify: both end."""
    sender.say(text + b"\n")
    receiver.rest()
    sender.rest()
    assert BAD_MAC in receiver.errors
    assert f"alert {BAD_MAC}" in sender.errors


@pytest.mark.parametrize("updater", ["client", "server"])
@pytest.mark.parametrize("letter", ["K", "k"])
@pytest.mark.parametrize("side", SIDES)
def test_a_key_update(place: Path, updater: str, letter: str, side: str) -> None:
    """Whoever has kernel TLS and updates its key has OpenSSL 3.0 set none: its kernel goes on under
    the old one. That is whoever is told `K` or `k`, and whoever answers a `K`. All else goes on.
    """
    port = free_port()
    kernels = ("server", "client") if side == "both" else (side,)
    with (
        started(server(place, port, "tls1_3", "-msg", ktls="server" in kernels)) as serving,
        started(client(place, port, "tls1_3", "-msg", ktls="client" in kernels)) as asking,
    ):
        ends = {"server": serving, "client": asking}
        first = ends.pop(updater)
        ((answerer, second),) = ends.items()
        say(asking, serving, b"in front of it")
        first.say(letter.encode() + b"\n")
        second.wait_for(b"KeyUpdate")
        ways = [
            (first, second, updater in kernels),
            (second, first, letter == "K" and answerer in kernels),
        ]
        for sender, receiver, old_key in sorted(ways, key=lambda way: way[2]):
            if old_key:
                refuse(sender, receiver, b"under the old key")
                break  # by then the connection has ended
            say(sender, receiver, b"under a good key")
    for name in kernels:
        found = connection(serving if name == "server" else asking)
        assert (found["tx"]["mode"], found["rx"]["mode"]) == ("SW", "NONE")
        assert found["tx"]["records"] >= 1


@pytest.mark.parametrize("version", VERSIONS)
def test_big_writes(place: Path, version: str) -> None:
    """A client that sends without a pause until its input ends, and then says so."""
    port = free_port()
    data = os.urandom(BIG // 2).hex().encode()  # no letter of it is a command
    (place / "input").write_bytes(data)
    with (
        (place / "input").open("rb") as stdin,
        started(server(place, port, version, ktls=True)) as serving,
    ):
        options = ("-quiet", "-no_ign_eof")
        sending = client(place, port, version, *options, ktls=True, stdin=stdin.fileno())
        with started(sending):
            received = serving.rest()
            sending.rest()
    assert data in received
    there, here = connection(serving), connection(sending)
    assert here["tx"]["bytes"] >= len(data)
    if version == "tls1_2":
        assert there["rx"]["bytes"] >= len(data)
        assert there["rx"]["records"] == here["tx"]["records"]


@pytest.mark.parametrize("version", VERSIONS)
def test_tiny_writes(place: Path, version: str) -> None:
    """A byte there and a byte back, each in a record of its own."""
    port = free_port()
    with (
        started(server(place, port, version, "-rev", ktls=True)) as serving,
        started(client(place, port, version, "-quiet", "-no_ign_eof", ktls=True)) as asking,
    ):
        for number in range(TINY):
            say(asking, asking, b"%d" % (number % 10))
        asking.end()
        serving.end()
    for found in (connection(serving), connection(asking)):
        assert found["tx"]["records"] >= TINY
        assert found["tx"]["bytes"] < 10 * TINY + 1000
        assert found["rx"]["records"] >= TINY or version == "tls1_3"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("closer", ["client", "server"])
def test_close_notify(place: Path, version: str, closer: str) -> None:
    """Whoever ends says so, the other reads it and says so too: alerts that are sealed, and with
    TLS 1.2 opened, by the kernel. The server ends behind its page, the client when it is told."""
    port = free_port()
    options = ("-msg", "-www") if closer == "server" else ("-msg",)
    with (
        started(server(place, port, version, *options, ktls=True)) as serving,
        started(client(place, port, version, "-msg", ktls=True)) as asking,
    ):
        if closer == "server":
            asking.say(b"GET / HTTP/1.0\r\n\r\n")
            first, second = serving, asking
        else:
            say(asking, serving, b"hello")
            asking.say(b"Q\n")
            first, second = asking, serving
        lines = (second.rest() + first.rest()).splitlines()
    alerts = [line[:3] for line in lines if b"close_notify" in line]
    assert alerts[:2] == [b"<<<", b">>>"]
    assert b">>>" in alerts[2:]
    for program in (first, second):
        found = connection(program)
        assert found["state"] == "closed"
        assert found["tx"]["records"] >= 1
    # Its data, and its close_notify.
    assert connection(first)["tx"]["records"] >= 2
