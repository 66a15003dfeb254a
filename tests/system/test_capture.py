"""What somebody sees who listens: tshark captures the traffic of a mount, and reads it.

Without the keys: the probe and the answer to it in clear, then TLS 1.3 with ALPN sunrpc, and not
one byte of what was written and read, nor a name. With the keys: the RPC messages.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import patience
from tests.system.conftest import tool
from tests.system.live import needs_fuse, until
from umktls.certs import layout
from umktls.cli.sandbox import Sandbox
from umktls.rpc.message import AuthFlavor, Call, parse_untrusted
from umktls.rpc.record import RecordReader

pytestmark = pytest.mark.long

# Nothing else on this machine contains these. Each is many times in its file, so that some copies
# lie in one record whole.
WRITTEN = b"the marker 6a2f00c4, written where nobody may see it; "
LATER = b"the marker 9d51e07b, written under the next keys; "
READ = b"the marker 1c88fb32, only ever read; "
COPIES = 4000
NAME = "a-name-71b3e9d5-that-nobody-may-read"
SECRETS = (WRITTEN[:16], LATER[:16], READ[:16], NAME.encode())
PROBE_LENGTH, ANSWER_LENGTH = 44, 36
CONTENT_TYPES = {20, 22, 23}  # RFC 8446 section 5.1; alerts are encrypted by the time they come
KEY_UPDATE = 24
PACKETS_SECONDS = 30


@dataclass(frozen=True)
class Capture:
    """The packets of one mount's life, the keys to them, and what stands for the export's name."""

    packets: Path
    keylog: Path
    port: int
    place: bytes

    def tshark(self, *arguments: str, protocol: str = "tls", keys: bool = False) -> str:
        """tshark on the packets, taking the port's traffic for `protocol`."""
        how = ["-d", f"tcp.port=={self.port},{protocol}"]
        if keys:
            how += ["-o", f"tls.keylog_file:{self.keylog}"]
        with tempfile.TemporaryFile("w+") as output:
            subprocess.run(
                [tool("tshark"), "-n", "-r", self.packets, *how, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.DEVNULL,
                timeout=patience(50),
                check=True,
            )
            output.seek(0)
            return output.read()

    def fields(
        self, shown: str, *names: str, protocol: str = "tls", keys: bool = False
    ) -> list[list[str]]:
        """The fields of the packets that the display filter `shown` lets through."""
        asked = [word for name in names for word in ("-e", name)]
        said = self.tshark("-Y", shown, "-T", "fields", *asked, protocol=protocol, keys=keys)
        return [line.split("\t") for line in said.splitlines()]

    def stream(self, protocol: str, keys: bool = False) -> tuple[bytes, bytes]:
        """The bytes of the first connection, from the client and from the server."""
        text = self.tshark("-q", "-z", f"follow,{protocol},raw,0", keys=keys)
        lines = re.findall(r"^(\t?)([0-9a-f]+)$", text, re.MULTILINE)
        first, second = (
            b"".join(bytes.fromhex(data) for tab, data in lines if tab == mark)
            for mark in ("", "\t")
        )
        # The tab marks the second node, which is the server for TCP, and the client for TLS.
        return (first, second) if protocol == "tcp" else (second, first)


@contextmanager
def capturing(packets: Path, port: int) -> Iterator[None]:
    """tshark captures the loopback traffic of a port: all of it that passes inside the block."""
    process = subprocess.Popen(
        [tool("tshark"), "-n", "-q", "-B", "32", "-i", "lo", "-w", packets, "-f", f"port {port}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for_capture(process)
        knock(packets, port, b"the capture begins")
        yield
        knock(packets, port, b"the capture ends")
        process.send_signal(signal.SIGINT)
        process.wait(patience(PACKETS_SECONDS))
    finally:
        process.kill()
        process.communicate(timeout=patience(10))


def wait_for_capture(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    said: list[str] = []
    watch = threading.Timer(patience(PACKETS_SECONDS), process.kill)
    watch.start()
    try:
        for line in process.stderr:
            said.append(line)
            if "Capturing on" in line:
                return
    finally:
        watch.cancel()
    pytest.fail(f"tshark captures nothing: {''.join(said)}")


def knock(packets: Path, port: int, word: bytes) -> None:
    """Wait until the capture has come to now: a datagram to the same port has been written down."""

    def seen() -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(word, ("127.0.0.1", port))
        return packets.exists() and word in packets.read_bytes()

    until(seen, f"tshark writes down {word!r}", PACKETS_SECONDS)


def captured(box: Sandbox, mount: Sequence[str], serve: Sequence[str]) -> Capture:
    """Capture the life of a mount on which files are written and read, under three sets of keys."""
    needs_fuse()
    if os.geteuid() != 0:
        pytest.skip("only root may capture packets")
    server, _ = box.serve("--certs", str(box.certs), *serve)
    port = int(server.facts["port"])
    (box.export / "for reading").write_bytes(READ * COPIES)
    with capturing(box.top / "packets.pcapng", port):
        source = f"127.0.0.1:{port}:{box.export}"
        client = box.mount(source, "--certs", str(box.certs), *mount)
        (box.mountpoint / NAME).write_bytes(WRITTEN * COPIES)
        rekeyed = [client.rekey()]
        (box.mountpoint / "later").write_bytes(LATER * COPIES)
        rekeyed.append(server.rekey())
        assert (box.mountpoint / "for reading").read_bytes() == READ * COPIES
        box.unmount()
    assert rekeyed == ([0, 0] if "notls" in mount else [1, 1])
    return Capture(box.top / "packets.pcapng", box.top / "keys", port, box.top.name.encode())


@pytest.fixture(scope="module")
def capture() -> Iterator[Capture]:
    """Of a mount by mutual TLS."""
    with Sandbox("capture") as box:
        layout.create(box.certs)
        options = ("-o", "mtls", "--keylog", str(box.top / "keys"))
        yield captured(box, options, ("--keylog", str(box.top / "server-keys")))


# ---- without the keys


def test_the_probe_and_its_answer_are_clear(capture: Capture) -> None:
    probe, answer = capture.fields(
        "rpc", "rpc.msgtyp", "rpc.auth.flavor", "rpc.procedure", "tcp.payload", protocol="rpc"
    )[:2]
    assert probe[:3] == ["0", "7,0", "0"]  # a call with AUTH_TLS, its verifier AUTH_NONE
    assert answer[:2] == ["1", "0"]
    assert b"STARTTLS" in bytes.fromhex(answer[3])
    assert len(capture.fields("rpc.auth.flavor==7", "frame.number", protocol="rpc")) == 1


def test_then_comes_tls_1_3_for_sunrpc(capture: Capture) -> None:
    hello, answer = capture.fields(
        "tls.handshake.type",
        "tls.handshake.type",
        "tls.handshake.extensions_alpn_str",
        "tls.handshake.extensions.supported_version",
    )
    assert hello == ["1", "sunrpc", "0x0304"]
    assert answer == ["2", "", "0x0304"]


def record_types(data: bytes) -> list[int]:
    """The content types of the TLS records that `data` consists of (RFC 8446 section 5.1)."""
    types, position = [], 0
    while position < len(data):
        header = data[position : position + 5]
        assert header[0] in CONTENT_TYPES
        assert header[1:3] in (b"\x03\x03", b"\x03\x01")
        types.append(header[0])
        position += 5 + int.from_bytes(header[3:], "big")
    assert position == len(data)
    return types


def test_nothing_but_the_probe_is_clear(capture: Capture) -> None:
    """Every other byte is in a TLS record, and all records but the two hellos are encrypted."""
    from_client, from_server = capture.stream("tcp")
    assert isinstance(parse_untrusted(from_client[4:PROBE_LENGTH]), Call)
    assert from_server[:ANSWER_LENGTH].endswith(b"\0\0\0\x08STARTTLS\0\0\0\0")
    for data in (from_client[PROBE_LENGTH:], from_server[ANSWER_LENGTH:]):
        types = record_types(data)
        assert types[0] == 22
        assert types.count(22) == 1
        assert len(types) > 20


def test_no_byte_of_the_files_is_clear(capture: Capture) -> None:
    packets = capture.packets.read_bytes()
    assert len(packets) > COPIES * len(WRITTEN + LATER + READ)
    for secret in (*SECRETS, capture.place, b"umktls client"):
        assert secret not in packets


# ---- with the keys


def messages(stream: bytes) -> list[bytes]:
    reader = RecordReader(1 << 22)
    reader.feed(stream)
    return [bytes(message) for message in reader.messages()]


def test_the_keys_open_it(capture: Capture) -> None:
    from_client, from_server = capture.stream("tls", keys=True)
    for secret in (WRITTEN * 10, LATER * 10, NAME.encode(), capture.place):
        assert secret in from_client
    assert READ * 10 in from_server
    calls = [parse_untrusted(message) for message in messages(from_client)]
    replies = [parse_untrusted(message) for message in messages(from_server)]
    assert {call.xid for call in calls} == {reply.xid for reply in replies}
    flavors = {call.credential.flavor for call in calls if isinstance(call, Call)}
    assert flavors == {AuthFlavor.AUTH_SYS}
    assert len(calls) > 10


def test_the_key_updates_are_there(capture: Capture) -> None:
    updates = capture.fields(
        f"tls.handshake.type=={KEY_UPDATE}", "tcp.dstport", "tls.handshake.type", keys=True
    )
    assert {row[0] == str(capture.port) for row in updates} == {True, False}


def test_both_sides_log_the_same_keys(capture: Capture) -> None:
    ours = capture.keylog.read_text().splitlines()
    assert set(ours) == set(capture.keylog.with_name("server-keys").read_text().splitlines())
    labels = {line.split()[0] for line in ours if not line.startswith("#")}
    assert {"CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"} <= labels
    assert capture.keylog.stat().st_mode & 0o077 == 0


# ---- and without TLS


def test_this_would_have_seen_clear_text() -> None:
    """The same search, where there is something to be found."""
    with Sandbox("clear") as box:
        layout.create(box.certs)
        capture = captured(box, ("-o", "notls"), ("--no-tls",))
        packets = capture.packets.read_bytes()
        for secret in (*SECRETS, capture.place):
            assert secret in packets
