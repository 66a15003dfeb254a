"""How a client's connections begin, and begin again: what fails, by which error."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from umktls.errors import UmktlsError, WorldError
from umktls.kernel.krpc import client, connecting
from umktls.kernel.krpc.mountconfig import MountConfig
from umktls.kernel.krpc.probe import NotOffered
from umktls.kernel.upcalls import tls
from umktls.nfs.program import NFS3
from umktls.nfs.types import FSINFO3resfail, nfsstat3
from umktls.rpc.client import AuthRejected
from umktls.rpc.message import AuthStat

CONFIG = MountConfig("server", "/")


class NoHost:
    """Nothing may be asked of it."""

    trace = None


async def test_only_a_refusal_has_levels_of_security_tried() -> None:
    """Whatever else FSINFO of the root says ends the mount by that, without another connection."""

    class Refusing:
        async def call(self, *of: object) -> Any:
            await trio.lowlevel.checkpoint()
            return FSINFO3resfail(nfsstat3.NFS3ERR_STALE, None)

    host, rpc = NoHost(), Refusing()
    with pytest.raises(WorldError, match=r"failed: NFS3ERR_STALE$") as caught:
        await client.file_system_info(host, CONFIG, rpc, b"root", False)  # type: ignore[arg-type]
    assert caught.value.errno == errno.ESTALE


async def test_a_connection_that_is_gone_before_it_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    near, far = socket.socketpair()

    async def connect(config: MountConfig) -> socket.socket:
        await trio.lowlevel.checkpoint()
        return near

    def adopt(*of: object) -> None:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    host: Any = SimpleNamespace(adopt=adopt)
    monkeypatch.setattr(connecting, "connect_tcp", connect)
    with far, pytest.raises(WorldError, match="server port 2049 closed the connection at once"):
        await connecting.make_connection(host, CONFIG)
    assert near.fileno() == -1


@dataclass
class Closing:
    """A connection that notes why it was closed."""

    name: str = "c1"
    session: None = None
    reasons: list[str] = field(default_factory=list)

    def close(self, reason: str) -> None:
        self.reasons.append(reason)


@pytest.mark.parametrize("error", [None, NotOffered("no STARTTLS")])
async def test_a_connection_for_a_probe_alone_ends_with_it(
    error: NotOffered | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def probe(*of: object) -> None:
        await trio.lowlevel.checkpoint()
        if error is not None:
            raise error

    async def connect(config: MountConfig) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(client, "connect_tcp", connect)
    monkeypatch.setattr(client, "probe", probe)
    sock = Closing()
    host: Any = SimpleNamespace(adopt=lambda *of: sock)
    with nullcontext() if error is None else pytest.raises(NotOffered):
        assert await client.answers_probe(host, CONFIG)
    assert sock.reasons == ["it was for a probe"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(WorldError("no answer"), "failed in probe"), (KeyboardInterrupt(), "interrupted")],
)
async def test_a_connection_that_gets_no_tls_is_closed(
    error: BaseException, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever came of it: the mount may be given up, or ended by its user."""

    async def probe(*of: object) -> None:
        await trio.lowlevel.checkpoint()
        raise error

    monkeypatch.setattr(connecting, "probe", probe)
    monkeypatch.setattr(tls, "note_failure", lambda host, sock, phase, error: f"failed in {phase}")
    sock: Any = Closing()
    host: Any = SimpleNamespace(totals={"handshakes_failed": 0})
    with pytest.raises(type(error)):
        await connecting.secure(host, sock, CONFIG)
    assert sock.reasons == [reason]


@pytest.mark.parametrize("elsewhere", [True, False])
async def test_a_refusal_by_another_mountd_has_no_levels_of_nfs_tried(
    elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where MOUNT is elsewhere, in clear, NFS's level of security is not what it refuses."""
    refusal = AuthRejected("refused", AuthStat.AUTH_TOOWEAK)

    async def refuse(*of: object) -> None:
        await trio.lowlevel.checkpoint()
        raise refusal

    async def explained(*of: object, known_in_clear: bool) -> WorldError:
        await trio.lowlevel.checkpoint()
        assert not known_in_clear
        return WorldError("the export wants more")

    monkeypatch.setattr(client, "explained", explained)
    host: Any = NoHost()
    service: Any = SimpleNamespace(elsewhere=elsewhere, ask=refuse)
    with pytest.raises(UmktlsError) as caught:
        await client.root_handle(host, CONFIG, service, 0.0, connecting.ignore)
    assert (caught.value is refusal) == elsewhere
    assert elsewhere or str(caught.value) == "the export wants more"


async def test_a_server_that_offers_no_tls_any_more_may_do_so_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`NotOffered` of the first connection is the mount's end; of a later one it is tried again,
    as whatever the world refuses is."""

    class Waiting:
        """The connections, which know how to make others."""

        first = SimpleNamespace(offer=lambda sock: None)

        def __init__(self, connect: Any, *of: object) -> None:
            self.connect = connect

        async def run(self) -> None:
            await trio.sleep_forever()

    async def refused(*of: object) -> None:
        await trio.lowlevel.checkpoint()
        raise NotOffered("no STARTTLS", errno.EACCES)

    monkeypatch.setattr(client, "Connections", Waiting)
    monkeypatch.setattr(client, "make_connection", refused)
    first: Any = None
    async with client.calls_over(NoHost(), CONFIG, NFS3, first, 1) as rpc:  # type: ignore[arg-type]
        connections: Any = rpc
        with pytest.raises(WorldError, match="no STARTTLS") as caught:
            await connections.connect()
        assert not isinstance(caught.value, NotOffered)
        assert caught.value.errno == errno.EACCES
