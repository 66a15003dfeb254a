"""FreeBSD's sysctls and Linux's tls_stat, from one set of counters."""

from __future__ import annotations

import errno

import pytest

from tests.ktls.helpers import ENGINE, ChunkSink, receive, session
from tests.ktls.options.enabling import enable_socket
from umktls.abi.freebsd import TCP_TLS_MODE_IFNET, TCP_TLS_MODE_SW
from umktls.abi.linux import TLS_STAT_NAMES
from umktls.errors import UnsupportedError
from umktls.ktls.calls import KtlsSocket
from umktls.ktls.engines.software import SoftwareEngine
from umktls.ktls.session import Session
from umktls.ktls.session.counters import Counters, Sysctls
from umktls.ktls.session.suites import ALL_SUITES, TLS_1_0


class Card(SoftwareEngine):
    name = "card"
    mode = TCP_TLS_MODE_IFNET


def sysctls(counters: Counters, knobs: Sysctls | None = None) -> dict[str, int]:
    pairs = [line.split(": ") for line in counters.sysctl_lines(knobs)]
    return {name.removeprefix("kern.ipc."): int(value) for name, value in pairs}


def tls_stat(counters: Counters) -> dict[str, int]:
    return {name: int(value) for name, value in map(str.split, counters.tls_stat_lines())}


def socket(counters: Counters) -> KtlsSocket:
    return KtlsSocket(ENGINE, ENGINE, counters=counters, more_tx_engines=[Card()])


def test_all_names_are_there_and_nothing_has_been_counted() -> None:
    values = sysctls(Counters())
    knobs = {
        "mb_use_ext_pgs": 1,
        "tls.enable": 1,
        "tls.rx_enable": 1,
        "tls.cbc_enable": 0,
        "tls.maxlen": 16384,
        "tls.ifnet_max_rexmit_pct": 2,
        "tls.ifnet.permitted": 1,
    }
    for name, value in knobs.items():
        assert values.pop(name) == value
    assert set(values.values()) == {0}
    for name in ("sw.gcm", "toe.cbc", "ifnet.chacha20", "ifnet.reset_dropped", "stats.threads"):
        assert f"tls.{name}" in values
    for name in ("enable_calls", "ocf.tls10_cbc_encrypts", "ocf.tls13_chacha20_decrypts"):
        assert f"tls.stats.{name}" in values
    assert list(tls_stat(Counters())) == list(TLS_STAT_NAMES)


def test_knobs_are_the_host_s() -> None:
    values = sysctls(Counters(), Sysctls(cbc_enable=True, maxlen=1000))
    assert (values["tls.cbc_enable"], values["tls.maxlen"]) == (1, 1000)


def test_lines_are_sorted_and_formatted() -> None:
    lines = Counters().sysctl_lines()
    assert lines == sorted(lines)
    assert lines[0] == "kern.ipc.mb_use_ext_pgs: 1"


def test_sessions_and_records_of_several_sockets() -> None:
    counters = Counters()
    one, two = socket(counters), socket(counters)
    for state in (one, two):
        enable_socket(state, "tx", session())
        enable_socket(state, "rx", session())
    receive(two.rx, b"".join(map(bytes, one.sendmsg(b"x" * 20000))))
    assert two.recvmsg(100, 24)[0] == b"x" * 100
    values = sysctls(counters)
    assert values["tls.stats.enable_calls"] == values["tls.stats.offload_total"] == 4
    assert values["tls.stats.active"] == values["tls.sw.gcm"] == 4
    assert values["tls.stats.ocf.tls13_gcm_encrypts"] == values["tls.stats.ocf.inplace"] == 2
    assert values["tls.stats.ocf.tls13_gcm_decrypts"] == 1
    one.close()
    values = sysctls(counters)
    assert (values["tls.stats.active"], values["tls.stats.offload_total"]) == (2, 4)
    assert tls_stat(counters)["TlsCurrTxSw"] == 1


def test_pull_counts_records_as_well() -> None:
    state = socket(Counters())
    enable_socket(state, "rx", session())
    enable_socket(state, "tx", session())
    receive(state.rx, b"".join(map(bytes, state.sendmsg(b"x" * 40000))))
    state.rx.pull(ChunkSink([100_000]))
    assert sysctls(state.counters)["tls.stats.ocf.tls13_gcm_decrypts"] == 3


@pytest.mark.parametrize(
    ("name", "version", "kind", "family"),
    [
        ("AES_128_CBC_SHA", TLS_1_0, "tls10_cbc", "cbc"),
        ("AES_256_CBC_SHA384", 0x0303, "tls11_cbc", "cbc"),
        ("AES_256_GCM_SHA384", 0x0303, "tls12_gcm", "gcm"),
        ("CHACHA20_POLY1305_SHA256", 0x0303, "tls12_chacha20", "chacha20"),
        ("TLS_CHACHA20_POLY1305_SHA256", 0x0304, "tls13_chacha20", "chacha20"),
    ],
)
def test_each_kind_has_its_counter(name: str, version: int, kind: str, family: str) -> None:
    suite = ALL_SUITES[name]
    iv = bytes(16 if version == TLS_1_0 else suite.iv_length)
    state = socket(Counters())
    keys = Session(version, suite, bytes(suite.key_length), iv, mac_key=bytes(suite.tag_length))
    state.install("tx", keys)
    state.sendmsg(b"data")
    values = sysctls(state.counters)
    assert values[f"tls.stats.ocf.{kind}_encrypts"] == 1
    assert values[f"tls.sw.{family}"] == 1


def test_modes_are_counted_apart() -> None:
    state = socket(Counters())
    state.install("tx", session())
    state.switch_tx(TCP_TLS_MODE_IFNET)
    values = sysctls(state.counters)
    assert (values["tls.sw.gcm"], values["tls.ifnet.gcm"]) == (0, 1)
    assert tls_stat(state.counters)["TlsCurrTxDevice"] == 1
    assert state.disable_ifnet()
    values = sysctls(state.counters)
    assert (values["tls.sw.gcm"], values["tls.ifnet.gcm"]) == (1, 0)
    assert values["tls.stats.ifnet_disable_ok"] == values["tls.stats.switch_to_sw"] == 1
    state.close()
    assert sysctls(state.counters)["tls.sw.gcm"] == 0


def test_a_card_that_nothing_can_replace() -> None:
    card = Card()
    state = KtlsSocket(card, ENGINE)
    state.install("tx", session())
    assert state.mode("tx") != TCP_TLS_MODE_SW
    assert not state.disable_ifnet()
    values = sysctls(state.counters)
    assert (values["tls.stats.ifnet_disable_failed"], values["tls.stats.switch_failed"]) == (1, 1)


def test_a_chained_iv_cannot_change_hands() -> None:
    suite = ALL_SUITES["AES_128_CBC_SHA"]
    state = socket(Counters())
    state.install("tx", Session(TLS_1_0, suite, bytes(16), bytes(16), mac_key=bytes(20)))
    with pytest.raises(UnsupportedError, match="chained") as caught:
        state.switch_tx(TCP_TLS_MODE_IFNET)
    assert caught.value.errno == errno.EOPNOTSUPP
    assert state.mode("tx") == TCP_TLS_MODE_SW
