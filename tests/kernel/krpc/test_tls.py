"""TLS between a client host and a server host, by upcall, with the real daemons as processes."""

from __future__ import annotations

import signal
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from os import kill
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.conftest import patience
from umktls.abi.personality import PERSONALITIES
from umktls.abi.rpctls import RPCTLS_SYSC_SRVSTARTUP
from umktls.certs.pki import Authority
from umktls.errors import UmktlsError, WorldError
from umktls.kernel.host.children import program_path
from umktls.kernel.krpc.client import boot_client
from umktls.kernel.krpc.connecting import make_connection
from umktls.kernel.upcalls import tls
from umktls.rpc.message import NULL_AUTH, STARTTLS_VERIFIER, AcceptStat, encode_accepted
from umktls.rpc.record import mark
from umktls.testing.certificates import SERVER, directory, expired
from umktls.testing.echo import COUNT, SAY
from umktls.testing.hosts import Pair, mount_config, pair, serving
from umktls.testing.played import calls_to
from umktls.upcall import syscalls as wire

AUTHORITY = Authority.create()
TICKETS = 2


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    return directory(tmp_path / "pki", AUTHORITY)


MTLS = {"security": "mtls"}


async def test_the_life_of_a_connection(certs: Path, tmp_path: Path) -> None:
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, MTLS, MTLS) as both:
            assert await both.rpc.call(SAY, b"hello there", NULL_AUTH) == b"hello there"
            order = [event["event"] for event in both.client.trace.since()]
            handshake = both.events("client", "handshake")[0]
            (server_keys,) = both.events("server", "tx-keys")
            (mode,) = both.events("client", "mode")
            (early,) = both.events("client", "post-handshake")
    story = ["tcp-connect", "probe", "starttls", "upcall", "socket-taken", "tx-keys", "rx-keys"]
    places = [order.index(name) for name in [*story, "upcall-answered", "mode", "first-rpc"]]
    assert places == sorted(places)
    assert (handshake["version"], handshake["alpn"]) == ("TLSv1.3", "sunrpc")
    assert handshake["resumed"] is False
    assert (mode["tx"], mode["rx"]) == ("SW", "SW")
    # The server's two tickets used up its first two sequence numbers, and waited at the client.
    assert server_keys["sequence"] == TICKETS
    assert early["records"] == TICKETS
    waited = both.events("client", "control-record")
    assert early["bytes"] == sum(event["bytes"] for event in waited)


async def test_the_server_sees_who_calls(certs: Path, tmp_path: Path) -> None:
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, MTLS, MTLS) as both:
            await both.rpc.call(SAY, b"", NULL_AUTH)
            (connection,) = both.server.stat()["connections"]
    assert "umktls client" in connection["tls"]["peer"]
    assert connection["upcalls"]["connect"] == 1


async def test_a_lost_connection_resumes_with_a_ticket(certs: Path, tmp_path: Path) -> None:
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, MTLS, MTLS) as both:
            assert await both.rpc.call(COUNT, 1, NULL_AUTH) == 1
            assert both.rpc.socket is not None
            both.rpc.socket.shutdown(socket.SHUT_RDWR)
            assert await both.rpc.call(COUNT, 2, NULL_AUTH) == 2
            resumed = [event["resumed"] for event in both.events("client", "handshake")]
            totals = both.client.stat()["totals"]
    assert resumed == [False, True]
    assert (totals["handshakes"], totals["resumed"]) == (2, 1)


async def test_it_resumes_too_where_there_are_several_daemons(certs: Path, tmp_path: Path) -> None:
    """Each has keys of its own for its tickets, so the one that gave the ticket is to be asked."""
    with trio.fail_after(patience(50)):
        async with pair(certs, tmp_path, MTLS, {**MTLS, "daemons": 3}) as both:
            await both.event("server", "daemon-registered", 3)
            for number in range(4):
                assert await both.rpc.call(COUNT, number, NULL_AUTH) == number + 1
                assert both.rpc.socket is not None
                both.rpc.socket.shutdown(socket.SHUT_RDWR)
            resumed = [event["resumed"] for event in both.events("client", "handshake")]
            took = {event["pid"] for event in both.events("server", "socket-taken")}
    assert resumed == [False, True, True, True]
    assert len(took) == 1


@pytest.mark.parametrize("side", ["client", "server"])
async def test_new_keys_while_calls_are_in_flight(certs: Path, tmp_path: Path, side: str) -> None:
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, {}, {}) as both:
            host = both.client if side == "client" else both.server
            answers: list[bytes] = []

            async def talk(number: int) -> None:
                for _ in range(20):
                    data = bytes([number]) * 20_000
                    answers.append(await both.rpc.call(SAY, data, NULL_AUTH))

            async with trio.open_nursery() as nursery:
                for number in range(8):
                    nursery.start_soon(talk, number)
                await both.event("client", "first-rpc", 2)
                for _ in range(3):
                    assert await host.rekey(None) == 1
            for name in ("tx-keys", "rx-keys"):
                await both.event("client", name, 4)
                await both.event("server", name, 4)
    assert len(answers) == 160
    assert sum(map(len, answers)) == 160 * 20_000


async def test_a_close_is_announced(certs: Path, tmp_path: Path) -> None:
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, {}, {}) as both:
            await both.rpc.call(SAY, b"", NULL_AUTH)
            assert both.rpc.socket is not None
            await tls.disconnect(both.client, both.rpc.socket, "the test wants it")
            alert = await both.event("server", "alert")
            await both.event("server", "closed")
    assert alert["description"] == "close_notify"


async def refusal(
    certs: Path, tmp_path: Path, client: dict[str, Any], server: dict[str, Any]
) -> str:
    """Why a connection could not be made; also that nothing but the probe went in clear."""
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, client, server) as both:
            with pytest.raises(UmktlsError) as caught:
                await both.rpc.call(SAY, b"secret", NULL_AUTH)
            for connection in both.server.stat()["connections"]:
                assert connection["rpc"]["calls"] <= 1
    return str(caught.value)


async def test_wrong_authority(certs: Path, tmp_path: Path) -> None:
    stranger = directory(tmp_path / "other", AUTHORITY, trusted=Authority.create("another CA"))
    reason = await refusal(certs, tmp_path, {"certs": stranger}, {})
    assert "127.0.0.1" in reason
    assert "certificate" in reason


async def test_expired_server_certificate(certs: Path, tmp_path: Path) -> None:
    old = directory(tmp_path / "old", AUTHORITY, server=expired(SERVER))
    assert "expired" in await refusal(certs, tmp_path, {}, {"certs": old})


async def test_name_mismatch(certs: Path, tmp_path: Path) -> None:
    other = directory(
        tmp_path / "other", AUTHORITY, server=replace(SERVER, hosts=("nfs.example.org",))
    )
    reason = await refusal(certs, tmp_path, {}, {"certs": other})
    assert "localhost" in reason
    assert "nfs.example.org" in reason


async def test_no_client_certificate_where_one_is_required(certs: Path, tmp_path: Path) -> None:
    assert "certificate" in await refusal(certs, tmp_path, {}, MTLS)


async def test_client_certificate_of_a_stranger(certs: Path, tmp_path: Path) -> None:
    stranger = directory(tmp_path / "other", Authority.create("another CA"), trusted=AUTHORITY)
    reason = await refusal(certs, tmp_path, {**MTLS, "certs": stranger}, MTLS)
    assert "unknown" in reason or "certificate" in reason


async def test_server_without_tls(certs: Path, tmp_path: Path) -> None:
    reason = await refusal(certs, tmp_path, {}, {"offer_tls": False, "security": "none"})
    assert "does not offer TLS" in reason
    assert "-o notls" in reason


async def test_no_daemon(certs: Path, tmp_path: Path) -> None:
    reason = await refusal(certs, tmp_path, {"no_daemon": True, "deadline": 0.5}, {})
    assert "no rpctlscd is registered" in reason
    assert "start one" in reason


async def test_a_daemon_that_is_killed_in_the_handshake(certs: Path, tmp_path: Path) -> None:
    """The server's daemon is stopped first, so that the client's waits in the handshake."""
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, {"deadline": 2.0}, {}) as both:
            server_daemon = both.server.children[0].pid
            client_daemon = both.client.children[0].pid
            assert server_daemon is not None
            assert client_daemon is not None
            kill(server_daemon, signal.SIGSTOP)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(kill_when_taken, both, client_daemon)
                    with pytest.raises(UmktlsError):
                        await both.rpc.call(SAY, b"", NULL_AUTH)
            finally:
                kill(server_daemon, signal.SIGCONT)
            answered = both.events("client", "upcall-answered")[0]
    assert "went away" in answered["result"]


async def kill_when_taken(both: Pair, pid: int) -> None:
    await both.event("client", "socket-taken")
    kill(pid, signal.SIGKILL)


async def test_a_daemon_that_died_is_started_again_and_used(certs: Path, tmp_path: Path) -> None:
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, {}, {}) as both:
            await both.rpc.call(SAY, b"", NULL_AUTH)
            pid = both.client.children[0].pid
            assert pid is not None
            kill(pid, signal.SIGKILL)
            await both.event("client", "daemon-gone")
            assert await both.rpc.call(SAY, b"keys stay", NULL_AUTH) == b"keys stay"
            await both.event("client", "daemon-registered", 2)
            assert both.rpc.socket is not None
            both.rpc.socket.shutdown(socket.SHUT_RDWR)
            assert await both.rpc.call(SAY, b"again", NULL_AUTH) == b"again"


async def answer_probe_with(data: Callable[[bytes], bytes], stream: trio.SocketStream) -> None:
    probe = await stream.receive_some(4096)
    await stream.send_all(data(bytes(probe)))
    while await stream.receive_some(4096):
        pass


STARTTLS_ANSWER = encode_accepted(0, STARTTLS_VERIFIER, AcceptStat.SUCCESS)
PROBE_ANSWERS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "no RPC": (lambda probe: b"HTTP/1.1 400 Bad Request\r\n\r\n", "not RPC"),
    "another xid": (lambda probe: mark(len(STARTTLS_ANSWER)) + STARTTLS_ANSWER, "something else"),
    "the probe itself": (lambda probe: probe, "something else"),
    "no verifier": (
        lambda probe: mark(24) + probe[4:8] + b"\0\0\0\1" + bytes(16),
        "no STARTTLS verifier",
    ),
}


@pytest.mark.parametrize("name", PROBE_ANSWERS)
async def test_an_odd_answer_to_the_probe(certs: Path, tmp_path: Path, name: str) -> None:
    answer, expected = PROBE_ANSWERS[name]
    reason = await against(certs, tmp_path, lambda stream: answer_probe_with(answer, stream))
    assert expected in reason


async def against(
    certs: Path, tmp_path: Path, serve: Callable[[trio.SocketStream], Awaitable[None]]
) -> str:
    """Why no connection can be made to a server that behaves like `serve`."""
    with pytest.raises(UmktlsError) as caught:
        await raise_against(certs, tmp_path, serve)
    return str(caught.value)


async def raise_against(
    certs: Path, tmp_path: Path, serve: Callable[[trio.SocketStream], Awaitable[None]]
) -> None:
    """Make a connection to a server that behaves like `serve`."""
    with trio.fail_after(patience(30)):
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        config = mount_config(port, tmp_path / "c", certs=certs)
        async with boot_client(config) as host, trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, serve, listeners)
            await host.daemon_ready("rpctlscd")
            try:
                await make_connection(host, config)
            finally:
                nursery.cancel_scope.cancel()


async def test_a_server_that_hangs_up_on_the_probe(certs: Path, tmp_path: Path) -> None:
    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)
        await stream.aclose()

    assert "closed the connection" in await against(certs, tmp_path, hang_up)


async def test_a_server_that_resets_the_connection_on_the_probe(
    certs: Path, tmp_path: Path
) -> None:
    async def reset(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()

    assert "reset" in await against(certs, tmp_path, reset)


async def test_a_server_that_hangs_up_in_the_handshake(certs: Path, tmp_path: Path) -> None:
    """A server that is being restarted does that: no reason for a mount to give up."""

    async def hang_up(stream: trio.SocketStream) -> None:
        probe = await stream.receive_some(4096)
        answer = probe[4:8] + STARTTLS_ANSWER[4:]
        await stream.send_all(mark(len(answer)) + answer)
        await stream.receive_some(1)
        await stream.aclose()

    with pytest.raises(WorldError, match="closed the connection in the handshake"):
        await raise_against(certs, tmp_path, hang_up)


async def test_wrong_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = directory(tmp_path / "locked", AUTHORITY, passphrase=b"open sesame")
    monkeypatch.setenv("UMKTLS_KEY_PASSPHRASE", "wrong")
    with trio.fail_after(patience(30)):
        with pytest.raises(UmktlsError, match="passphrase"):
            async with serving(tmp_path / "s", certs=locked):
                raise AssertionError("a server came up without its key")
        monkeypatch.setenv("UMKTLS_KEY_PASSPHRASE", "open sesame")
        async with serving(tmp_path / "s", certs=locked):
            pass


async def test_no_process_and_no_file_is_left(certs: Path, tmp_path: Path) -> None:
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, {}, {}) as both:
            await both.rpc.call(SAY, b"", NULL_AUTH)
            pids = [both.client.children[0].pid, both.server.children[0].pid]
    for pid in pids:
        assert not alive(pid)
    assert not (tmp_path / "s").exists()
    assert not (tmp_path / "c").exists()


def alive(pid: int | None) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("told", [True, False])
async def test_a_failure_has_the_same_id_everywhere(
    certs: Path, tmp_path: Path, told: bool
) -> None:
    """In the error, in the trace, in the log of the daemon if it came so far."""
    old = directory(tmp_path / "old", AUTHORITY, server=expired(SERVER))
    server = {"certs": old} if told else {"offer_tls": False, "security": "none"}
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, {}, server) as both:
            with pytest.raises(UmktlsError) as caught:
                await both.rpc.call(SAY, b"", NULL_AUTH)
            (failed,) = both.events("client", "handshake-failed")
            log = (tmp_path / "c" / "rpctlscd.log").read_text()
    assert failed["connection"] == "c1"
    assert failed["reason"] in str(caught.value)
    assert str(caught.value).endswith("[connection c1]")
    assert failed["phase"] == ("certificate" if told else "probe")
    assert ("[connection c1] failed in phase certificate: " + failed["reason"] in log) == told
    assert f"failed in phase {failed['phase']}: {failed['reason']}" in str(caught.value)


async def test_a_certificate_that_was_not_shown(certs: Path, tmp_path: Path) -> None:
    """The server says so behind the client's end of the handshake, and closes: the alert is read
    though the first call can no longer be sent, and no second connection is tried."""
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, {}, MTLS) as both:
            with pytest.raises(UmktlsError) as caught:
                await both.rpc.call(SAY, b"", NULL_AUTH)
            (alert,) = both.events("client", "alert")
            attempts = both.events("client", "tcp-connect")
            log = (tmp_path / "c" / "rpctlscd.log").read_text()
    assert len(attempts) == 1
    assert (alert["connection"], alert["description"]) == ("c1", "certificate_required")
    assert "failed in phase alert: " + alert["reason"] in str(caught.value)
    assert str(caught.value).endswith("[connection c1]")
    assert "[connection c1] failed in phase alert: " + alert["reason"] in log
    assert alert["phase"] == "alert"


@pytest.mark.parametrize("name", ["umktls", "freebsd14"])
async def test_one_of_two_daemons_is_killed(certs: Path, tmp_path: Path, name: str) -> None:
    """They have been started by hand, so no other one comes; the one that is left goes on."""
    server: dict[str, Any] = {"no_daemon": True, "personality": PERSONALITIES[name]}
    with trio.fail_after(patience(50)):
        async with (
            pair(certs, tmp_path, {}, server) as both,
            calls_to(tmp_path / "s") as master,
            trio.open_nursery() as nursery,
        ):
            if name == "freebsd14":
                await master.call(wire.RpctlsSyscallArgs(RPCTLS_SYSC_SRVSTARTUP, b""))
            command = [program_path("rpctlssd"), "-D", str(certs / "server")]
            command += ["--rundir", str(tmp_path / "s")]
            run = partial(trio.run_process, command, check=False)
            daemons = [await nursery.start(run) for _ in range(2)]
            await both.event("server", "daemon-registered", 2)
            await both.rpc.call(SAY, b"", NULL_AUTH)
            holder = (await both.event("server", "socket-taken"))["pid"]
            (one,) = (daemon for daemon in daemons if daemon.pid == holder)
            one.kill()
            adopted = await both.event("server", "adopted")
            if name == "umktls":
                assert await both.server.rekey(None) == 1
            assert await both.rpc.call(SAY, b"still here", NULL_AUTH) == b"still here"
            assert both.client.totals["connections"] == 1
            nursery.cancel_scope.cancel()
    assert {holder, adopted["pid"]} == {daemon.pid for daemon in daemons}


async def test_in_version_1_a_daemon_takes_the_place_of_another(
    certs: Path, tmp_path: Path
) -> None:
    """And goes on with its sessions. The other one runs and is of no use any more."""
    server: dict[str, Any] = {"no_daemon": True, "personality": PERSONALITIES["freebsd14"]}
    with trio.fail_after(patience(50)):
        async with pair(certs, tmp_path, {}, server) as both, trio.open_nursery() as nursery:
            command = [program_path("rpctlssd"), "-D", str(certs / "server")]
            command += ["--rundir", str(tmp_path / "s")]
            run = partial(trio.run_process, command, check=False)
            first = await nursery.start(run)
            await both.event("server", "daemon-registered")
            await both.rpc.call(SAY, b"", NULL_AUTH)
            second = await nursery.start(run)
            adopted = await both.event("server", "adopted")
            assert [handle.pid for handle in both.server.handles["rpctlssd"]] == [second.pid]
            first.terminate()
            await first.wait()
            assert await both.rpc.call(SAY, b"still here", NULL_AUTH) == b"still here"
            assert [handle.pid for handle in both.server.handles["rpctlssd"]] == [second.pid]
            assert both.client.totals["connections"] == 1
            nursery.cancel_scope.cancel()
    assert adopted["pid"] == second.pid


async def test_in_version_1_a_worker_that_ends_is_replaced(certs: Path, tmp_path: Path) -> None:
    """The others stay: the master has said that there are several."""
    server: dict[str, Any] = {"daemons": 3, "personality": PERSONALITIES["freebsd14"]}
    with trio.fail_after(patience(50)):
        async with pair(certs, tmp_path, {}, server) as both:
            await both.event("server", "daemon-registered", 3)
            first, *others = [handle.pid for handle in both.server.handles["rpctlssd"]]
            kill(first, signal.SIGTERM)
            new = await both.event("server", "daemon-registered", 4)
            pids = [handle.pid for handle in both.server.handles["rpctlssd"]]
            assert pids == [*others, new["pid"]]
            assert await both.rpc.call(SAY, b"served", NULL_AUTH) == b"served"
