"""The handshake with a peer in memory: keys, proven counts, and damage at every record."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from umktls_daemons.sessions.handshake import TrafficKeys, handshake
from umktls_daemons.sessions.records import proven_count
from umktls_daemons.tls.failure import HandshakeFailure
from umktls_daemons.tls.tlsadapter import ClientCertificates, Versions, missing_features
from umktls_daemons.tls.tlsfindings import Findings

from tests.daemons.pki import context
from tests.daemons.sessions.memorypeer import CLIENT, SERVER, MemoryPeer, soon
from umktls.errors import CallerError, PeerError
from umktls.ktls.session.suites import SUITES


@pytest.mark.parametrize("suite", SUITES)
def test_both_sides_have_the_same_keys(suite: str) -> None:
    ours = context(server=False, suites=suite).client("localhost")
    peer = MemoryPeer(context(server=True).server(ClientCertificates.DEMAND))
    keys = handshake(peer, ours, soon(), CLIENT)
    assert keys.tx.suite.name == keys.rx.suite.name == suite
    secrets = peer.endpoint.findings.secrets
    assert keys.tx_secret == secrets["CLIENT_TRAFFIC_SECRET_0"]
    assert keys.rx_secret == secrets["SERVER_TRAFFIC_SECRET_0"]
    assert (keys.tx.sequence, keys.rx.sequence) == (0, 0)
    # The server's tickets are unread: they are the kernel's.
    tickets = peer.drain()
    assert proven_count(tickets, keys.rx) == len(tickets) == 2


def test_what_has_come_behind_the_flight_is_left_in_the_socket() -> None:
    """A server may send before it has heard the client's Finished: that is for the kernel."""
    early = b"\x17\x03\x03\x00\x13" + bytes(19)
    ours = context(server=False).client("localhost")
    peer = MemoryPeer(
        context(server=True).server(ClientCertificates.DEMAND),
        lambda number, record: record + early if number == SERVER_FLIGHT - 1 else record,
    )
    keys = handshake(peer, ours, soon(), CLIENT)
    assert keys.rx.sequence == 0
    assert peer.drain()[0] == early
    # The object has nothing of it either: it goes on with what the kernel hands up.
    assert ours.take_back() == 0
    assert ours.output() == b""


def test_the_server_has_used_two_numbers() -> None:
    ours = context(server=True).server(ClientCertificates.DEMAND)
    peer = MemoryPeer(context(server=False).client("localhost"))
    keys = handshake(peer, ours, soon(), SERVER)
    assert (keys.tx.sequence, keys.rx.sequence) == (2, 0)
    assert ours.peer_certificate is not None


def test_secrets_do_not_show() -> None:
    ours = context(server=False).client("localhost")
    peer = MemoryPeer(context(server=True).server(ClientCertificates.IGNORE))
    keys: TrafficKeys = handshake(peer, ours, soon(), CLIENT)
    shown = repr(keys) + repr(ours.findings) + repr(keys.tx)
    for secret in (keys.tx_secret, keys.tx.key):
        assert repr(secret) not in shown
        assert secret.hex() not in shown


# ServerHello, change_cipher_spec, EncryptedExtensions, CertificateRequest, Certificate,
# CertificateVerify, Finished: a record each.
SERVER_FLIGHT = 7


@pytest.mark.parametrize("position", [0, *range(2, SERVER_FLIGHT)])
def test_one_flipped_byte_is_one_failure(position: int) -> None:
    def flip(number: int, record: bytes) -> bytes:
        return record[:-1] + bytes((record[-1] ^ 1,)) if number == position else record

    ours = context(server=False).client("localhost")
    peer = MemoryPeer(context(server=True).server(ClientCertificates.DEMAND), flip)
    with pytest.raises(HandshakeFailure) as caught:
        handshake(peer, ours, soon(), CLIENT)
    assert caught.value.phase == "tls"
    assert ours.findings.alert_sent is not None


@pytest.mark.parametrize("position", range(SERVER_FLIGHT))
def test_silence_at_any_point(position: int) -> None:
    ours = context(server=False).client("localhost")
    peer = MemoryPeer(
        context(server=True).server(ClientCertificates.DEMAND),
        lambda number, record: record if number < position else None,
    )
    with pytest.raises(HandshakeFailure, match="fell silent") as caught:
        handshake(peer, ours, soon(), CLIENT)
    expected = f"after {position} records" if position else "before its first record"
    assert expected in caught.value.reason


def test_a_client_that_refuses_in_the_middle() -> None:
    ours = context(server=True, identity="foreign").server(ClientCertificates.DEMAND)
    peer = MemoryPeer(context(server=False).client("localhost"))
    with pytest.raises(HandshakeFailure, match="alert unknown_ca") as caught:
        handshake(peer, ours, soon(), SERVER)
    assert "give the peer that CA" in caught.value.advice


@pytest.mark.parametrize(
    "name", ["", ".", "a" * 300, "dot..dot", "a.b" * 99, "b\xfccher" + "x" * 80, "a\0b"]
)
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(CallerError, match="neither a DNS name nor an address"):
        context(server=False).client(name)


def test_link_local_addresses() -> None:
    assert context(server=False).client("fe80::1%eth0").handshake() is False


def test_the_binding_has_what_is_needed() -> None:
    assert missing_features() == []


class Unwritten(dict[str, bytes]):
    """The secrets of an OpenSSL that does not tell some of them."""

    def __init__(self, *labels: str) -> None:
        self._labels = labels

    def __setitem__(self, label: str, secret: bytes) -> None:
        if label not in self._labels:
            super().__setitem__(label, secret)


@pytest.mark.parametrize("label", ["CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"])
def test_without_a_secret_there_are_no_keys(label: str) -> None:
    ours = context(server=False).client("localhost")
    ours.findings.secrets = Unwritten(label)
    peer = MemoryPeer(context(server=True).server(ClientCertificates.DEMAND))
    with pytest.raises(HandshakeFailure, match="gave no secrets for the suite") as caught:
        handshake(peer, ours, soon(), CLIENT)
    assert caught.value.phase == "keys"


class Finished:
    """An endpoint whose handshake is done at once, and which tells this of it."""

    alpn = b"sunrpc"
    randoms = (bytes(32), bytes(32))

    def __init__(self, version: str, suite: str, *labels: str) -> None:
        self.version, self.suite = version, suite
        self.findings = Findings(dict.fromkeys(labels, bytes(48)))

    def handshake(self) -> bool:
        return True

    def output(self) -> bytes:
        return b""


BOTH_SECRETS = ("CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0")


@pytest.mark.parametrize(
    ("version", "suite", "labels"),
    [
        ("TLSv1.3", "TLS_AES_128_CCM_8_SHA256", BOTH_SECRETS),
        ("TLSv1.2", "ECDHE-RSA-AES128-SHA", ("CLIENT_RANDOM",)),
        ("TLSv1.2", "ECDHE-RSA-AES128-GCM-SHA256", BOTH_SECRETS),
    ],
)
def test_what_kernel_tls_cannot_go_on_with(version: str, suite: str, labels: Iterable[str]) -> None:
    """A suite that it does not know; a version whose secret has another name."""
    endpoint: Any = Finished(version, suite, *labels)
    peer: Any = None
    with pytest.raises(HandshakeFailure, match=f"no secrets for the suite {suite} that") as caught:
        handshake(peer, endpoint, soon(), CLIENT)
    assert caught.value.phase == "keys"


@pytest.mark.parametrize("versions", [Versions.TLS12, Versions.TLS13])
def test_openssls_secrets_are_forgotten(versions: Versions) -> None:
    """From here on the kernel has the keys."""
    ours = context(server=False, versions=versions).client("localhost")
    peer = MemoryPeer(context(server=True, versions=versions).server(ClientCertificates.DEMAND))
    handshake(peer, ours, soon(), CLIENT)
    assert peer.endpoint.findings.secrets
    assert not ours.findings.secrets


def test_a_number_that_cannot_be_proven_is_not_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides would seal under numbers of which the other knows nothing."""

    def fails(*of: object) -> int:
        raise PeerError("record 0 does not verify")

    monkeypatch.setattr("umktls_daemons.sessions.handshake.proven_count", fails)
    ours = context(server=True).server(ClientCertificates.DEMAND)
    peer = MemoryPeer(context(server=False).client("localhost"))
    with pytest.raises(HandshakeFailure, match="cannot be proven: record 0") as caught:
        handshake(peer, ours, soon(), SERVER)
    assert caught.value.phase == "keys"


def test_so_many_chains_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umktls_daemons.tls.tlsadapter.chains.CHAINS_LIMIT", 1)
    clients = context(server=False), context(server=False, identity="chained-client")
    made = context(server=True)
    for client in clients:
        ours = made.server(ClientCertificates.DEMAND)
        handshake(MemoryPeer(client.client("localhost")), ours, soon(), SERVER)
        assert ours.chain
    assert len(made.chains) == 1
