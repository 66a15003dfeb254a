"""Where a server's MOUNT is found, and what is said where it is not: rpcbind and MOUNT, played."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.conftest import patience
from tests.kernel.krpc.rpcpeer import Answer, Peer, answers, peer
from umktls.errors import CallerError, UmktlsError, WorldError
from umktls.kernel.ground.events import Trace
from umktls.kernel.krpc import mountd, rpcbind, tcpconnect
from umktls.kernel.krpc.mountconfig import MountConfig, check_config
from umktls.kernel.krpc.mountd import Caller, MountService, NoMountd, exports_of, root_of
from umktls.kernel.krpc.plaincalls import Place, plain_calls
from umktls.nfs.mount import exportnode, mountres3_fail, mountres3_ok, mountstat3
from umktls.nfs.program import MOUNT3
from umktls.rpc.client import ProgramUnavailable
from umktls.rpc.message import NULL_AUTH, AcceptStat, Call, OpaqueAuth, encode_accepted
from umktls.rpc.program import Procedure, Program
from umktls.rpc.rpcbind import PMAP2

SECONDS = 20
HANDLE = b"handle"
MOUNT1 = Program(MOUNT3.number, 1, "MOUNT", dict(MOUNT3.procedures))
NOT_HERE = ProgramUnavailable("the server does not offer this program")
HUNG_UP = WorldError("the server ends every connection", errno.ECONNRESET)


@dataclass
class Nfs:
    """NFS's own connection: what is called on it ends so."""

    error: UmktlsError | None = NOT_HERE
    asked: list[str] = field(default_factory=list)

    async def call(self, procedure: Procedure[Any, Any], args: Any, auth: OpaqueAuth, /) -> Any:
        await trio.lowlevel.checkpoint()
        self.asked.append(procedure.name)
        if self.error is not None:
            raise self.error
        return mountres3_ok(HANDLE, ())


def gives(result: Any = None, exports: bool = True, program: Program = MOUNT3) -> Answer:
    """A MOUNT that answers MNT so."""
    more: dict[str, Callable[[Any], Any]] = {}
    if exports:
        more["EXPORT"] = lambda _: [exportnode(b"/a", []), exportnode(b"/b", [])]
    ok = mountres3_ok(HANDLE, (1,)) if result is None else result
    return answers(program, MNT=lambda path: ok, UMNT=lambda path: None, **more)


@dataclass
class World:
    """A server with rpcbind and MOUNT, and a mount of it."""

    mount: Peer
    rpcbind: Peer
    nfs: Nfs = field(default_factory=Nfs)
    trace: Trace = field(default_factory=lambda: Trace("h", "client"))

    def service(self, near: bool = True, **more: Any) -> MountService:
        family = socket.AF_INET6 if ":" in self.mount.host else socket.AF_INET
        place = Place(family, (self.mount.host, 2049)) if near else None
        config = MountConfig("server", "/a", 2049, security="none", reserved_port=False, **more)
        return MountService(config, self.trace, self.nfs, place, no_tls)


def no_tls(config: MountConfig) -> Any:
    raise AssertionError("TLS was not asked for")


@asynccontextmanager
async def world(
    monkeypatch: pytest.MonkeyPatch,
    mount: Answer | None = None,
    ports: dict[str, int | None] | None = None,
    host: str = "127.0.0.1",
    **how: bool,
) -> AsyncIterator[World]:
    """ports: what rpcbind says by protocol, None for where MOUNT really is; {}: nothing."""
    known: dict[str, int | None] = {"tcp": None, "udp": None} if ports is None else ports
    async with peer(mount or gives(), host=host, **how) as there:

        def getport(wanted: Any) -> int:
            assert wanted.prog == MOUNT3.number
            port = known.get({6: "tcp", 17: "udp"}[wanted.prot], 0)
            return there.port if port is None else port

        async with peer(answers(PMAP2, GETPORT=getport), host=host) as mapper:
            monkeypatch.setattr(rpcbind, "RPCBIND_PORT", mapper.port)
            with trio.fail_after(patience(SECONDS)):
                yield World(there, mapper)


async def root(calls: Caller) -> bytes:
    return await root_of(calls, "server", "/a", NULL_AUTH)


async def test_where_nfs_is_nobody_else_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(monkeypatch) as one:
        one.nfs.error = None
        assert await one.service().ask(root) == HANDLE
        assert one.nfs.asked == ["MNT"]
        assert one.rpcbind.calls == one.mount.calls == []


@pytest.mark.parametrize("error", [NOT_HERE, HUNG_UP], ids=["refused", "hung up"])
@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
async def test_where_rpcbind_says(
    error: UmktlsError, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the address at which NFS was reached."""
    async with world(monkeypatch, host=host) as one:
        one.nfs.error = error
        assert await one.service().ask(root) == HANDLE
        assert [how for how, _, _ in one.mount.asked()] == ["tcp", "tcp"]
        (event,) = one.trace.since()
        assert event["where"] == f"{host} TCP port {one.mount.port}"


async def test_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    async with peer(gives(), host="::1") as there:
        one = World(there, there)
        assert await one.service(mount_port=there.port).ask(root) == HANDLE


@pytest.mark.parametrize("protocol", [None, "udp"])
async def test_by_udp_where_it_is_not_by_tcp(
    protocol: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports: dict[str, int | None] | None = {"udp": None} if protocol is None else None
    async with world(monkeypatch, ports=ports) as one:
        assert await one.service(mount_protocol=protocol).ask(root) == HANDLE
        assert {how for how, _, _ in one.mount.asked()} == {"udp"}
        assert one.nfs.asked == ([] if protocol else ["MNT"])


async def test_a_port_that_is_given_needs_no_rpcbind(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(monkeypatch, ports={}) as one:
        assert await one.service(mount_port=one.mount.port).ask(root) == HANDLE
        assert not one.nfs.asked
        assert not one.rpcbind.calls


async def test_another_host(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(monkeypatch) as one:
        assert await one.service(mount_host="127.0.0.1").ask(root) == HANDLE
        assert one.nfs.asked == []


async def test_several_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one has no rpcbind."""

    async def found(server: str, port: int, family: str | None) -> list[Any]:
        return [(socket.AF_INET, (host, port)) for host in ("127.0.0.3", "127.0.0.1")]

    monkeypatch.setattr(mountd, "look_up", found)
    async with world(monkeypatch) as one:
        assert await one.service(mount_host="other").ask(root) == HANDLE


async def failure(service: MountService) -> str:
    with pytest.raises(NoMountd) as caught:
        await service.ask(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_no_rpcbind(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(monkeypatch) as one:
        port = one.mount.port
        monkeypatch.setattr(rpcbind, "RPCBIND_PORT", free_port())
        text = await failure(one.service())
        assert "no MOUNT protocol at server: rpcbind cannot be asked for it (127.0.0.1 TCP " in text
        assert "-o mountport=PORT says where it is" in text
        assert text.endswith(
            "and not at its NFS port either (the server does not offer this program)"
        )
        assert await one.service(mount_port=port).ask(root) == HANDLE


async def test_rpcbind_behind_a_firewall_that_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpcbind, "port_of", silence)
    async with world(monkeypatch) as one:
        text = await failure(one.service())
        assert (
            "rpcbind cannot be asked for it (127.0.0.1 TCP port 111: Connection timed out" in text
        )


async def silence(*arguments: object) -> int:
    await trio.lowlevel.checkpoint()
    where = "127.0.0.1 TCP port 111: Connection timed out"
    raise WorldError(where, errno.ETIMEDOUT)


async def test_a_firewall_that_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a listener does whose backlog is full."""
    async with world(monkeypatch) as one:
        with ExitStack() as stack:
            full = stack.enter_context(socket.socket())
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            for _ in range(4):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(full.getsockname())
            port = full.getsockname()[1]
            service = one.service(mount_port=port, mount_protocol="tcp", connect_seconds=0.2)
            text = await failure(service)
        assert (
            f"127.0.0.1 TCP port {port}: Connection timed out; is its mountd running, and" in text
        )


async def test_a_firewall_that_rejects(monkeypatch: pytest.MonkeyPatch) -> None:
    async def rejected(*arguments: object) -> socket.socket:
        raise OSError(errno.EHOSTUNREACH, "")

    async with world(monkeypatch) as one:
        service = one.service(mount_port=one.mount.port)
        monkeypatch.setattr(tcpconnect, "connect_address", rejected)
        text = await failure(service)
        assert "TCP port" in text
        assert text.endswith("No route to host; a firewall may be in the way")


async def test_rpcbind_does_not_know_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(monkeypatch, ports={}) as one:
        text = await failure(one.service())
        assert "rpcbind of 127.0.0.1 has no MOUNT version 3 over tcp; is mountd running" in text


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        number: int = sock.getsockname()[1]
        return number


async def test_rpcbind_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has is of a mountd that has ended."""
    async with world(monkeypatch, ports={"tcp": free_port()}) as one:
        text = await failure(one.service())
        assert "Connection refused; is its mountd running, and is that the port?" in text


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
async def test_a_mountd_that_says_nothing(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(monkeypatch, lambda call: None) as one:
        text = await failure(one.service(mount_protocol=protocol, mount_seconds=0.2))
        assert f"{protocol.upper()} port {one.mount.port} did not answer NULL within 0.2 s" in text
        assert "does a firewall let MOUNT through?" in text


async def test_a_slow_mountd_has_half_a_minute() -> None:
    """However long the mount's calls may take."""

    near = Place(socket.AF_INET, ("127.0.0.1", 1))
    config = MountConfig("server", "/a", security="none", mount_seconds=180.0, mount_port=1)
    asked: list[float] = []

    def calls(place: Place, seconds: float, *more: Any) -> Any:
        asked.append(seconds)
        return plain_calls(place, 0.01, False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mountd, "plain_calls", calls)
        service = MountService(config, Trace("h", "client"), Nfs(), near, no_tls)
        await failure(service)
    assert set(asked) == {30.0}


async def test_an_older_mountd(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(monkeypatch, gives(program=MOUNT1)) as one:
        text = await failure(one.service())
        assert "the server knows versions 1 to 1 of this program only" in text


async def test_not_a_mountd_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(monkeypatch, lambda call: b"SSH-2.0-nonsense") as one:
        assert f"127.0.0.1 TCP port {one.mount.port}: " in await failure(one.service())


# ---- what MNT says


@pytest.mark.parametrize("status", list(mountstat3)[1:])
async def test_an_export_that_is_not_given(
    status: mountstat3, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(monkeypatch, gives(mountres3_fail(status))) as one:
        with pytest.raises(CallerError, match=r"^server does not give /a: .*; it exports /a, /b$"):
            await one.service().ask(root)


async def test_a_server_that_lists_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = gives(mountres3_fail(mountstat3.MNT3ERR_ACCES), exports=False)
    async with world(monkeypatch, refused) as one:
        with pytest.raises(CallerError, match=r"Permission denied \(on server, .*log\)$") as caught:
            await one.service().ask(root)
        assert caught.value.errno == errno.EACCES


@pytest.mark.parametrize("flavors", [(), (1,), (0,), (390003, 1)])
async def test_credentials_that_will_do(
    flavors: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(monkeypatch, gives(mountres3_ok(HANDLE, flavors))) as one:
        assert await one.service().ask(root) == HANDLE


async def test_an_export_for_kerberos_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(monkeypatch, gives(mountres3_ok(HANDLE, (390004, 390005)))) as one:
        with pytest.raises(
            CallerError, match=r"other RPC credentials only .flavors 390004, 390005"
        ):
            await one.service().ask(root)


async def test_a_list_of_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(monkeypatch) as one:

        async def ask(calls: Caller) -> list[bytes]:
            return await exports_of(calls, NULL_AUTH)

        assert await one.service().ask(ask) == [b"/a", b"/b"]


# ---- the end


async def test_mountd_hears_of_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it was found: rpcbind is not asked again."""
    async with world(monkeypatch) as one:
        service = one.service()
        await service.ask(root)
        asked = len(one.rpcbind.calls)
        await service.unmounted(b"/a", NULL_AUTH)
        assert one.mount.calls[-1][1].procedure == MOUNT3["UMNT"].number
        assert len(one.rpcbind.calls) == asked
        assert [event["event"] for event in one.trace.since()] == ["mountd"]


async def test_on_nfs_connection_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(monkeypatch) as one:
        one.nfs.error = None
        service = one.service()
        await service.ask(root)
        await service.unmounted(b"/a", NULL_AUTH)
        assert one.nfs.asked == ["MNT", "UMNT"]


async def test_an_end_that_nobody_hears_takes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    known, silent = gives(), trio.Event()

    def answer(call: Call) -> bytes | None:
        return None if silent.is_set() else known(call)

    monkeypatch.setattr(mountd, "UMNT_SECONDS", 0.1)
    async with world(monkeypatch, answer) as one:
        service = one.service()
        await service.ask(root)
        silent.set()
        await service.unmounted(b"/a", NULL_AUTH)


async def test_an_end_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    known = gives()

    def answer(call: Call) -> bytes | None:
        if call.procedure == MOUNT3["UMNT"].number:
            return encode_accepted(call.xid, NULL_AUTH, AcceptStat.SYSTEM_ERR)
        return known(call)

    async with world(monkeypatch, answer) as one:
        service = one.service()
        await service.ask(root)
        await service.unmounted(b"/a", NULL_AUTH)


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"security": "none"}, "mountsec=tls asks for TLS, and the mount itself for clear text"),
        ({"mount_protocol": "udp"}, "TLS goes over TCP, and mountproto= asks for UDP"),
    ],
)
def test_tls_for_mount_alone(more: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(CallerError, match=text):
        check_config(MountConfig("server", "/", mount_tls=True, certs=tmp_path, **more))


@pytest.mark.parametrize("security", ["", "clear", "TLS", "mtls "])
def test_a_security_that_there_is_not_is_not_clear_text(security: str, tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="there are: tls, mtls, none"):
        check_config(MountConfig("server", "/", security=security, certs=tmp_path))
