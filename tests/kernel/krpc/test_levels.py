"""Which level an export wants, said by a mount that has another one."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.conftest import patience
from umktls.certs.pki import Authority
from umktls.errors import WorldError
from umktls.kernel.krpc.client import boot_client, mounted
from umktls.kernel.krpc.levels import ANONYMOUS, wanted_level
from umktls.kernel.krpc.mountconfig import MountConfig
from umktls.kernel.krpc.server import ServerConfig, boot_server
from umktls.nfs.program import NFS3
from umktls.nfs.types import FSINFO3resfail, nfsstat3
from umktls.nfsd import Export, NfsServer
from umktls.nfsd.exports.exports import level_of
from umktls.rpc.server import CallContext, Service
from umktls.testing.certificates import directory

SECONDS = 30
NO = "is the export for this client?"


class Levels:
    """A server that gives the export at one of them."""

    def __init__(self, wants: str, tls: bool = True) -> None:
        self.wants = wants
        self.tls = tls
        self.tried: list[str] = []

    async def given(self, level: str) -> bool:
        await trio.lowlevel.checkpoint()
        self.tried.append(level)
        if level != self.wants:
            raise WorldError("FSINFO of the root failed: NFS3ERR_ACCES")
        return True

    async def offers_tls(self) -> bool:
        await trio.lowlevel.checkpoint()
        return self.tls

    async def said(self, own: str, certs: Path | None = None, clear: bool = True) -> str:
        config = MountConfig("server", "/", security=own, certs=certs)
        return await wanted_level(config, clear, self.given, self.offers_tls)


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    (tmp_path / "client").mkdir()
    for name in ("cert.pem", "certkey.pem"):
        (tmp_path / "client" / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("own", "wants", "option"),
    [
        ("tls", "none", "in clear text: mount with -o notls"),
        ("tls", "mtls", "in TLS with a client certificate: mount with -o mtls"),
        ("mtls", "none", "in clear text: mount with -o notls"),
        ("mtls", ANONYMOUS, "in TLS without a client certificate: mount with -o tls"),
    ],
)
async def test_the_level_that_works_is_named(
    own: str, wants: str, option: str, certs: Path
) -> None:
    assert await Levels(wants).said(own, certs) == f"the export is given {option}"


async def test_in_clear_nothing_is_tried_but_the_probe(certs: Path) -> None:
    for tls, text in (
        (True, "offers TLS, which the export may want"),
        (False, f"no TLS either: {NO}"),
    ):
        levels = Levels("mtls", tls)
        assert text in await levels.said("none", certs)
        assert levels.tried == []


async def test_a_handle_that_came_by_tls_is_not_told_in_clear(certs: Path) -> None:
    levels = Levels("none")
    text = await levels.said("tls", certs, clear=False)
    assert levels.tried == ["mtls"]
    assert (
        text == f"this connection has TLS; nor is it given in TLS with a client certificate: {NO}"
    )


async def test_no_certificate_to_show(tmp_path: Path) -> None:
    levels = Levels("mtls")
    text = await levels.said("tls", tmp_path, clear=False)
    assert text.endswith("it may want a client certificate, and there is none: see -o mtls")
    assert levels.tried == []


async def test_given_to_nobody(certs: Path) -> None:
    text = await Levels("").said("mtls", certs)
    assert text.endswith(f"clear text or TLS without a client certificate: {NO}")


async def test_a_trial_that_hangs(certs: Path, autojump_clock: trio.testing.MockClock) -> None:
    config = MountConfig("server", "/", certs=certs)

    async def hangs(level: str) -> bool:
        await trio.Event().wait()
        return True

    text = await wanted_level(config, True, hangs, Levels("").offers_tls)
    assert text.endswith(NO)
    assert trio.current_time() == 20


@pytest.mark.parametrize(
    ("own", "wants", "text"),
    [
        ("none", 1, "the server offers TLS, which the export may want: mount with -o tls or"),
        ("tls", 2, "the export is given in TLS with a client certificate: mount with -o mtls"),
        ("mtls", 1, "is given in TLS without a client certificate: mount with -o tls"),
        ("tls", 0, "the export is given in clear text: mount with -o notls"),
    ],
)
async def test_a_server_that_wants_one_level_alone(
    tmp_path: Path, own: str, wants: int, text: str
) -> None:
    """As knfsd: NFS3ERR_ACCES for FSINFO on any connection but those; MOUNT is elsewhere."""
    certs = directory(tmp_path / "pki", Authority.create())
    nfsd = NfsServer([Export(str(tmp_path))], tmp_path / "state")
    nfs, mountd, _ = nfsd.services()

    def fsinfo(args: Any, context: CallContext) -> Any:
        if level_of(context.peer) != wants:
            return FSINFO3resfail(nfsstat3.NFS3ERR_ACCES, None)
        return nfs.handlers["FSINFO"](args, context)

    picky = Service(NFS3, {**nfs.handlers, "FSINFO": fsinfo})
    server = ServerConfig(("127.0.0.1",), 0, security="none", certs=certs)
    async with AsyncExitStack() as stack:
        stack.callback(nfsd.close)
        stack.enter_context(trio.fail_after(patience(SECONDS)))
        a, b = [
            await stack.enter_async_context(
                boot_server(replace(server, rundir=tmp_path / name, no_daemon=not tls), [service])
            )
            for name, service, tls in (("n", picky, True), ("m", mountd, False))
        ]
        config = MountConfig(
            "127.0.0.1",
            str(tmp_path),
            a.port,
            mount_port=b.port,
            security=own,
            certs=certs,
            rundir=tmp_path / "c",
        )
        host = await stack.enter_async_context(boot_client(config))
        with pytest.raises(WorldError, match=f"FSINFO of the root failed: NFS3ERR_ACCES; .*{text}"):
            async with mounted(host, config):
                pass
