"""How a client reaches its server: by which family, from which port, how often; and mountd's."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from tests.conftest import patience
from tests.kernel.krpc.rpcpeer import answers, peer
from tests.nfsd.client import Client
from tests.ports import full_port, silent_port
from umktls.errors import PeerError, UmktlsError, WorldError
from umktls.kernel.ground.events import Trace
from umktls.kernel.ground.refusals import NO_THREAD
from umktls.kernel.krpc import connecting, rpcbind, tcpconnect
from umktls.kernel.krpc.client import MountConfig, boot_client, mounted
from umktls.kernel.krpc.connecting import patiently
from umktls.kernel.krpc.probe import NotOffered
from umktls.kernel.krpc.server import ServerConfig, boot_server
from umktls.kernel.krpc.tcpconnect import UnknownHost, connect, look_up, may_pass
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.nfs.program import MOUNT3, NFS3
from umktls.nfsd import Export, NfsServer
from umktls.rpc.rpcbind import PMAP2

SECONDS = 20
Clock = trio.testing.MockClock


async def reached(server: str, family: str | None, reserved: bool | None) -> tuple[str, int]:
    """Connect to a listener on 127.0.0.1; our own address and port then."""
    with socket.create_server(("127.0.0.1", 0)) as listener, trio.fail_after(patience(SECONDS)):
        port = listener.getsockname()[1]
        with await connect(server, port, family, reserved, SECONDS) as sock:
            name = sock.getsockname()
            return name[0], name[1]


@pytest.mark.parametrize("name", ["h\udcff", "a" * 70, "a..b"])
async def test_what_cannot_be_a_name_is_said(name: str) -> None:
    with pytest.raises(UnknownHost, match="cannot be the name of a host: check it"):
        await look_up(name, 1, None)


async def test_a_name_is_not_unknown_for_want_of_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise RuntimeError(NO_THREAD)

    monkeypatch.setattr(trio.socket, "getaddrinfo", refuse)
    with pytest.raises(WorldError, match="cannot look up host 'server' now") as caught:
        await look_up("server", 1, None)
    assert not isinstance(caught.value, UnknownHost)
    assert caught.value.errno == errno.EAGAIN


async def test_proto_tcp_means_ipv4() -> None:
    assert (await reached("localhost", "inet", False))[0] == "127.0.0.1"
    with pytest.raises(WorldError, match=r"port \d+: Connection refused|cannot find host"):
        await reached("localhost", "inet6", False)


@pytest.mark.parametrize(
    ("server", "family", "name"),
    [("127.0.0.1", "inet6", "IPv6 (proto=tcp6)"), ("::1", "inet", "IPv4 (proto=tcp)")],
)
async def test_an_address_of_the_other_family(server: str, family: str, name: str) -> None:
    with pytest.raises(UnknownHost) as caught:
        await reached(server, family, False)
    assert str(caught.value).endswith(f"; it may have no address of {name}")


async def test_noresvport_is_an_ordinary_port() -> None:
    assert (await reached("127.0.0.1", None, False))[1] >= 1024


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may have a reserved port")
@pytest.mark.parametrize("reserved", [None, True])
async def test_roots_port_is_reserved(reserved: bool | None) -> None:
    assert (await reached("127.0.0.1", None, reserved))[1] < 1024


@pytest.mark.parametrize(
    ("uid", "number", "text"),
    [(1000, errno.EACCES, "only root may"), (0, errno.EADDRINUSE, "no port below 1024 is free")],
)
async def test_resvport_is_kept_or_refused(
    uid: int, number: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)

    def none_is_free(sock: object, family: int) -> bool:
        return False

    monkeypatch.setattr(tcpconnect, "bind_reserved", none_is_free)
    with pytest.raises(WorldError, match=text) as caught:
        await reached("127.0.0.1", None, True)
    assert caught.value.errno == number
    await reached("127.0.0.1", None, None)


def test_the_reserved_port_that_was_given_up_last_is_tried_last() -> None:
    ports = tcpconnect.ReservedPorts()
    first = [next(ports.each()) for _ in tcpconnect.RESERVED_PORTS]
    assert sorted(first, reverse=True) == list(tcpconnect.RESERVED_PORTS)
    assert list(ports.each()) == first


def test_where_no_reserved_port_is_free_none_is_looked_for_each_time() -> None:
    now = 100.0
    ports = tcpconnect.ReservedPorts(lambda: now)
    hopes = [ports.hopeful]
    for _ in range(2):
        assert len(list(ports.each())) == len(tcpconnect.RESERVED_PORTS)
        hopes.append(ports.hopeful)
        now += tcpconnect.FRUITLESS_SECONDS
        hopes.append(ports.hopeful)
    next(ports.each())
    assert [*hopes, ports.hopeful] == [True, False, True, False, True, True]


async def test_an_address_needs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio.socket, "getaddrinfo", None)
    assert (await look_up("127.0.0.1", 2049, None))[0][1] == ("127.0.0.1", 2049)
    assert (await look_up("::1", 2049, "inet6"))[0][1][:2] == ("::1", 2049)


async def test_a_name_server_that_is_away_may_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter([socket.EAI_AGAIN, socket.EAI_NONAME])

    async def fail(*arguments: object, **more: object) -> None:
        number = next(numbers)
        raise socket.gaierror(number, "as getaddrinfo(3) says")

    monkeypatch.setattr(trio.socket, "getaddrinfo", fail)
    for expected in (True, False):
        with pytest.raises(WorldError, match="as getaddrinfo") as caught:
            await connect("server", 2049, None, False, SECONDS)
        assert may_pass(caught.value) is expected


async def test_a_server_that_does_not_answer_is_given_up(autojump_clock: Clock) -> None:
    """As where a firewall drops."""
    with full_port() as port, trio.fail_after(100):
        with pytest.raises(WorldError, match=f"port {port}: Connection timed out; no answer"):
            await connect("127.0.0.1", port, None, False, 7.0)
        assert trio.current_time() == pytest.approx(7.0)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (WorldError("refused", errno.ECONNREFUSED), True),
        (WorldError("no answer", errno.ETIMEDOUT), True),
        (WorldError("no file", errno.ENOENT), False),
        (NotOffered("no TLS", errno.ECONNREFUSED), False),
        (UnknownHost("typing error", errno.EHOSTUNREACH), False),
        (PeerError("nonsense", errno.EPROTO), False),
    ],
)
def test_what_may_pass(error: UmktlsError, passes: bool) -> None:
    assert may_pass(error) is passes


class Tries:
    """In the place of connecting: fails so often, then gives a socket."""

    def __init__(self, failures: int, error: UmktlsError) -> None:
        self.left = failures
        self.error = error
        self.times: list[float] = []
        self.told: list[UmktlsError] = []
        self.trace = Trace("client-1", "client")

    async def connect(self) -> KernelSocket:
        self.times.append(trio.current_time())
        self.left -= 1
        if self.left >= 0:
            raise self.error
        return cast(KernelSocket, self)

    async def run(self, seconds: float) -> object:
        return await patiently(self.connect, self.trace, seconds, self.told.append)


REFUSED = WorldError("nobody there", errno.ECONNREFUSED)


async def test_a_server_that_comes_late_is_waited_for(autojump_clock: Clock) -> None:
    tries = Tries(8, REFUSED)
    began = trio.current_time()
    assert await tries.run(1000) is tries
    assert [time - began for time in tries.times] == [0, 1, 3, 7, 15, 31, 61, 91, 121]
    assert tries.told == [REFUSED]  # once
    events = list(tries.trace.since())
    assert events[0]["text"] == "not mounted yet: nobody there; next try in 1 s"
    assert len(events) == 8


async def test_patience_ends(autojump_clock: Clock) -> None:
    tries = Tries(1000, REFUSED)
    began = trio.current_time()
    with pytest.raises(WorldError, match="nobody there"):
        await tries.run(20)
    assert tries.times[-1] - began == 20


@pytest.mark.parametrize("seconds", [0.0, 100.0])
async def test_what_cannot_pass_is_told_at_once(autojump_clock: Clock, seconds: float) -> None:
    tries = Tries(9, NotOffered("no TLS") if seconds else REFUSED)
    with pytest.raises(UmktlsError):
        await tries.run(seconds)
    assert len(tries.times) == 1
    assert tries.told == []


@pytest.mark.parametrize(
    ("security", "mount_tls"), [("none", False), ("mtls", False), ("mtls", True)]
)
async def test_mountd_somewhere_else(
    tmp_path: Path, certs: Path, security: str, mount_tls: bool
) -> None:
    """mountport=: the root comes from there, in clear or as NFS has it; all else goes to the
    server, and at the end MOUNT hears of it."""
    nfsd = NfsServer([Export(str(tmp_path))], tmp_path / "state")
    nfs, mountd, _ = nfsd.services()
    common: dict[str, Any] = {"security": security, "certs": certs}
    server = ServerConfig(("127.0.0.1",), 0, **common)
    async with AsyncExitStack() as stack:
        stack.callback(nfsd.close)
        stack.enter_context(trio.fail_after(patience(SECONDS)))
        a, b = [
            await stack.enter_async_context(
                boot_server(replace(server, rundir=tmp_path / name), [service])
            )
            for name, service in (("n", nfs), ("m", mountd))
        ]
        where: dict[str, Any] = {
            "mount_port": b.port,
            "mount_tls": mount_tls,
            "rundir": tmp_path / "c",
        }
        config = MountConfig("127.0.0.1", str(tmp_path), a.port, **where, **common)
        host = await stack.enter_async_context(boot_client(config))
        async with mounted(host, config) as mount:
            assert mount.root
            (sock,) = host.sockets.values()
            assert sock.security == security
            stats = host.stat()["connections"]
            assert [(one["state"], one["tls"] is not None) for one in stats if one["tls"]] == [
                *([("established", True)] if security != "none" else []),
                *([("closed", True)] if mount_tls else []),
            ]
            (event,) = [one for one in host.trace.since() if one["event"] == "mountd"]
            assert event["how"] == ("TLS" if mount_tls else "clear")
            assert len(mounts(nfsd)) == 1
            for side in (a, b):
                assert any(one["rpc"]["calls"] for one in side.host.stat()["connections"])
        assert mounts(nfsd) == []


def mounts(server: NfsServer) -> list[Any]:
    """Who has mounted what, as the server knows it."""
    return list(Client(server).result(MOUNT3, "DUMP", None))


@pytest.mark.parametrize("found", [True, False])
async def test_nfs_where_rpcbind_says(
    tmp_path: Path, found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing is at the usual port, and none was given."""
    nfsd = NfsServer([Export(str(tmp_path))], tmp_path / "state")
    async with AsyncExitStack() as stack:
        stack.callback(nfsd.close)
        stack.enter_context(trio.fail_after(patience(SECONDS)))
        config = ServerConfig(
            ("127.0.0.1",), 0, security="none", no_daemon=True, rundir=tmp_path / "s"
        )
        server = await stack.enter_async_context(boot_server(config, nfsd.services()))
        answer = answers(PMAP2, GETPORT=lambda wanted: server.port if found else 0)
        played = await stack.enter_async_context(peer(answer))
        monkeypatch.setattr(rpcbind, "RPCBIND_PORT", played.port)
        mount = MountConfig(
            "127.0.0.1",
            str(tmp_path),
            stack.enter_context(silent_port()),
            find_port=True,
            security="none",
            rundir=tmp_path / "c",
        )
        host = await stack.enter_async_context(boot_client(mount))
        if found:
            async with mounted(host, mount) as client:
                assert client.root
            assert host.stat()["mount"]["what"] == f"127.0.0.1:{server.port}:{tmp_path}"
            told = [one["what"] for one in host.trace.since() if one["event"] == "mounted"]
            assert told == [f"127.0.0.1:{server.port}:{tmp_path} with none"]
            assert {call.program for _, call in played.calls} == {PMAP2.number}
            return
        with pytest.raises(
            WorldError, match=r"Connection refused.*no other port for NFS version 3"
        ):
            async with mounted(host, mount):
                pass


async def test_mount_comes_later_than_nfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that boots: rpcbind knows MOUNT at the third time it is asked."""
    nfsd = NfsServer([Export(str(tmp_path))], tmp_path / "state")
    nfs, mountd, _ = nfsd.services()
    monkeypatch.setattr(connecting, "RETRY_PAUSES", (0.01,))
    asked: list[Any] = []

    def getport(wanted: Any) -> int:
        asked.append(wanted)
        return servers[1].port if len(asked) > 4 else 0  # TCP and UDP

    async with AsyncExitStack() as stack:
        stack.callback(nfsd.close)
        stack.enter_context(trio.fail_after(patience(SECONDS)))
        plain = ServerConfig(("127.0.0.1",), 0, security="none", no_daemon=True)
        servers = [
            await stack.enter_async_context(
                boot_server(replace(plain, rundir=tmp_path / name), [service])
            )
            for name, service in (("n", nfs), ("m", mountd))
        ]
        played = await stack.enter_async_context(peer(answers(PMAP2, GETPORT=getport)))
        monkeypatch.setattr(rpcbind, "RPCBIND_PORT", played.port)
        config = MountConfig(
            "127.0.0.1",
            str(tmp_path),
            servers[0].port,
            security="none",
            retry_seconds=SECONDS,
            rundir=tmp_path / "c",
        )
        host = await stack.enter_async_context(boot_client(config))
        told: list[UmktlsError] = []
        async with mounted(host, config, told.append) as mount:
            assert mount.root
        (error,) = told
        assert "has no MOUNT version 3 over tcp; is mountd running there" in str(error)
        assert len([one for one in host.trace.since() if one["event"] == "mount-delayed"]) == 2


async def test_a_port_that_was_given_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*arguments: object) -> KernelSocket:
        raise REFUSED

    monkeypatch.setattr(connecting, "make_connection", refuse)
    monkeypatch.setattr(connecting, "other_port", None)
    config = MountConfig("127.0.0.1", "/", 99, security="none")
    host = cast(Any, SimpleNamespace(trace=Trace("h", "client")))
    with pytest.raises(WorldError):
        await connecting.first_connection(host, config, NFS3, lambda error: None)


async def test_mountd_is_reached_as_the_options_say() -> None:
    config = MountConfig("server", "/", family="inet6", reserved_port=False)
    asked: list[tuple[object, ...]] = []

    async def note(*arguments: object) -> socket.socket:
        asked.append(arguments)
        return socket.socket()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tcpconnect, "connect", note)
        (await connecting.connect_tcp(config)).close()
    assert asked == [("server", 2049, "inet6", False, 10.0)]
