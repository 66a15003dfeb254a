"""FreeBSD's own test program, tests/sys/kern/ktls_test.c: its cases, on its suites.

The names of the rows are the cases'. A case that is for some suites only has those as variants.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace

from tests.conformance.reference import padded, records_of, reference_cbc_record, reference_open
from tests.conformance.rows import FREEBSD, OURS, Check, row
from tests.conformance.world import VERSION_NAMES, Peer, World, errno_of, flipped, keys
from umktls.abi.freebsd import TlsGetRecord
from umktls.ktls.session import Session
from umktls.ktls.session.framing import framing_of
from umktls.ktls.session.suites import ALL_SUITES, TLS_1_0, TLS_1_1, TLS_1_2, TLS_1_3, Suite

TX = "FreeBSD: ktls_test.c, transmit"
RX = "FreeBSD: ktls_test.c, receive"
OTHER = "FreeBSD: ktls_test.c, other"
START = 0x1234_5678_9ABC
RX_CBC = ("freebsd14", "freebsd15", "umktls")  # the kernels that receive it
KERNELS = (*FREEBSD, *OURS)


class Variant:
    """A suite and a version, as ktls_test.c names them."""

    def __init__(self, suite: Suite, version: int) -> None:
        self.suite, self.version = suite, version
        name = suite.name.removeprefix("TLS_").lower().split("_sha")[0]
        mac = f"_{suite.mac}" if suite.mac else ""
        words = name.replace("aes_", "aes")
        self.name = f"{words}_{VERSION_NAMES[version]}{mac}"

    def __repr__(self) -> str:
        return self.name

    def session(self) -> Session:
        return keys(self.suite, self.version, START)


def variants(*names: str) -> list[Variant]:
    return [Variant(ALL_SUITES[name], v) for name in names for v in ALL_SUITES[name].versions]


GCM_12 = variants("AES_128_GCM_SHA256", "AES_256_GCM_SHA384")
CHACHA_12 = variants("CHACHA20_POLY1305_SHA256")
TLS13 = variants("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
CBC = variants(*(f"AES_{n}_CBC_{mac}" for n in (128, 256) for mac in ("SHA", "SHA256", "SHA384")))
CBC_10 = [v for v in CBC if v.version == TLS_1_0]
CBC_EXPLICIT = [v for v in CBC if v.version != TLS_1_0]
AEAD = GCM_12 + CHACHA_12
ALL = AEAD + TLS13 + CBC
# 13.0 does not receive TLS 1.3, nor any 13 CBC: the cases are there for what a kernel has.
RECEIVE = {
    "AEADs of TLS 1.2": (KERNELS, AEAD),
    "TLS 1.3": (("freebsd13", *RX_CBC), TLS13),
    "CBC": (RX_CBC, CBC_EXPLICIT),
}


def opened(session: Session, wire: bytes) -> list[tuple[int, bytes]]:
    """Every record of `wire`. TLS 1.0's IV is the last block of the record before."""
    found = []
    for number, record in enumerate(records_of(wire)):
        found.append(reference_open(session, record, START + number))
        if session.version == TLS_1_0:
            session = replace(session, iv=record[-16:])
    return found


def transmitting(w: World, v: Variant) -> Session:
    session = v.session()
    w.freebsd_enable("tx", session)
    return session


@row(TX, "short: 64 bytes are one record of type 23", KERNELS, ALL)
def short(w: World, v: Variant) -> None:
    session = transmitting(w, v)
    data = os.urandom(64)
    assert opened(session, w.send(data)) == [(23, data)]


@row(TX, "long: 64 KiB are several records, each of at most 16384 bytes, in order", KERNELS, ALL)
def long(w: World, v: Variant) -> None:
    session = transmitting(w, v)
    data = os.urandom(65536)
    wire = w.send(data)
    assert len(records_of(wire)) == 4
    found = opened(session, wire)
    assert {kind for kind, _ in found} == {23}
    assert [len(payload) for _, payload in found] == [16384] * 4
    assert b"".join(payload for _, payload in found) == data


@row(TX, "control: a control message's type, 0x21, is the record's", KERNELS, ALL)
def control(w: World, v: Variant) -> None:
    session = transmitting(w, v)
    data = os.urandom(32)
    wire = w.send(data, 0x21)
    assert opened(session, wire) == [(0x21, data)]
    assert wire[0] == (23 if v.version == TLS_1_3 else 0x21)


@row(TX, "padding_1 to padding_16: each length of padding that there can be", KERNELS, CBC)
def padding(w: World, v: Variant) -> None:
    for wanted in range(1, 17):
        world = World(w.personality.name)
        session = transmitting(world, v)
        data = os.urandom(64 + (-wanted - session.suite.tag_length) % 16)
        (record,) = records_of(world.send(data))
        assert reference_open(session, record, START) == (23, data)
        explicit = session.suite.explicit(v.version)
        assert len(record) == 5 + explicit + len(data) + session.suite.tag_length + wanted


@row(TX, "empty_fragment: an empty write is an empty record under TLS 1.0", FREEBSD, CBC_10)
def empty_fragment(w: World, v: Variant) -> None:
    session = transmitting(w, v)
    sent = w.socket.send(b"")
    assert sent.count == 0
    assert opened(session, b"".join(map(bytes, sent.wire))) == [(23, b"")]


@row(TX, "empty_fragment: EINVAL with every other suite", FREEBSD, AEAD + TLS13 + CBC_EXPLICIT)
def no_empty_fragment(w: World, v: Variant) -> None:
    transmitting(w, v)
    assert errno_of(w.send, b"") == errno.EINVAL


INVALID = (
    ("AES_128_CBC_SHA256", TLS_1_0),
    ("AES_128_CBC_SHA384", TLS_1_0),
    ("AES_128_GCM_SHA256", TLS_1_0),
    ("CHACHA20_POLY1305_SHA256", TLS_1_0),
    ("AES_128_CBC_SHA256", TLS_1_1),
    ("AES_128_CBC_SHA384", TLS_1_1),
    ("AES_128_GCM_SHA256", TLS_1_1),
    ("CHACHA20_POLY1305_SHA256", TLS_1_1),
    ("AES_128_CBC_SHA", TLS_1_3),
    ("AES_128_CBC_SHA256", TLS_1_3),
    ("AES_128_CBC_SHA384", TLS_1_3),
)


@row(TX, "Invalid suites: EINVAL", KERNELS, INVALID)
def invalid_tx(w: World, v: tuple[str, int]) -> None:
    session = keys(ALL_SUITES[v[0]])
    assert errno_of(w.freebsd_enable, "tx", session, tls_vminor=v[1] & 0xFF) == errno.EINVAL


@row(RX, "Invalid suites: EINVAL", KERNELS, INVALID)
def invalid_rx(w: World, v: tuple[str, int]) -> None:
    session = keys(ALL_SUITES[v[0]])
    assert errno_of(w.freebsd_enable, "rx", session, tls_vminor=v[1] & 0xFF) == errno.EINVAL


@row(RX, "Unsupported: TLS 1.0 with CBC: EPROTONOSUPPORT", KERNELS, CBC_10)
def unsupported(w: World, v: Variant) -> None:
    assert errno_of(w.freebsd_enable, "rx", v.session()) == errno.EPROTONOSUPPORT


def receiving(w: World, v: Variant) -> Peer:
    session = v.session()
    w.freebsd_enable("rx", session)
    return w.peer(session)


def outcome(w: World) -> int:
    """The errno of reading once."""
    return errno_of(w.recv)


def in_families(statement: str) -> Callable[[Check], Check]:
    """A row for each family of suites that kernels receive."""

    def register(check: Check) -> Check:
        for family, (kernels, suites) in RECEIVE.items():
            row(RX, f"{statement} ({family})", kernels, suites)(check)
        return check

    return register


@in_families("short and long: payload, MSG_EOR, type, version 3.x, length")
def received(w: World, v: Variant) -> None:
    peer = receiving(w, v)
    for size in (64, 65536):
        data = os.urandom(size)
        w.arrive(peer.seal(data))
        got = b""
        while len(got) < size:
            piece, ancillary, flags = w.socket.recvmsg(65536, 24, w.abi.dontwait)
            (message,) = w.abi.layout.parse_untrusted(ancillary)
            record = TlsGetRecord.unpack_untrusted(message.data)
            minor = min(v.version & 0xFF, 3)
            assert record == TlsGetRecord(23, 3, minor, len(piece))
            assert flags == w.abi.eor
            got += piece
        assert got == data


@in_families("bad_data: a flipped byte of ciphertext: EBADMSG")
def bad_data(w: World, v: Variant) -> None:
    peer = receiving(w, v)
    w.arrive(flipped(peer.seal(os.urandom(64)), 5 + v.suite.explicit(v.version)))
    assert outcome(w) == errno.EBADMSG


@in_families("bad_mac: a flipped byte of the tag or MAC: EBADMSG")
def bad_mac(w: World, v: Variant) -> None:
    peer = receiving(w, v)
    w.arrive(flipped(peer.seal(os.urandom(64)), -1))
    assert outcome(w) == errno.EBADMSG


@in_families("truncated_record: half a record, then the end: EMSGSIZE")
def truncated_record(w: World, v: Variant) -> None:
    record = receiving(w, v).seal(os.urandom(64))
    w.arrive(record[: len(record) // 2])
    w.fin()
    assert outcome(w) == errno.EMSGSIZE


@in_families("bad_major, bad_minor: EINVAL")
def bad_version(w: World, v: Variant) -> None:
    for index in (1, 2):
        world = World(w.personality.name)
        peer = receiving(world, v)
        world.arrive(flipped(peer.seal(os.urandom(64)), index))
        assert outcome(world) == errno.EINVAL


@in_families("small_record: one byte below the least: EMSGSIZE")
def small_record(w: World, v: Variant) -> None:
    receiving(w, v)
    length = framing_of(v.session()).least - 1
    minor = min(v.version & 0xFF, 3)
    w.arrive(bytes([23, 3, minor]) + length.to_bytes(2, "big") + os.urandom(length))
    assert outcome(w) == errno.EMSGSIZE


@in_families("oversized_record: a length field of 32768: EMSGSIZE")
def oversized_record(w: World, v: Variant) -> None:
    receiving(w, v)
    w.arrive(bytes([23, 3, min(v.version & 0xFF, 3), 0x80, 0]) + bytes(32768))
    assert outcome(w) == errno.EMSGSIZE


@row(
    RX,
    "padding_1 to padding_16, padding_16_extra, padding_32_extra: received",
    RX_CBC,
    CBC_EXPLICIT,
)
def rx_padding(w: World, v: Variant) -> None:
    session = v.session()
    w.freebsd_enable("rx", session)
    sequence = START
    for wanted in range(16):
        for extra in (0, 16, 32):
            data = os.urandom(64 + (-wanted - 1 - session.suite.tag_length) % 16)
            w.arrive(reference_cbc_record(session, data, wanted + extra, sequence))
            assert w.recv() == (data, 23, w.abi.eor)
            sequence += 1


@row(RX, "bad_padding: EBADMSG", RX_CBC, CBC_EXPLICIT)
def bad_padding(w: World, v: Variant) -> None:
    session = v.session()
    w.freebsd_enable("rx", session)
    data = os.urandom(64 + (-16 - session.suite.tag_length) % 16)
    record = reference_cbc_record(session, data, 15, START)
    # The block before the last is XORed into the padding: its last byte but one is a padding byte.
    w.arrive(flipped(record, len(record) - 16 - 2))
    assert outcome(w) == errno.EBADMSG


@row(RX, "non_block_size: a length that is no multiple of 16: EMSGSIZE", RX_CBC, CBC_EXPLICIT)
def non_block_size(w: World, v: Variant) -> None:
    record = receiving(w, v).seal(os.urandom(64))
    length = len(record) - 5 + 1
    w.arrive(record[:3] + length.to_bytes(2, "big") + record[5:] + b"\0")
    assert outcome(w) == errno.EMSGSIZE


@row(RX, "bad_iv: a flipped byte of the explicit nonce: EBADMSG (GCM)", KERNELS, GCM_12)
def bad_nonce(w: World, v: Variant) -> None:
    w.arrive(flipped(receiving(w, v).seal(os.urandom(64)), 5))
    assert outcome(w) == errno.EBADMSG


@row(RX, "bad_iv: a flipped byte of the explicit IV: EBADMSG (CBC)", RX_CBC, CBC_EXPLICIT)
def bad_iv(w: World, v: Variant) -> None:
    w.arrive(flipped(receiving(w, v).seal(os.urandom(64)), 5))
    assert outcome(w) == errno.EBADMSG


def _short_header(w: World, v: Variant) -> None:
    receiving(w, v)
    w.arrive(bytes([23, 3, min(v.version & 0xFF, 3), 0, 1, 0]))
    w.fin()
    assert outcome(w) == errno.EMSGSIZE


@row(RX, "short_header: a record of 6 bytes in all: EMSGSIZE (GCM)", KERNELS, GCM_12)
def short_header_gcm(w: World, v: Variant) -> None:
    _short_header(w, v)


@row(RX, "short_header: a record of 6 bytes in all: EMSGSIZE (CBC)", RX_CBC, CBC_EXPLICIT)
def short_header_cbc(w: World, v: Variant) -> None:
    _short_header(w, v)


@row(RX, "short_padded, long_padded: padding of TLS 1.3 is removed", RECEIVE["TLS 1.3"][0], TLS13)
def removed_padding(w: World, v: Variant) -> None:
    session = v.session()
    w.freebsd_enable("rx", session)
    w.arrive(padded(session, b"x" * 64, 16, START))
    assert w.recv() == (b"x" * 64, 23, w.abi.eor)
    for index in range(1, 5):
        w.arrive(padded(session, b"y" * 16369, 15, START + index))
        assert w.recv() == (b"y" * 16369, 23, w.abi.eor)


@row(RX, "bad_type: an outer type of 24: EINVAL", RECEIVE["TLS 1.3"][0], TLS13)
def bad_type(w: World, v: Variant) -> None:
    record = receiving(w, v).seal(os.urandom(64))
    w.arrive(bytes([24]) + record[1:])
    assert outcome(w) == errno.EINVAL


@row(OTHER, "ktls_sendto_baddst: sendto a broadcast address: EACCES", KERNELS)
def sendto_baddst(w: World) -> None:
    w.socket.conditions.connected = False
    w.freebsd_enable("tx", keys())
    assert errno_of(w.socket.send, b"data", broadcast=True) == errno.EACCES


assert {v.version for v in ALL} == {TLS_1_0, TLS_1_1, TLS_1_2, TLS_1_3}
