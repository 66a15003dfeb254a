"""OpenSSL's own server and client, unchanged, with kernel TLS on one side and on both."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.run.openssl import client, connection, server
from tests.run.programs import make_certificate, started

SIZE = 3_000_000
RECORD = 16384
SIDES = ["server", "client", "both"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a certificate, a configuration, and a file to be served."""
    make_certificate(tmp_path)
    (tmp_path / "file.bin").write_bytes(os.urandom(SIZE))
    return tmp_path


@pytest.mark.long
@pytest.mark.parametrize("version", ["tls1_2", "tls1_3"])
@pytest.mark.parametrize("side", SIDES)
def test_a_file_by_sendfile(place: Path, version: str, side: str) -> None:
    """It arrives whole, and whoever has kernel TLS has the kernel make and open the records."""
    port = free_port()
    at_server, at_client = side in ("server", "both"), side in ("client", "both")
    options = ("-WWW", "-sendfile") if at_server else ("-WWW",)
    with (
        started(server(place, port, version, *options, ktls=at_server)) as serving,
        started(client(place, port, version, "-quiet", "-ign_eof", ktls=at_client)) as asking,
    ):
        asking.say(b"GET /file.bin HTTP/1.0\r\n\r\n")
        _, _, body = asking.end(60).partition(b"\r\n\r\n")
        serving.end()
    wanted = (place / "file.bin").read_bytes()
    assert hashlib.sha256(body).digest() == hashlib.sha256(wanted).digest()
    if at_server:
        tx = connection(serving)["tx"]
        assert tx["mode"] == "SW"
        assert tx["bytes"] > SIZE
        assert tx["records"] >= SIZE // RECORD
    if at_client:
        found = connection(asking)
        assert found["tx"]["mode"] == "SW"
        # OpenSSL 3.0 receives TLS 1.3 by itself.
        assert found["rx"]["mode"] == ("SW" if version == "tls1_2" else "NONE")
        assert found["rx"]["bytes"] > SIZE or version == "tls1_3"


@pytest.mark.long
@pytest.mark.parametrize("version", ["tls1_2", "tls1_3"])
def test_a_conversation_with_both_sides_in_the_kernel(place: Path, version: str) -> None:
    """Short lines there and back, and each side's close_notify."""
    port = free_port()
    with (
        started(server(place, port, version, "-rev", ktls=True)) as serving,
        started(client(place, port, version, ktls=True)) as asking,
    ):
        for line in (b"one", b"two" * 1000, b"x"):
            asking.say(line + b"\n")
            asking.wait_for(line[::-1])
        asking.say(b"Q\n")
        asking.end()
        serving.end()
    there, here = connection(serving), connection(asking)
    assert "Using Kernel TLS for sending" in asking.errors
    assert here["state"] == there["state"] == "closed"
    if version == "tls1_2":
        assert "Using Kernel TLS for receiving" in asking.errors
        for sent, received in ((here, there), (there, here)):
            assert sent["tx"]["records"] - received["rx"]["records"] in (0, 1)  # Q ends at once


@pytest.mark.long
def test_a_renegotiation_is_refused(place: Path) -> None:
    """OpenSSL makes none any more where a kernel has its keys."""
    port = free_port()
    with (
        started(server(place, port, "tls1_2", "-rev", ktls=True)) as serving,
        started(client(place, port, "tls1_2", ktls=True)) as asking,
    ):
        asking.say(b"one\n")
        asking.wait_for(b"eno")
        asking.say(b"R\n")
        asking.end()
        serving.end()
    assert "no renegotiation" in asking.errors
    # What one side sealed the other opened, and that was all.
    assert connection(asking)["tx"]["records"] == connection(serving)["rx"]["records"]
