"""FreeBSD: the modes of a KTLS socket, its numbers and layouts, its sysctls."""

from __future__ import annotations

import errno
import struct
from dataclasses import replace

from tests.conformance.freebsd_sockets import CHACHA, KERNELS
from tests.conformance.rows import FREEBSD, not_here, row
from tests.conformance.world import (
    AES128,
    AES128_12,
    ENABLE,
    ENGINE,
    World,
    enable_value,
    errno_of,
    keys,
)
from umktls.abi import freebsd
from umktls.abi.freebsd import IPPROTO_TCP
from umktls.ktls.calls import KtlsSocket
from umktls.ktls.engines.software import SoftwareEngine

MODES = "FreeBSD: modes"


@row(MODES, "Both modes are NONE until a key is set, then the engine's", KERNELS)
def modes(w: World) -> None:
    assert (w.mode("tx"), w.mode("rx")) == (0, 0)
    w.freebsd_enable("tx", keys(AES128_12))
    assert (w.mode("tx"), w.mode("rx")) == (1, 0)
    w.freebsd_enable("rx", keys(AES128_12))
    assert (w.mode("tx"), w.mode("rx")) == (1, 1)


@row(MODES, "TCP_RXTLS_MODE cannot be set, the ENABLE options cannot be got: ENOPROTOOPT", KERNELS)
def directions_of_options(w: World) -> None:
    one = struct.pack("<i", 1)
    assert errno_of(w.set, IPPROTO_TCP, freebsd.TCP_RXTLS_MODE, one) == errno.ENOPROTOOPT
    for number in ENABLE.values():
        assert errno_of(w.socket.getsockopt, IPPROTO_TCP, number, 64) == errno.ENOPROTOOPT


@row(MODES, "Only SW and IFNET can be set, else EINVAL; less than an int: EINVAL", KERNELS)
def settable(w: World) -> None:
    for mode in (0, 3, 4, -1):
        assert errno_of(w.set_mode, mode) == errno.EINVAL
    assert errno_of(w.set, IPPROTO_TCP, freebsd.TCP_TXTLS_MODE, b"\1\0\0") == errno.EINVAL


@row(MODES, "Without a session setting the mode does nothing; nor does the same mode", KERNELS)
def nothing_to_switch(w: World) -> None:
    w.set_mode(freebsd.TCP_TLS_MODE_SW)
    w.set_mode(freebsd.TCP_TLS_MODE_IFNET)
    assert w.mode("tx") == 0
    w.freebsd_enable("tx", keys())
    w.set_mode(freebsd.TCP_TLS_MODE_SW)
    assert w.socket.counters.switch_to_sw == 0


class Card(SoftwareEngine):
    """A card that seals in software."""

    name = "card"
    mode = freebsd.TCP_TLS_MODE_IFNET


def with_card(w: World) -> World:
    w.socket = KtlsSocket(ENGINE, ENGINE, w.personality, w.sysctls, more_tx_engines=(Card(),))
    return w


@row(MODES, "From SW to IFNET and back while records go on; IFNET twice: EALREADY", KERNELS)
def switching(w: World) -> None:
    with_card(w).freebsd_enable("tx", keys(AES128, sequence=3))
    opener = w.peer(keys(AES128, sequence=3))
    assert opener.open(w.send(b"one")) == [(23, b"one")]
    w.set_mode(freebsd.TCP_TLS_MODE_IFNET)
    assert w.mode("tx") == freebsd.TCP_TLS_MODE_IFNET
    assert errno_of(w.set_mode, freebsd.TCP_TLS_MODE_IFNET) == errno.EALREADY
    assert opener.open(w.send(b"two")) == [(23, b"two")]
    w.set_mode(freebsd.TCP_TLS_MODE_SW)
    assert opener.open(w.send(b"three")) == [(23, b"three")]
    counters = w.socket.counters
    assert (counters.switch_to_ifnet, counters.switch_to_sw, counters.switch_failed) == (1, 1, 0)


@row(MODES, "No card that could: EOPNOTSUPP, counted as a failed switch", KERNELS)
def no_card(w: World) -> None:
    w.freebsd_enable("tx", keys())
    assert errno_of(w.set_mode, freebsd.TCP_TLS_MODE_IFNET) == errno.EOPNOTSUPP
    assert w.socket.counters.switch_failed == 1


@row(MODES, "A card given up for retransmitting too much is not taken again: ENXIO", KERNELS)
def given_up(w: World) -> None:
    with_card(w).freebsd_enable("tx", keys())
    w.set_mode(freebsd.TCP_TLS_MODE_IFNET)
    assert w.socket.disable_ifnet()
    assert w.mode("tx") == freebsd.TCP_TLS_MODE_SW
    assert errno_of(w.set_mode, freebsd.TCP_TLS_MODE_IFNET) == errno.ENXIO
    counters = w.socket.counters
    assert (counters.ifnet_disable_ok, counters.switch_to_sw, counters.switch_failed) == (1, 1, 0)


@row(
    MODES, "kern.ipc.tls.ifnet.permitted is 0: a first key goes to software, not to a card", KERNELS
)
def not_permitted(w: World) -> None:
    w.sysctls.ifnet_permitted = False
    w.socket = KtlsSocket(
        Card(), ENGINE, w.personality, w.sysctls, more_tx_engines=(SoftwareEngine(),)
    )
    w.freebsd_enable("tx", keys())
    assert w.mode("tx") == freebsd.TCP_TLS_MODE_SW
    assert w.socket.engine_name("tx") == "software"
    w.set_mode(freebsd.TCP_TLS_MODE_IFNET)  # this one insists
    assert w.mode("tx") == freebsd.TCP_TLS_MODE_IFNET
    assert w.peer().open(w.send(b"data")) == [(23, b"data")]
    other = KtlsSocket(Card(), ENGINE, w.personality, more_tx_engines=(SoftwareEngine(),))
    w.socket = other
    w.freebsd_enable("tx", keys())
    assert w.mode("tx") == freebsd.TCP_TLS_MODE_IFNET


@row(MODES, "A listening socket: EINVAL; a dropped one: ECONNRESET", KERNELS)
def modes_of_odd_sockets(w: World) -> None:
    w.socket.conditions.listening = True
    assert errno_of(w.mode, "tx") == errno.EINVAL
    assert errno_of(w.set_mode, 1) == errno.EINVAL
    w.socket.conditions.dropped = True
    assert errno_of(w.mode, "rx") == errno.ECONNRESET
    assert errno_of(w.set_mode, 1) == errno.ECONNRESET


not_here(
    MODES,
    "A switch that loses a race against another one: EBUSY",
    FREEBSD,
    "Two switches of one socket never happen at the same time here.",
)


NUMBERS = "FreeBSD: numbers and layouts"


@row(NUMBERS, "errno numbers are FreeBSD's", FREEBSD)
def errno_numbers(w: World) -> None:
    numbers = {"EAGAIN": 35, "EALREADY": 37, "EMSGSIZE": 40, "EPROTONOSUPPORT": 43, "ENOTSUP": 45}
    numbers |= {"ECONNRESET": 54, "ENOTCONN": 57, "EBADMSG": 89, "EINVAL": 22, "ENXIO": 6}
    for name, number in numbers.items():
        assert w.personality.errno(getattr(errno, name)) == number


@row(NUMBERS, "struct tls_enable has 64 bytes, and rec_seq is big-endian at offset 50", KERNELS)
def layout(w: World) -> None:
    value = enable_value(keys(sequence=0x0102030405060708)).value
    assert len(value) == 64
    assert value[48:58] == bytes([3, 4, 1, 2, 3, 4, 5, 6, 7, 8])
    w.freebsd_enable("tx", keys(sequence=0x0102030405060708))
    assert w.socket.tx.sequence == 0x0102030405060708


@row(NUMBERS, "Explicit nonces of GCM begin anywhere and count up", FREEBSD)
def random_nonces(w: World) -> None:
    starts = set()
    for _ in range(4):
        other = World(w.personality.name)
        other.freebsd_enable("tx", replace(keys(AES128_12), nonce=None))
        first, second = other.send(b"x"), other.send(b"y")
        starts.add(first[5:13])
        following = (int.from_bytes(first[5:13], "big") + 1) % 2**64
        assert second[5:13] == following.to_bytes(8, "big")
    assert len(starts) == 4


SYSCTLS = "FreeBSD: sysctls"
NAMES = """
kern.ipc.mb_use_ext_pgs
kern.ipc.tls: enable cbc_enable maxlen bind_threads ifnet_max_rexmit_pct sw_buffer_cache max_reclaim
 tasks_active rx_enable ifnet.permitted ifnet.reset ifnet.reset_dropped ifnet.reset_failed
 sw.cbc sw.gcm sw.chacha20 ifnet.cbc ifnet.gcm ifnet.chacha20 toe.cbc toe.gcm toe.chacha20
kern.ipc.tls.stats: threads sw_tx_pending sw_tx_inqueue sw_rx_inqueue offload_total enable_calls
 active corrupted_records failed_crypto switch_to_ifnet switch_to_sw switch_failed
 ifnet_disable_failed ifnet_disable_ok destroy_task
kern.ipc.tls.stats.ocf: tls10_cbc_encrypts tls11_cbc_encrypts tls11_cbc_decrypts
 tls12_gcm_encrypts tls12_gcm_decrypts tls12_chacha20_encrypts tls12_chacha20_decrypts
 tls13_gcm_encrypts tls13_gcm_decrypts tls13_chacha20_encrypts tls13_chacha20_decrypts
 inplace separate_output retries
"""


def sysctls(w: World) -> dict[str, int]:
    lines = [line.split(": ") for line in w.socket.counters.sysctl_lines(w.sysctls)]
    return {name: int(value) for name, value in lines}


@row(SYSCTLS, "Every one has its name under kern.ipc.tls, and no other is there", KERNELS)
def names(w: World) -> None:
    expected, node = set(), ""
    for word in NAMES.split():
        if word.startswith("kern."):
            node = word.removesuffix(":") + "."
            expected |= {word} - {word.removesuffix(":") + ":"}
        else:
            expected.add(node + word)
    assert set(sysctls(w)) == expected


@row(
    SYSCTLS,
    "Sessions that there are, by mode and cipher; operations, by version and cipher",
    KERNELS,
)
def counted(w: World) -> None:
    w.freebsd_enable("tx", keys(CHACHA))
    w.freebsd_enable("rx", keys(CHACHA))
    w.arrive(w.send(b"x" * 20000))
    w.recv(10)
    w.recv()
    values = sysctls(w)
    assert values["kern.ipc.tls.sw.chacha20"] == values["kern.ipc.tls.stats.active"] == 2
    assert values["kern.ipc.tls.stats.offload_total"] == 2
    assert values["kern.ipc.tls.stats.ocf.tls12_chacha20_encrypts"] == 2
    w.outcomes(2)
    assert sysctls(w)["kern.ipc.tls.stats.ocf.tls12_chacha20_decrypts"] == 2
    w.socket.close()
    values = sysctls(w)
    assert values["kern.ipc.tls.sw.chacha20"] == values["kern.ipc.tls.stats.active"] == 0
    assert values["kern.ipc.tls.stats.offload_total"] == 2


@row(SYSCTLS, "stats.ocf counts what is sealed in software, not what a card seals", KERNELS)
def ocf_of_a_card(w: World) -> None:
    with_card(w).freebsd_enable("tx", keys(AES128))
    for mode, expected in ((freebsd.TCP_TLS_MODE_IFNET, 1), (freebsd.TCP_TLS_MODE_SW, 2)):
        w.send(b"data")
        w.set_mode(mode)
        w.send(b"data")
        values = sysctls(w)
        assert values["kern.ipc.tls.stats.ocf.tls13_gcm_encrypts"] == expected
        assert values["kern.ipc.tls.stats.ocf.inplace"] == expected
    w.socket = KtlsSocket(Card(), Card(), w.personality, w.sysctls)
    w.freebsd_enable("tx", keys(AES128_12))
    w.freebsd_enable("rx", keys(AES128_12))
    w.arrive(w.send(b"data"))
    assert w.recv()[0] == b"data"
    assert not any("ocf" in name and value for name, value in sysctls(w).items())
