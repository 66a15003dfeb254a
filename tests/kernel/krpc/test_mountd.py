"""Where a server's MOUNT is found, and what is said where it is not: rpcbind and MOUNT, played."""

from __future__ import annotations

import errno
import socket
import struct
from typing import Any

import pytest
import trio
import trio.testing

from tests.conftest import patience
from tests.kernel.krpc.mountworld import (
    HANDLE,
    NOT_HERE,
    Nfs,
    World,
    failure,
    gives,
    no_tls,
    root,
    world,
)
from tests.kernel.krpc.rpcpeer import peer
from tests.ports import free_port, full_port
from umktls.errors import UmktlsError, WorldError
from umktls.kernel.ground.events import Trace
from umktls.kernel.krpc import mountd, rpcbind, tcpconnect
from umktls.kernel.krpc.mountconfig import MountConfig
from umktls.kernel.krpc.mountd import MountService
from umktls.kernel.krpc.plaincalls import Place, plain_calls
from umktls.nfs.program import MOUNT3
from umktls.rpc.message import NULL_AUTH
from umktls.rpc.program import Program

MOUNT1 = Program(MOUNT3.number, 1, "MOUNT", dict(MOUNT3.procedures))
HUNG_UP = WorldError("the server ends every connection", errno.ECONNRESET)


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


async def test_where_nfs_is_silent_nobody_else_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """MOUNT may well be there: what it would say is not looked for elsewhere, in clear."""
    async with world(monkeypatch) as one:
        one.nfs.error = WorldError("no answer", errno.ETIMEDOUT)
        with pytest.raises(WorldError, match="no answer"):
            await one.service().ask(root)
        assert one.rpcbind.calls == one.mount.calls == []


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
    async with world(monkeypatch) as one:
        with full_port() as port:
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


async def test_a_mountd_that_resets_what_it_has_accepted() -> None:
    """Before it was asked, too."""
    with socket.create_server(("127.0.0.1", 0)) as listener, trio.fail_after(patience(20)):
        place = Place(socket.AF_INET, listener.getsockname())
        async with plain_calls(place, 20.0) as calls:
            theirs, _ = listener.accept()
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            theirs.close()
            with pytest.raises(WorldError) as caught:
                await calls.call(MOUNT3["NULL"], None)
    assert caught.value.errno in (errno.ECONNRESET, errno.EPIPE)


async def test_a_mountd_that_says_nothing_does_not_keep_a_mount_that_ends(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """UMNT is a courtesy."""

    async def silent(*arguments: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(MountService, "ask", silent)
    config = MountConfig("server", "/a", security="none")
    service = MountService(config, Trace("h", "client"), Nfs(), None, no_tls)
    with trio.move_on_after(20) as limit:
        await service.unmounted(b"/a", NULL_AUTH)
    assert not limit.cancelled_caught
