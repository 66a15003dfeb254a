"""The captures that hosts make of themselves, of one mount, read by tshark.

The client's has the secrets: the handshake is decrypted, and the calls are those that the server
has counted. The server's has none, so nothing of what was written is in it.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.capture.streams import streams
from tests.capture.wireshark import WRONG, fields
from tests.conftest import patience
from tests.system.live import in_foreground, needs_fuse
from umktls.certs import layout
from umktls.cli.control import Host
from umktls.cli.sandbox import Sandbox
from umktls.errors import WorldError

pytestmark = pytest.mark.long

MARK = b"what nobody may read without the secrets; " * 4000
NAMES = (
    *("frame.interface_name", "frame.comment", "rpc.msgtyp", "rpc.program", "rpc.procedure"),
    *("tls.handshake.type", "umktls.kind", "umktls.name", "umktls.text", "umktls.what"),
)
CLIENT_HELLO, SERVER_HELLO, TICKET, CERTIFICATE, FINISHED, KEY_UPDATE = 1, 2, 4, 11, 20, 24
MOUNT, NFS = 100005, 100003
WRITE, READ = 7, 6
ALERT_BYTES = 24  # of a close_notify on the wire


@dataclass(frozen=True)
class Captured:
    """Both files, what a third one was refused with, what the server has counted, the log."""

    client: Path
    server: Path
    later: Path
    refused: str
    counted: dict[str, Any]
    said: str


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Captured:
    needs_fuse()
    top = tmp_path_factory.mktemp("captures")
    client, server, later = (top / f"{name}.pcapng" for name in ("client", "server", "later"))
    with Sandbox("capture") as box:
        layout.create(box.certs)
        host, _ = box.serve("--certs", str(box.certs), "--capture", str(server))
        source = f"127.0.0.1:{host.facts['port']}:{box.export}"
        options = ("--certs", str(box.certs), "-o", "mtls", "--capture", str(client), "--secrets")
        mounted = box.mount(source, *options)
        (box.mountpoint / "file").write_bytes(MARK)
        assert mounted.rekey() == 1
        assert (box.mountpoint / "file").read_bytes() == MARK
        refused = told(box, "capture", str(later), mounted.name)
        box.unmount()
        # A second mount, of which a capture begins in the middle.
        plain = box.mount(source, *options[:4])
        meanwhile(box, later, plain)
        box.unmount()
        (first, *_) = host.stat()["connections"]
        box.stop_server()
        said = box.server_log.read_text()
    return Captured(client, server, later, refused, first, said)


def told(box: Sandbox, *arguments: str) -> str:
    with pytest.raises(WorldError) as caught:
        box.command(arguments, 40)
    return str(caught.value)


def meanwhile(box: Sandbox, path: Path, host: Host) -> None:
    """`umktls capture`, ended by Ctrl-C."""
    with in_foreground(box, "capture", "--secrets", path, host.name) as (process, line):
        assert line == f"capturing {host.name} into {path}; 1 connections are there already\n"
        assert (box.mountpoint / "file").read_bytes() == MARK
        process.send_signal(signal.SIGINT)
        assert process.wait(patience(30)) == 0


@dataclass(frozen=True)
class Packet:
    """What tshark shows of one."""

    interface: str
    comment: str
    kinds: list[int]  # of RPC messages
    programs: list[int]
    procedures: list[int]
    handshake: list[int]
    happened: str
    name: str
    text: str
    what: str

    @classmethod
    def of(cls, row: list[str]) -> Packet:
        kinds, programs, procedures, handshake = (
            [int(word) for word in cell.split(",") if word] for cell in row[2:6]
        )
        return cls(row[0], row[1], kinds, programs, procedures, handshake, *row[6:])


@pytest.fixture(scope="module")
def client(captured: Captured) -> list[Packet]:
    return [Packet.of(row) for row in fields(captured.client, "frame", *NAMES)]


def on(packets: list[Packet], interface: str) -> list[Packet]:
    return [packet for packet in packets if packet.interface == interface]


def test_nothing_is_malformed(captured: Captured) -> None:
    shown = f"{WRONG} || tcp.analysis.flags"
    for path in (captured.client, captured.server, captured.later):
        assert fields(path, shown, "frame.number", "frame.protocols") == []


def test_the_calls_are_those_that_the_server_has_counted(
    client: list[Packet], captured: Captured
) -> None:
    messages = on(client, "rpc")
    calls = [packet for packet in messages if packet.kinds[0] == 0]
    replies = [packet for packet in messages if packet.kinds[0] == 1]
    counted = captured.counted["rpc"]
    assert (len(calls), len(replies)) == (counted["calls"], counted["replies"])
    assert calls[0].procedures == [0]  # the probe
    assert {call.programs[0] for call in calls} == {MOUNT, NFS}
    assert any((call.programs[0], call.procedures[0]) == (NFS, WRITE) for call in calls)


def test_the_secrets_open_the_handshake_and_all_behind_it(client: list[Packet]) -> None:
    found = [kind for packet in on(client, "tcp") for kind in packet.handshake]
    assert found[:2] == [CLIENT_HELLO, SERVER_HELLO]
    assert found.count(CERTIFICATE) == found.count(FINISHED) == 2
    assert found.count(TICKET) == 2
    assert found[-2:] == [KEY_UPDATE, KEY_UPDATE]


def test_what_has_happened_stands_on_the_packets(client: list[Packet]) -> None:
    comments = " ".join(packet.comment for packet in on(client, "tcp"))
    for text in (
        "upcall CONNECT to rpctlscd",
        "TX keys set: TLS_AES_",
        "RX keys set: TLS_AES_",
        "connection closed: the mount ended",
    ):
        assert text in comments


def test_what_the_host_has_done_is_there(client: list[Packet]) -> None:
    happened = [packet for packet in on(client, "host") if packet.happened]
    names = {(packet.happened, packet.name) for packet in happened}
    assert {("upcall", "upcall"), ("upcall", "upcall-answered"), ("event", "probe")} <= names
    options = [packet.what for packet in happened if packet.name == "setsockopt"]
    assert any(text.startswith("TCP_TXTLS_ENABLE") for text in options)
    assert not any("CAPTURED" in text for text in options)


def test_the_files_are_for_their_user_alone(captured: Captured) -> None:
    for path in (captured.client, captured.server, captured.later):
        assert path.stat().st_mode & 0o777 == 0o600


def test_without_the_secrets_nothing_is_clear(captured: Captured) -> None:
    sealed, opened = captured.server.read_bytes(), captured.client.read_bytes()
    assert MARK[:1000] in opened
    assert b"CLIENT_TRAFFIC_SECRET_0" in opened
    assert MARK[:40] not in sealed
    assert b"TRAFFIC_SECRET" not in sealed


def test_both_sides_have_seen_the_same_bytes(captured: Captured) -> None:
    """Of the first connection, whose ports both have: what one has sent, the other one has got,
    but for the server's last word, which nobody reads any more."""
    mine, theirs = streams(captured.client), streams(captured.server)
    assert len(mine) == 2
    for ends, data in mine.items():
        assert theirs[ends].startswith(data)
        assert len(theirs[ends]) - len(data) in (0, ALERT_BYTES)


def test_a_capture_that_begins_late_says_so(captured: Captured) -> None:
    shown = fields(captured.later, "tcp", "frame.comment")
    assert re.search(r"the capture begins here", " ".join(row[0] for row in shown))
    calls = fields(captured.later, f"nfs.procedure_v3 == {READ} && rpc.msgtyp == 0", "frame.number")
    assert calls


def test_there_is_one_capture_of_a_host(captured: Captured) -> None:
    assert re.search(r"is captured already, into .*client\.pcapng", captured.refused)
