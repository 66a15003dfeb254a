"""Linux: TCP_ULP and the options of level SOL_TLS."""

from __future__ import annotations

import errno
import struct
from dataclasses import replace

from tests.conformance.rows import LINUX, NEWEST_LINUX, OURS, not_here, row
from tests.conformance.world import (
    AES128,
    AES128_12,
    DATA,
    ENGINE,
    TLS,
    World,
    crypto_info,
    errno_of,
    keys,
)
from umktls.abi import linux
from umktls.abi.linux import CRYPTO_INFO_LAYOUTS, CryptoInfo
from umktls.ktls.calls import KtlsSocket
from umktls.ktls.engines.software import SoftwareEngine
from umktls.ktls.session import Direction, Session
from umktls.ktls.session.suites import ALL_SUITES, suite_of_cipher_type

ULP = "Linux: TCP_ULP"
OPTIONS = "Linux: options of level SOL_TLS"
CRYPTO = "Linux: crypto_info"
KERNELS = (*LINUX, *OURS)
NEWEST = (*NEWEST_LINUX, *OURS)
OLDER = tuple(name for name in LINUX if name not in NEWEST_LINUX)
BOTH: tuple[Direction, ...] = ("tx", "rx")
ZEROCOPY, NO_PAD = linux.TLS_TX_ZEROCOPY_RO, linux.TLS_RX_EXPECT_NO_PAD
MAX_PAYLOAD = linux.TLS_TX_MAX_PAYLOAD_LEN
LAYOUTS = tuple(CRYPTO_INFO_LAYOUTS)


def integer(value: int) -> bytes:
    return struct.pack("<I", value)


@row(ULP, "An unknown name: ENOENT; none at all: EINVAL; a second one: EEXIST", KERNELS)
def ulp(w: World) -> None:
    assert errno_of(w.ulp, b"nobody\0") == errno.ENOENT
    assert errno_of(w.ulp, b"") == errno.EINVAL
    w.ulp(b"tls")
    assert errno_of(w.ulp) == errno.EEXIST
    assert errno_of(w.ulp, b"smc\0") == errno.ENOENT


@row(ULP, "Any state but ESTABLISHED (LISTEN, CLOSE_WAIT, after a reset): ENOTCONN", KERNELS)
def ulp_state(w: World) -> None:
    states = {"connected": False, "established": False, "listening": True, "dropped": True}
    for name, value in states.items():
        other = World(w.personality.name)
        setattr(other.socket.conditions, name, value)
        assert errno_of(other.ulp) == errno.ENOTCONN
    w.socket.connection_lost()
    assert errno_of(w.ulp) == errno.ENOTCONN


@row(ULP, "Got: nothing without one, else at most 16 bytes of the name", KERNELS)
def get_ulp(w: World) -> None:
    assert w.socket.getsockopt(linux.SOL_TCP, linux.TCP_ULP, 16) == b""
    w.ulp()
    assert w.socket.getsockopt(linux.SOL_TCP, linux.TCP_ULP, 100) == b"tls".ljust(16, b"\0")
    assert w.socket.getsockopt(linux.SOL_TCP, linux.TCP_ULP, 4) == b"tls\0"


@row(ULP, "Without it there is no level SOL_TLS: set, ENOPROTOOPT; got, EOPNOTSUPP", LINUX)
def without_ulp(w: World) -> None:
    for number in range(7):
        assert errno_of(w.set_tls, number, crypto_info(keys()).pack()) == errno.ENOPROTOOPT
        assert errno_of(w.get_tls, number, 40) == errno.EOPNOTSUPP


@row(ULP, "Without it every option of level SOL_TLS is ENOPROTOOPT, set and got", OURS)
def without_ulp_here(w: World) -> None:
    for number in range(7):
        assert errno_of(w.set_tls, number, crypto_info(keys()).pack()) == errno.ENOPROTOOPT
        assert errno_of(w.get_tls, number, 40) == errno.ENOPROTOOPT


@row(ULP, "With it an unknown option is ENOPROTOOPT", KERNELS)
def unknown_option(w: World) -> None:
    w.ulp()
    for number in (0, 6, 99):
        assert errno_of(w.set_tls, number, bytes(4)) == errno.ENOPROTOOPT
        assert errno_of(w.get_tls, number, 4) == errno.ENOPROTOOPT


@row(ULP, "By itself it changes nothing: bytes still go in clear", KERNELS)
def ulp_alone(w: World) -> None:
    w.ulp()
    assert w.send(b"clear") == b"clear"
    w.arrive(b"text")
    assert w.socket.recvmsg(10, 0)[0] == b"text"


@row(ULP, "FreeBSD's options do not exist: ENOPROTOOPT", LINUX)
def no_freebsd_options(w: World) -> None:
    for number in range(39, 43):
        assert errno_of(w.set, 6, number, bytes(64)) == errno.ENOPROTOOPT


@row(
    CRYPTO,
    "Sizes and offsets of all eight layouts, and one byte more or less: EINVAL",
    KERNELS,
    LAYOUTS,
)
def layouts(w: World, cipher_type: int) -> None:
    layout = CRYPTO_INFO_LAYOUTS[cipher_type]
    sizes = {51: 40, 52: 56, 53: 40, 54: 56, 55: 40, 56: 40, 57: 40, 58: 56}
    assert layout.size == sizes[cipher_type]
    w.ulp()
    suite = suite_of_cipher_type(cipher_type, linux.TLS_1_2_VERSION)
    assert suite is not None
    value = crypto_info(keys(suite)).pack()
    assert len(value) == layout.size
    for wrong in (value[:-1], value + b"\0", value[:4]):
        assert errno_of(w.set_tls, linux.TLS_TX, wrong) == errno.EINVAL


@row(CRYPTO, "Less than the header: EINVAL", KERNELS, BOTH)
def no_header(w: World, direction: Direction) -> None:
    w.ulp()
    assert errno_of(w.set_tls, TLS[direction], b"\x04\x03\x33") == errno.EINVAL
    assert errno_of(w.set_tls, TLS[direction], b"") == errno.EINVAL


@row(CRYPTO, "Versions other than TLS 1.2 and 1.3, ciphers outside 51 to 58: EINVAL", KERNELS, BOTH)
def version_and_cipher(w: World, direction: Direction) -> None:
    w.ulp()
    good = crypto_info(keys())
    for bad in (
        replace(good, version=0x0302),
        replace(good, version=0x0305),
        replace(good, cipher_type=50),
        replace(good, cipher_type=59),
    ):
        assert errno_of(w.set_tls, TLS[direction], bad.pack()) == errno.EINVAL


ARIA = ("ARIA_128_GCM_SHA256", "ARIA_256_GCM_SHA384")


@row(CRYPTO, "ARIA with TLS 1.3: EINVAL; with TLS 1.2 records go both ways", KERNELS, ARIA)
def aria(w: World, name: str) -> None:
    session = keys(ALL_SUITES[name])
    info = crypto_info(session)
    w.ulp()
    for number in TLS.values():
        of_1_3 = replace(info, version=0x0304).pack()
        assert errno_of(w.set_tls, number, of_1_3) == errno.EINVAL
        w.set_tls(number, info.pack())
    peer = w.peer(session)
    assert peer.open(w.send(b"sent")) == [(DATA, b"sent")]
    w.arrive(peer.seal(b"received"))
    assert w.recv()[0] == b"received"


class Lacking(SoftwareEngine):
    """The engine of a machine that has no such cipher."""

    def supports(self, session: Session, direction: Direction) -> str | None:
        return f"this machine has no {session.suite.cipher}"


@row(CRYPTO, "A cipher that the machine lacks: ENOENT, and another one can still be set", KERNELS)
def no_such_cipher(w: World) -> None:
    for name in (*ARIA, "SM4_GCM_SM3"):
        w.socket = KtlsSocket(Lacking(), ENGINE, w.personality, w.sysctls)
        w.ulp()
        info = crypto_info(keys(ALL_SUITES[name]))
        assert errno_of(w.set_tls, linux.TLS_TX, info.pack()) == errno.ENOENT
        w.set_tls(linux.TLS_RX, crypto_info(keys()).pack())


@row(CRYPTO, "The other direction has another version or cipher: EINVAL", KERNELS, BOTH)
def both_directions(w: World, direction: Direction) -> None:
    other: Direction = "rx" if direction == "tx" else "tx"
    w.linux_enable(direction, keys())
    for name in ("AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384"):
        value = crypto_info(keys(ALL_SUITES[name])).pack()
        assert errno_of(w.set_tls, TLS[other], value) == errno.EINVAL
    w.linux_enable(other, keys(epoch=3))


@row(CRYPTO, "Either direction alone is allowed", KERNELS, BOTH)
def one_direction(w: World, direction: Direction) -> None:
    w.linux_enable(direction, keys())
    other: Direction = "rx" if direction == "tx" else "tx"
    assert w.socket.session(other) is None


@row(CRYPTO, "A second key of TLS 1.2: EBUSY", KERNELS, BOTH)
def second_key_1_2(w: World, direction: Direction) -> None:
    w.linux_enable(direction, keys(AES128_12))
    value = crypto_info(keys(AES128_12, epoch=1)).pack()
    assert errno_of(w.set_tls, TLS[direction], value) == errno.EBUSY
    assert w.socket.counters.rekey_errors[direction] == 1
    assert errno_of(w.set_tls, TLS[direction], b"\0") == errno.EINVAL


@row(CRYPTO, "A second key of TLS 1.3 is taken; another version or cipher: EINVAL", NEWEST, BOTH)
def second_key_1_3(w: World, direction: Direction) -> None:
    w.linux_enable(direction, keys(sequence=5))
    w.linux_enable(direction, keys(epoch=1))
    other = crypto_info(keys(ALL_SUITES["TLS_AES_256_GCM_SHA384"])).pack()
    assert errno_of(w.set_tls, TLS[direction], other) == errno.EINVAL
    older = crypto_info(keys(AES128_12)).pack()
    assert errno_of(w.set_tls, TLS[direction], older) == errno.EINVAL
    counters = w.socket.counters
    assert (counters.rekeys[direction], counters.rekey_errors[direction]) == (1, 2)


@row(CRYPTO, "A second key of TLS 1.3: EBUSY, as it was before 6.14", OLDER, BOTH)
def no_second_key(w: World, direction: Direction) -> None:
    w.linux_enable(direction, keys(sequence=5))
    value = crypto_info(keys(epoch=1)).pack()
    assert errno_of(w.set_tls, TLS[direction], value) == errno.EBUSY
    assert errno_of(w.set_tls, TLS[direction], b"\0") == errno.EINVAL
    w.linux_enable("rx" if direction == "tx" else "tx", keys())


@row(CRYPTO, "A refused second key leaves the old one working", KERNELS)
def old_key_works(w: World) -> None:
    w.linux_enable("tx", keys())
    bad = replace(crypto_info(keys(epoch=1)), version=0x0303)
    refused = errno.EINVAL if w.personality.keys.rekey else errno.EBUSY
    assert errno_of(w.set_tls, linux.TLS_TX, bad.pack()) == refused
    assert w.peer().open(w.send(b"data")) == [(23, b"data")]


GETTING = "Linux: getting keys"


@row(GETTING, "Less than 4 bytes: EINVAL; no key yet: EBUSY; another size: EINVAL", KERNELS, BOTH)
def get_errors(w: World, direction: Direction) -> None:
    w.ulp()
    assert errno_of(w.get_tls, TLS[direction], 3) == errno.EINVAL
    assert errno_of(w.get_tls, TLS[direction], 4) == errno.EBUSY
    w.linux_enable(direction, keys())
    for length in (5, 39, 41, 56):
        assert errno_of(w.get_tls, TLS[direction], length) == errno.EINVAL


@row(GETTING, "4 bytes: version and cipher alone", KERNELS, BOTH)
def get_header(w: World, direction: Direction) -> None:
    w.linux_enable(direction, keys())
    assert w.get_tls(TLS[direction], 4) == struct.pack("<HH", 0x0304, 51)


@row(GETTING, "What was set comes back, IV and rec_seq as they are now (TLS 1.3)", KERNELS)
def live_1_3(w: World) -> None:
    given = crypto_info(keys(sequence=9))
    w.linux_enable("tx", keys(sequence=9))
    assert w.get_tls(linux.TLS_TX, 40) == given.pack()
    w.send(b"x" * 16385)
    info = CryptoInfo.unpack_untrusted(w.get_tls(linux.TLS_TX, 40))
    assert info == replace(given, rec_seq=(11).to_bytes(8, "big"))


@row(GETTING, "IV and rec_seq both count under TLS 1.2, in either direction", KERNELS)
def live_1_2(w: World) -> None:
    session = keys(AES128_12, sequence=9, nonce=2**64 - 1)
    w.linux_enable("tx", session)
    w.linux_enable("rx", session)
    wire = w.send(b"one") + w.send(b"two")
    assert wire[5:13] == b"\xff" * 8
    w.arrive(wire)
    assert w.recv(3)[0] + w.recv()[0] == b"onetwo"
    for direction in BOTH:
        info = CryptoInfo.unpack_untrusted(w.get_tls(TLS[direction], 40))
        assert info.iv == (1).to_bytes(8, "big")
        assert info.rec_seq == (11).to_bytes(8, "big")
        assert info.salt == session.iv


@row(GETTING, "ChaCha20's IV is 12 bytes, without salt, and does not count", KERNELS)
def live_chacha(w: World) -> None:
    session = keys(ALL_SUITES["CHACHA20_POLY1305_SHA256"])
    w.linux_enable("tx", session)
    w.send(b"data")
    info = CryptoInfo.unpack_untrusted(w.get_tls(linux.TLS_TX, 56))
    assert (info.iv, info.salt, info.rec_seq) == (session.iv, b"", (1).to_bytes(8, "big"))


@row(OPTIONS, "TLS_TX_ZEROCOPY_RO: exactly 4 bytes, 0 or 1, else EINVAL; got back", KERNELS)
def zerocopy(w: World) -> None:
    w.ulp()
    for bad in (b"", b"\1", bytes(5), bytes(8), integer(2), integer(2**32 - 1)):
        assert errno_of(w.set_tls, ZEROCOPY, bad) == errno.EINVAL
    assert w.get_tls(ZEROCOPY, 4) == integer(0)
    w.set_tls(ZEROCOPY, integer(1))
    assert w.get_tls(ZEROCOPY, 4) == integer(1)
    for length in (3, 5):
        assert errno_of(w.get_tls, ZEROCOPY, length) == errno.EINVAL


@row(OPTIONS, "TLS_RX_EXPECT_NO_PAD: EINVAL unless TLS 1.3 and receiving", KERNELS)
def no_pad_when(w: World) -> None:
    w.ulp()
    assert errno_of(w.set_tls, NO_PAD, integer(1)) == errno.EINVAL
    w.linux_enable("tx", keys())
    assert errno_of(w.set_tls, NO_PAD, integer(1)) == errno.EINVAL
    assert errno_of(w.get_tls, NO_PAD, 4) == errno.EINVAL
    w.linux_enable("rx", keys())
    w.set_tls(NO_PAD, integer(1))
    older = World(w.personality.name)
    older.linux_enable("rx", keys(AES128_12))
    assert errno_of(older.set_tls, NO_PAD, integer(1)) == errno.EINVAL


@row(OPTIONS, "TLS_RX_EXPECT_NO_PAD: 0 or 1 in 4 bytes, zeros behind; got as 4 bytes", KERNELS)
def no_pad_values(w: World) -> None:
    w.linux_enable("rx", keys())
    for bad in (b"\1\0\0", integer(2), integer(1) + b"\0\1"):
        assert errno_of(w.set_tls, NO_PAD, bad) == errno.EINVAL
    w.set_tls(NO_PAD, integer(1) + bytes(7))
    assert w.get_tls(NO_PAD, 100) == integer(1)
    assert errno_of(w.get_tls, NO_PAD, 3) == errno.EINVAL


@row(
    OPTIONS, "TLS_TX_MAX_PAYLOAD_LEN: 2 bytes, 64 to 16384 (TLS 1.3: from 63), else EINVAL", NEWEST
)
def max_payload(w: World) -> None:
    def limits(world: World, least: int) -> None:
        for bad in (least - 1, 16385, 0, 65535):
            assert errno_of(world.set_tls, MAX_PAYLOAD, struct.pack("<H", bad)) == errno.EINVAL
        for good in (16384, least):
            world.set_tls(MAX_PAYLOAD, struct.pack("<H", good))
            assert world.get_tls(MAX_PAYLOAD, 10) == struct.pack("<H", good)

    w.sysctls.maxlen = 100  # FreeBSD's
    w.socket = w.another()
    w.ulp()
    assert w.get_tls(MAX_PAYLOAD, 2) == struct.pack("<H", 16384)
    assert errno_of(w.set_tls, MAX_PAYLOAD, integer(100)) == errno.EINVAL
    assert errno_of(w.get_tls, MAX_PAYLOAD, 1) == errno.EINVAL
    limits(w, 64)
    w.linux_enable("tx", keys(AES128_12))
    limits(w, 64)
    newer = World(w.personality.name)
    newer.linux_enable("tx", keys(AES128))
    limits(newer, 63)


@row(OPTIONS, "TLS_TX_MAX_PAYLOAD_LEN cuts records; EBUSY while one is open", NEWEST)
def max_payload_works(w: World) -> None:
    w.linux_enable("tx", keys())
    w.set_tls(MAX_PAYLOAD, struct.pack("<H", 100))
    peer = w.peer()
    assert [len(p) for _, p in peer.open(w.send(b"x" * 250))] == [100, 100, 50]
    w.send(b"more", flags=w.abi.more)
    assert errno_of(w.set_tls, MAX_PAYLOAD, struct.pack("<H", 200)) == errno.EBUSY
    assert errno_of(w.set_tls, MAX_PAYLOAD, b"") == errno.EBUSY


@row(OPTIONS, "TLS_TX_MAX_PAYLOAD_LEN: ENOPROTOOPT, as it was before 6.19", OLDER)
def no_max_payload(w: World) -> None:
    w.linux_enable("tx", keys())
    assert errno_of(w.set_tls, MAX_PAYLOAD, struct.pack("<H", 100)) == errno.ENOPROTOOPT
    assert errno_of(w.get_tls, MAX_PAYLOAD, 2) == errno.ENOPROTOOPT


for statement in (
    "connect(AF_UNSPEC) on a socket with an upper layer protocol: EOPNOTSUPP",
    "After shutdown listen(2) is EINVAL and connect(2) EISCONN",
    "The upper layer protocol survives fork and dup, and is not inherited by accept",
    "TCP_ULP loads the module for CAP_NET_ADMIN",
):
    not_here(ULP, statement, LINUX, "There is no such system call here.")
not_here(
    ULP,
    "inet_diag tells version, cipher and place of each direction (TLS_INFO_*)",
    LINUX,
    "There is no inet_diag here; `umktls stat` tells the same.",
)
