"""RFC 9289 from the probe to the end of a connection, sections 4.1, 5.1.1 and 7: the numbers are
those of docs/rfc9289.md.

Peers are the ssl module and scripts wherever that is possible, so that our client is not judged by
our server.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from umktls_fs.options import MountOptions

from tests.conftest import patience
from tests.daemons.fakesocket import SECONDS
from tests.nfsd.client import FakePeer
from tests.rfc9289.moves import (
    BAD_ANSWERS,
    STARTTLS,
    answer_probe,
    hello_in_tls,
    is_badcred,
    said,
    spurious_before_the_handshake,
    spurious_behind_the_probe,
)
from tests.rfc9289.peers import AUTH_TLS, Client, client_of_script, read_call, server, with_client
from tests.tlsworld import MTLS
from umktls.certs.pki import Authority
from umktls.errors import UmktlsError
from umktls.kernel.krpc.client import MountConfig
from umktls.kernel.krpc.probe import check_reply
from umktls.kernel.upcalls.tls import TlsRefused
from umktls.nfsd.exports.exports import level_of
from umktls.rpc.client import AuthRejected
from umktls.rpc.message import (
    NULL_AUTH,
    AcceptedReply,
    AcceptStat,
    AuthStat,
    AuthSys,
    OpaqueAuth,
    encode_call,
)
from umktls.rpc.record import mark
from umktls.testing.certificates import directory
from umktls.testing.echo import ECHO, SAY
from umktls.testing.hosts import pair

# Discovering server-side TLS support, section 4.1.


async def test_01_tls_is_on_the_port_of_the_clear_service(certs: Path, tmp_path: Path) -> None:
    with trio.fail_after(patience(SECONDS)):
        async with server(tmp_path, certs) as listening:
            in_clear = await with_client(listening, certs, lambda client: said(client, b"hello"))
            in_tls = await with_client(listening, certs, hello_in_tls)
    assert in_clear == in_tls == b"hello"


async def test_02_the_probe_is_an_empty_null_call(certs: Path, tmp_path: Path) -> None:
    calls = []

    async def script(stream: trio.SocketStream) -> None:
        call, _ = await read_call(stream)
        calls.append(call)
        await stream.aclose()

    with trio.fail_after(patience(SECONDS)):
        async with client_of_script(tmp_path, certs, script) as connect:
            with pytest.raises(UmktlsError):
                await connect()
    (call,) = calls
    assert call.procedure == 0
    assert (call.credential.flavor, call.credential.body) == (7, b"")
    assert (call.verifier.flavor, call.verifier.body) == (0, b"")
    assert bytes(call.body) == b""


async def test_03_the_answer_is_a_verifier_with_starttls(certs: Path, tmp_path: Path) -> None:
    with trio.fail_after(patience(SECONDS)):
        async with server(tmp_path, certs) as listening:
            reply = await with_client(listening, certs, Client.probe)
    assert isinstance(reply, AcceptedReply)
    assert reply.status is AcceptStat.SUCCESS
    assert (reply.verifier.flavor, reply.verifier.body) == (0, b"STARTTLS")
    # A client goes on whatever the accept status is.
    for status in AcceptStat:
        check_reply("peer", 7, replace(reply, status=status))


async def test_04_the_client_hello_comes_on_the_same_connection(
    certs: Path, tmp_path: Path
) -> None:
    heard: list[bytes] = []

    async def script(stream: trio.SocketStream) -> None:
        heard.append(await answer_probe(stream, STARTTLS))
        await stream.aclose()

    with trio.fail_after(patience(SECONDS)):
        async with client_of_script(tmp_path, certs, script) as connect:
            with pytest.raises(UmktlsError):
                await connect()
    (hello,) = heard
    # A handshake record with a ClientHello.
    assert (hello[0], hello[5]) == (22, 1)


async def test_05_no_client_hello_after_any_other_answer(certs: Path, tmp_path: Path) -> None:
    answers = iter(BAD_ANSWERS.values())
    send, heard = trio.open_memory_channel[bytes](0)

    async def script(stream: trio.SocketStream) -> None:
        await send.send(await answer_probe(stream, next(answers)))

    with trio.fail_after(patience(SECONDS)):
        async with client_of_script(tmp_path, certs, script) as connect:
            for _ in BAD_ANSWERS:
                with pytest.raises(TlsRefused, match="does not offer TLS"):
                    await connect()
                # Nothing was sent, and the connection was closed.
                assert await heard.receive() == b""


async def test_06_a_failed_handshake_is_reported_as_a_refusal(certs: Path, tmp_path: Path) -> None:
    stranger = directory(tmp_path / "other", Authority.create("another CA"))
    with trio.fail_after(patience(SECONDS)):
        async with pair(certs, tmp_path, {"certs": stranger}, {}) as both:
            with pytest.raises(TlsRefused) as caught:
                await both.rpc.call(SAY, b"", NULL_AUTH)
    # The same as for a rejection with AUTH_ERROR, and with a reason.
    assert caught.value.errno == AuthRejected("", AuthStat.AUTH_TOOWEAK).errno == errno.EACCES
    assert "certificate" in str(caught.value)


async def test_07_auth_tls_anywhere_else_is_a_bad_credential(certs: Path, tmp_path: Path) -> None:
    def try_all(client: Client) -> list[bool]:
        in_clear = [
            client.call(1, AUTH_TLS),  # not the NULL procedure
            client.call(0, OpaqueAuth(7, b"body")),
            client.call(0, AUTH_TLS, OpaqueAuth(0, b"body")),
            client.call(0, AUTH_TLS, OpaqueAuth(1, b"")),
        ]
        hello_in_tls(client)
        in_tls = [client.call(0, AUTH_TLS), client.call(1, AUTH_TLS)]
        assert said(client, b"goes on") == b"goes on"
        return [is_badcred(reply) for reply in (*in_clear, *in_tls)]

    with trio.fail_after(patience(SECONDS)):
        async with server(tmp_path, certs) as listening:
            assert all(await with_client(listening, certs, try_all))


async def test_08_each_connection_is_probed_anew(certs: Path, tmp_path: Path) -> None:
    with trio.fail_after(patience(SECONDS)):
        async with pair(certs, tmp_path, {}, {}) as both:
            await both.rpc.call(SAY, b"", NULL_AUTH)
            assert both.rpc.socket is not None
            both.rpc.socket.shutdown(2)
            await both.rpc.call(SAY, b"", NULL_AUTH)
            probes = both.events("client", "probe", "handshake")
    assert [event["event"] for event in probes] == ["probe", "handshake"] * 2


# TCP operation, section 5.1.1.


async def test_18_what_comes_between_probe_and_handshake_is_not_answered(
    certs: Path, tmp_path: Path
) -> None:
    """And ends the connection; above all it is not taken for part of the session."""
    with trio.fail_after(patience(SECONDS)):
        async with server(tmp_path, certs) as listening:
            for work in (spurious_behind_the_probe, spurious_before_the_handshake):
                assert await with_client(listening, certs, work) == b""


async def test_19_no_clear_text_in_a_session(certs: Path, tmp_path: Path) -> None:
    """Also: calls and replies in TLS have their record marks."""

    def clear_text_after_tls(client: Client) -> bytes:
        assert hello_in_tls(client) == b"hello"
        assert client.tls is not None
        null = encode_call(8, ECHO.number, ECHO.version, 0, NULL_AUTH, NULL_AUTH)
        os.write(client.tls.fileno(), mark(len(null)) + null)
        os.set_blocking(client.tls.fileno(), True)
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := os.read(client.tls.fileno(), 1000):
                data += piece
        return data

    with trio.fail_after(patience(SECONDS)):
        async with server(tmp_path, certs) as listening:
            answer = await with_client(listening, certs, clear_text_after_tls)
            ends = [e["reason"] for e in listening.host.trace.since() if e["event"] == "garbage"]
    # At most records of TLS (tickets, an alert), and the connection is closed.
    assert answer[:1] in (b"", b"\x15", b"\x17")
    assert len(ends) == 1


async def test_21_the_end_is_announced(certs: Path, tmp_path: Path) -> None:
    """By either side: the ssl module insists on the other's close_notify."""

    def close_first(client: Client) -> None:
        hello_in_tls(client)
        assert client.tls is not None
        client.tls.unwrap()

    def wait_for_end(client: Client) -> bytes:
        hello_in_tls(client)
        assert client.tls is not None
        trio.from_thread.run_sync(established.set)
        return client.tls.recv(1)

    established = trio.Event()
    results: list[bytes] = []
    with trio.fail_after(patience(SECONDS)):
        async with trio.open_nursery() as nursery, server(tmp_path, certs) as listening:
            await with_client(listening, certs, close_first)

            async def wait() -> None:
                results.append(await with_client(listening, certs, wait_for_end))

            nursery.start_soon(wait)
            await established.wait()
    assert results == [b""]


# Security and policy, section 7.


async def test_28_what_protects_a_connection_can_be_seen(certs: Path, tmp_path: Path) -> None:
    """In the trace of events, in the state of the host, and by the services."""
    seen = []

    def note(client: Client) -> None:
        said(client, b"hello")

    with trio.fail_after(patience(SECONDS)):
        async with server(tmp_path, certs) as listening:
            await with_client(listening, certs, note)
            await with_client(listening, certs, hello_in_tls)
            trace = listening.host.trace.since()
            seen = [e["event"] for e in trace if e["event"] in ("clear-text", "handshake")]
            states = [connection["tls"] for connection in listening.host.stat()["connections"]]
    assert seen == ["clear-text", "handshake"]
    assert states[0] is None
    assert (states[1]["version"], states[1]["alpn"]) == ("TLSv1.3", "sunrpc")
    assert [level_of(peer) for peer in (CLEAR, ENCRYPTED_PEER, VERIFIED)] == [0, 1, 2]


CLEAR = FakePeer(tls=False, verified=False)
ENCRYPTED_PEER = FakePeer(verified=False)
VERIFIED = FakePeer()


async def test_29_a_stripped_starttls_ends_the_mount(certs: Path, tmp_path: Path) -> None:
    """TLS is what a mount asks for unless told otherwise; whoever takes the token out of the
    answer gets to see nothing but the probe."""
    send, heard = trio.open_memory_channel[bytes](0)

    async def script(stream: trio.SocketStream) -> None:
        await send.send(await answer_probe(stream, BAD_ANSWERS["no token"]))

    with trio.fail_after(patience(SECONDS)):
        async with client_of_script(tmp_path, certs, script) as connect:
            with pytest.raises(TlsRefused):
                await connect()
            assert await heard.receive() == b""
    assert MountOptions().security == MountConfig("server", "/").security == "tls"


async def test_30_auth_sys_over_mutual_tls(certs: Path, tmp_path: Path) -> None:
    with trio.fail_after(patience(SECONDS)):
        async with pair(certs, tmp_path, MTLS, MTLS) as both:
            credential = AuthSys(0, b"client", 1000, 100, (4,)).to_opaque()
            assert await both.rpc.call(SAY, b"hello", credential) == b"hello"
            (answered,) = [
                event
                for event in both.events("server", "upcall-answered")
                if event["procedure"] == "CONNECT"
            ]
    assert "VERIFIED" in answered["result"]
