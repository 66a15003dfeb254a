"""TLS 1.2 for old peers (-2): only on request, and what is different about it."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from umktls_daemons.tls.identity import ConfigurationError
from umktls_daemons.tls.tls12 import IANA_NAMES, key_block, prf, sessions, split_ciphers, suite_of

from tests.daemons.ends import End, assert_refused, connect, forge
from tests.daemons.fakesocket import SECONDS, FakeSocket
from tests.daemons.harness import (
    ENCRYPTED,
    MUTUAL,
    RESULT_OK,
    client_context,
    daemon,
    echo,
    exchange,
    ping_pong,
    server_context,
)
from umktls.abi import rpctls
from umktls.abi.alerts import TlsAlert

NAME = {"server_hostname": "localhost"}
TLS12 = ssl.TLSVersion.TLSv1_2
ALERT, HANDSHAKE = 21, 22
HELLO_REQUEST = bytes(4)
WARNING_NO_RENEGOTIATION = bytes((1, 100))
SUITES = {
    "ECDHE-ECDSA-AES128-GCM-SHA256": "AES_128_GCM_SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384": "AES_256_GCM_SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305": "CHACHA20_POLY1305_SHA256",
}


def old_client(certificate: str | None = None, ciphers: str = "ALL") -> ssl.SSLContext:
    context = client_context(certificate)
    context.maximum_version = TLS12
    context.set_ciphers(ciphers)
    return context


def old_server(ciphers: str = "ALL") -> ssl.SSLContext:
    context = server_context()
    context.maximum_version = TLS12
    context.set_ciphers(ciphers)
    return context


@pytest.mark.parametrize("suite", SUITES)
def test_an_old_client(tmp_path: Path, suite: str) -> None:
    with daemon("server", tmp_path, "server", tls1_2=True) as server:
        sock, peer = server.connection()
        client = peer.tls(old_client(ciphers=suite), exchange, **NAME)
        assert server.kernel.connect(sock).flags == ENCRYPTED
        # Each side's Finished was record 0 under its key.
        assert (sock.state.tx.sequence, sock.state.rx.sequence) == (1, 1)
        assert sock.state.tx.suite is not None
        assert sock.state.tx.suite.name == SUITES[suite]
        ping_pong(server, sock, client)
        event = server.kernel.event("handshake")
        assert (event["version"], event["suite"]) == ("TLSv1.2", suite)


@pytest.mark.parametrize("suite", SUITES)
def test_an_old_server(tmp_path: Path, suite: str) -> None:
    with daemon("client", tmp_path, "client", tls1_2=True) as client:
        sock, peer = client.connection()
        server = peer.tls(old_server(suite), echo, server_side=True)
        assert client.kernel.connect(sock).reterr == RESULT_OK
        sock.send(b"ping")
        assert client.receive(sock, 4) == b"PING"
        assert server.result(SECONDS) == b"ping"


def test_the_same_server_for_old_and_new_clients(tmp_path: Path) -> None:
    with daemon("server", tmp_path, "server", tls1_2=True) as server:
        for context, version in ((old_client(), "TLSv1.2"), (client_context(), "TLSv1.3")):
            sock, peer = server.connection()
            client = peer.tls(context, exchange, **NAME)
            assert server.kernel.connect(sock).flags == ENCRYPTED
            ping_pong(server, sock, client)
            assert server.kernel.event("handshake")["version"] == version


def test_a_client_that_wants_tls_1_2_takes_nothing_newer(tmp_path: Path) -> None:
    with daemon("client", tmp_path, "client", tls1_2=True) as client:
        sock, peer = client.connection()
        context = server_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        server = peer.tls(context, echo, server_side=True)
        assert client.kernel.connect(sock).reterr != RESULT_OK
        with pytest.raises(ssl.SSLError):
            server.result(SECONDS)


def test_the_end_of_a_session(tmp_path: Path) -> None:
    """Alerts go both ways under the right numbers."""
    with daemon("server", tmp_path, "server", tls1_2=True) as server:
        for closing in (close_first, read_to_end):
            sock, peer = server.connection()
            client = peer.tls(old_client(), closing, **NAME)
            assert server.kernel.connect(sock).flags == ENCRYPTED
            if closing is close_first:
                assert server.receive(sock, 1) == b""
                assert server.kernel.event("alert")["description"] == "close_notify"
            assert server.kernel.about(sock, "DISCONNECT") == rpctls.RPCTLSERR_OK
            sock.sock.close()
            client.result(SECONDS)


def close_first(tls: ssl.SSLSocket) -> None:
    """Wait for the answer to our close_notify."""
    tls.unwrap()


def read_to_end(tls: ssl.SSLSocket) -> None:
    assert tls.recv(1) == b""


@pytest.fixture
def refused(tmp_path: Path) -> Iterator[tuple[End, End]]:
    """A client that has refused a renegotiation, by a warning, and its server."""
    for name in ("client", "server"):
        (tmp_path / name).mkdir()
    with (
        daemon("client", tmp_path / "client", "client", tls1_2=True) as client,
        daemon("server", tmp_path / "server", "server", tls1_2=True, mutualverf=True) as server,
    ):
        ends = connect(client, server)
        forge(ends[1], HANDSHAKE, HELLO_REQUEST)
        ends[1].sock.send(b"data")
        assert ends[0].receive(4) == b"data"
        assert heard(ends[1]) == WARNING_NO_RENEGOTIATION
        yield ends


def heard(end: End) -> bytes:
    """The next alert that comes, without anybody being told."""
    found: list[bytes] = []

    def look(sock: FakeSocket) -> None:
        control = sock.state.rx.control
        assert control is not None
        assert control[0] == ALERT
        found.append(control[1])

    end.sock.pump(lambda: bool(found), look)
    return found[0]


def test_the_peer_has_its_alert_also_behind_a_refused_renegotiation(
    refused: tuple[End, End],
) -> None:
    client, server = refused
    forge(server, 99, b"nothing")
    assert_refused(client, server, "unexpected_message")


def test_the_peers_alert_counts_also_behind_a_refused_renegotiation(
    refused: tuple[End, End],
) -> None:
    client, server = refused
    forge(server, ALERT, bytes((2, TlsAlert.HANDSHAKE_FAILURE)))
    assert client.receive(1) == b""
    told = client.kernel.event("alert")
    assert told["description"] == "handshake_failure"
    assert "the peer ended the session" in told["reason"]


def test_there_is_no_new_key(tmp_path: Path) -> None:
    with daemon("server", tmp_path, "server", tls1_2=True) as server:
        sock, peer = server.connection()
        client = peer.tls(old_client(), exchange, **NAME)
        server.kernel.connect(sock)
        assert server.kernel.about(sock, "REKEY") == rpctls.RPCTLSERR_NOSSL
        # And nothing is broken by asking.
        ping_pong(server, sock, client)


@pytest.mark.parametrize(
    ("certificate", "security", "flags"), [("client", "mtls", MUTUAL), (None, "mtls", 0)]
)
def test_client_certificates(
    tmp_path: Path, certificate: str | None, security: str, flags: int
) -> None:
    with daemon("server", tmp_path, "server", tls1_2=True, mutualverf=True) as server:
        sock, peer = server.connection(security=security)
        client = peer.tls(old_client(certificate), exchange, **NAME)
        assert server.kernel.connect(sock).flags == flags
        if flags:
            ping_pong(server, sock, client)
        else:
            failed = server.kernel.event("handshake-failed")
            assert "showed no certificate" in failed["reason"]
            with pytest.raises(ssl.SSLError):
                client.result(SECONDS)


@pytest.mark.parametrize("ciphers", ["AES128-GCM-SHA256:@SECLEVEL=0", "ECDHE-ECDSA-AES128-SHA"])
def test_suites_that_are_not_served(tmp_path: Path, ciphers: str) -> None:
    """Without forward secrecy, or with CBC."""
    with daemon("server", tmp_path, "server", tls1_2=True) as server:
        sock, peer = server.connection()
        client = peer.tls(old_client(ciphers=ciphers), exchange, **NAME)
        assert server.kernel.connect(sock).flags == 0
        with pytest.raises(ssl.SSLError):
            client.result(SECONDS)


Make = Callable[[], ssl.SSLContext]


@pytest.mark.parametrize(("side", "make"), [("server", old_client), ("client", old_server)])
def test_not_unless_asked_for(tmp_path: Path, side: str, make: Make) -> None:
    with daemon(side, tmp_path, "server") as harness:
        sock, peer = harness.connection()
        options = {"server_side": True} if side == "client" else NAME
        other = peer.tls(make(), exchange, **options)
        result = harness.kernel.connect(sock)
        assert getattr(result, "flags", 0) == 0
        assert getattr(result, "reterr", 1) != RESULT_OK
        with pytest.raises(ssl.SSLError):
            other.result(SECONDS)


OPENSSLS_NAME = "ECDHE-ECDSA-AES128-GCM-SHA256"
IANAS_NAME = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"


@pytest.mark.parametrize("name", [OPENSSLS_NAME, IANAS_NAME])
def test_suites_of_tls_1_2_without_tls_1_2(tmp_path: Path, name: str) -> None:
    suites = f"TLS_AES_128_GCM_SHA256:{name}"
    with (
        pytest.raises(ConfigurationError, match=r"not of TLS 1\.3"),
        daemon("server", tmp_path, "server", ciphers=suites),
    ):
        raise AssertionError("it started")
    (tmp_path / "again").mkdir()
    with daemon("server", tmp_path / "again", "server", ciphers=suites, tls1_2=True):
        pass


def test_a_suite_that_nobody_knows_with_tls_1_2(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigurationError, match=f"known are TLS_.*{IANAS_NAME}.*or OpenSSL's"),
        daemon("server", tmp_path, "server", ciphers="TLS_ODD_SUITE", tls1_2=True),
    ):
        raise AssertionError("it started")


# The parts.


def test_the_prf() -> None:
    """Known answers: the P_SHA256 and P_SHA384 vectors that go around since 2010
    (mailarchive.ietf.org, tls, "TLS 1.2 PRF test vectors")."""
    secret = bytes.fromhex("9bbe436ba940f017b17652849a71db35")
    seed = b"test label" + bytes.fromhex("a0ba9f936cda311827a6f796ffd5198c")
    assert (
        prf("sha256", secret, seed, 100).hex().startswith("e3f229ba727be17b8d122620557cd453c2aab2")
    )
    secret = bytes.fromhex("b80b733d6ceefcdc71566ea48e5567df")
    seed = b"test label" + bytes.fromhex("cd665cf6a8447dd6ff8b27555edb7465")
    assert (
        prf("sha384", secret, seed, 148).hex().startswith("7b0c18e9ced410ed1804f2cfa34a336a1c14df")
    )


def test_the_key_block() -> None:
    """Cut in the order of RFC 5246 section 6.3, without MAC keys."""
    suite = suite_of("ECDHE-RSA-AES128-GCM-SHA256")
    assert suite is not None
    master, client_random, server_random = b"m" * 48, b"c" * 32, b"s" * 32
    block = key_block("sha256", master, server_random + client_random, 40)
    client, server = sessions(suite, master, client_random, server_random)
    assert client.key + server.key + client.iv + server.iv == block
    assert (len(client.key), len(client.iv), client.sequence) == (16, 4, 0)


def test_names_of_suites() -> None:
    assert suite_of("ECDHE-ECDSA-AES128-SHA") is None
    assert split_ciphers("TLS_A:ECDHE-B:TLS_C") == ("TLS_A:TLS_C", "ECDHE-B")
    assert split_ciphers("") == ("", "")
    assert split_ciphers(f"{IANAS_NAME}:TLS_A") == ("TLS_A", OPENSSLS_NAME)


@pytest.mark.parametrize("name", IANA_NAMES.values())
def test_the_names_are_openssls(name: str) -> None:
    """Each is one suite to OpenSSL, which raises for those that it does not know."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers(name)
    offered = [each["name"] for each in context.get_ciphers() if each["protocol"] == "TLSv1.2"]
    assert offered == [name]
    assert suite_of(name) is not None
