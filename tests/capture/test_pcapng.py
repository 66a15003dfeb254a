"""Another implementation reads the blocks that we write: tshark shows each field of them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.capture.wireshark import check_sound, fields, tshark
from umktls.capture import pcapng
from umktls.capture.packets import Flags, endpoint, tcp_packet
from umktls.capture.pdus import MESSAGE_LIMIT, host_pdu, rpc_pdu
from umktls.nfs.program import NFS3
from umktls.nfs.types import GETATTR3args, WRITE3args, stable_how
from umktls.rpc.message import NULL_AUTH, encode_call

CLIENT, SERVER = endpoint("192.0.2.1", 700), endpoint("192.0.2.2", 2049)
SIX, OTHER_SIX = endpoint("2001:db8::1", 700), endpoint("2001:db8::2", 2049)
WHEN = 1_700_000_000.000007
TCP, RPC, HOST = range(3)


def call(name: str, args: object) -> bytes:
    procedure = NFS3[name]
    head = encode_call(77, procedure.program, procedure.version, procedure.number, NULL_AUTH)
    return b"".join([head, *procedure.encode_args(args)])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One packet of each kind."""
    path = tmp_path_factory.mktemp("pcapng") / "all.pcapng"
    syn = tcp_packet(CLIENT, SERVER, 0, 0, Flags.SYN)
    six = tcp_packet(SIX, OTHER_SIX, 1, 1, Flags.ACK, b"odd")
    long = rpc_pdu(
        CLIENT, SERVER, call("WRITE", WRITE3args(b"fh", 0, 99, stable_how.UNSTABLE, bytes(99)))
    )
    fields = {"kind": "upcall", "name": "CONNECT", "pid": 7, "seconds": 0.25, "text": "a\nb ü"}
    path.write_bytes(
        b"".join(
            [
                pcapng.section("umktls", ["the head", "and more"]),
                pcapng.interface(pcapng.LinkType.RAW, "tcp", "packets"),
                pcapng.interface(pcapng.LinkType.UPPER_PDU, "rpc", "messages"),
                pcapng.interface(pcapng.LinkType.UPPER_PDU, "host", "happenings"),
                pcapng.packet(TCP, WHEN, syn, None, ["first", "second"], pcapng.Direction.OUTBOUND),
                pcapng.packet(TCP, WHEN + 1, six, None, (), pcapng.Direction.INBOUND),
                pcapng.packet(
                    RPC, WHEN, rpc_pdu(CLIENT, SERVER, call("GETATTR", GETATTR3args(b"fh")))
                ),
                pcapng.packet(
                    RPC, WHEN, rpc_pdu(SIX, OTHER_SIX, call("GETATTR", GETATTR3args(b"fh")))
                ),
                pcapng.packet(RPC, WHEN, long[:-40], len(long)),
                pcapng.packet(HOST, WHEN, host_pdu(CLIENT, SERVER, fields)),
                pcapng.packet(HOST, WHEN, host_pdu(None, None, {"kind": "event", "odd": 1})),
                pcapng.statistics(TCP, WHEN, WHEN + 2, 5, 3, ["three were lost"]),
            ]
        )
    )
    return path


def test_nothing_is_malformed(path: Path) -> None:
    check_sound(path)
    assert len(tshark(path).splitlines()) == 7


def test_packets_have_time_interface_direction_and_comments(path: Path) -> None:
    names = ("frame.time_epoch", "frame.interface_name", "frame.packet_flags_direction")
    first, second = fields(path, "tcp", *names, "frame.comment")
    assert first == ["1700000000.000007000", "tcp", "0x00000002", "first,second"]
    assert second == ["1700000001.000007000", "tcp", "0x00000001", ""]


def test_segments_have_the_sockets_addresses(path: Path) -> None:
    (first,) = fields(path, "tcp && ip", "ip.src", "ip.dst", "tcp.srcport", "tcp.dstport")
    assert first == ["192.0.2.1", "192.0.2.2", "700", "2049"]
    assert fields(path, "tcp && ipv6", "ipv6.src", "tcp.len") == [["2001:db8::1", "3"]]


def test_messages_are_nfs(path: Path) -> None:
    shown = fields(path, "nfs", "nfs.procedure_v3", "rpc.xid", "frame.len", "frame.cap_len")
    assert [row[:2] for row in shown] == [["1", "0x0000004d"]] * 2 + [["7", "0x0000004d"]]
    assert int(shown[2][2]) - int(shown[2][3]) == 40


def test_happenings_are_shown_by_the_dissector_of_the_package(path: Path) -> None:
    names = ("umktls.kind", "umktls.name", "umktls.pid", "umktls.seconds", "umktls.text")
    assert fields(path, "umktls.pid == 7", *names) == [["upcall", "CONNECT", "7", "0.25", "a b ü"]]
    assert "a b ü" in tshark(path, "-Y", "umktls.pid == 7")
    assert "odd: 1" in tshark(path, "-Y", "umktls.kind == event", "-V")


def test_happenings_can_be_read_without_it(path: Path) -> None:
    text = tshark(path, "-x", "-Y", "frame.interface_name == host", lua=False)
    assert "kind: event" in text


def test_the_heads_comments_and_the_losses_are_there(path: Path) -> None:
    data = path.read_bytes()
    assert b"the head" in data
    assert b"three were lost" in data
    assert struct.pack("<HHQ", 5, 8, 3) in data  # isb_ifdrop


def test_a_file_for_readers_that_go_backwards(path: Path) -> None:
    """The length of each block stands at its end too."""
    data = path.read_bytes()
    position, kinds = 0, []
    while position < len(data):
        kind, length = struct.unpack_from("<II", data, position)
        assert struct.unpack_from("<I", data, position + length - 4) == (length,)
        kinds.append(kind)
        position += length
    assert kinds == [0x0A0D0D0A, 1, 1, 1, *[6] * 7, 5]


def test_messages_are_cut_below_what_wireshark_reads() -> None:
    assert MESSAGE_LIMIT + 200 < pcapng.SNAPLEN


def test_options_longer_than_their_length_are_cut() -> None:
    block = pcapng.section("x", ["y" * 70000])
    assert len(block) < 66000
