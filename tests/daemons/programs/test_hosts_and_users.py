"""What rpctlssd says of a client, and what becomes of it in the kernel and in nfsd."""

from __future__ import annotations

import pwd
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.conftest import needs_root, patience
from tests.daemons.fakesocket import SECONDS
from tests.tlsworld import AUTHORITY
from umktls.errors import UmktlsError
from umktls.kernel.host.host import Host
from umktls.kernel.krpc.client import NfsClient, boot_client, mounted
from umktls.kernel.krpc.server import ServerConfig, boot_server
from umktls.nfs.program import NFS3
from umktls.nfs.types import (
    COMMIT3args,
    CREATE3args,
    FSSTAT3args,
    createhow3,
    createmode3,
    diropargs3,
    nfsstat3,
    sattr3,
)
from umktls.nfsd import Export, NfsServer
from umktls.nfsd.exports.rules import Rules, ca_fingerprints, name_pattern
from umktls.rpc.message import NULL_AUTH, AuthSys
from umktls.testing.certificates import CLIENT, directory
from umktls.testing.echo import SAY
from umktls.testing.hosts import mount_config, pair

MTLS = {"security": "mtls"}
ROOT = AuthSys(0, b"client", 0, 0, ()).to_opaque()


def certificates(path: Path, user: str | None = None, email: str = "") -> Path:
    client = replace(CLIENT, user=user, emails=(email,) if email else ())
    return directory(path, AUTHORITY, client=client)


async def test_calls_of_a_disabled_connection(tmp_path: Path) -> None:
    """-h, and a certificate that names no host: FreeBSD keeps the connection and rejects calls."""
    server = {**MTLS, "daemon_arguments": ("-h",)}
    with trio.fail_after(patience(SECONDS)):
        async with pair(certificates(tmp_path / "pki"), tmp_path, MTLS, server) as both:
            with pytest.raises(UmktlsError, match="AUTH_REJECTEDCRED") as caught:
                await both.rpc.call(SAY, b"with a credential", ROOT)
            assert "-h of the server's rpctlssd" in str(caught.value)
            assert str(caught.value).endswith(" [connection c1]")
            assert await both.rpc.call(SAY, b"without one", NULL_AUTH) == b"without one"
            assert both.events("server", "disabled")
            rejected = await both.event("server", "rejected")
            assert rejected["reason"] == "AUTH_SYS: AUTH_REJECTEDCRED"
            warnings = both.events("server", "warning")
    assert "its certificate is for no name at all" in warnings[0]["reason"]


@asynccontextmanager
async def serving_files(
    tmp_path: Path, certs: Path, export: Export, *arguments: str
) -> AsyncIterator[tuple[Host, NfsServer, Any]]:
    """A server host with nfsd, and a way to mount it."""
    nfsd = NfsServer([export], tmp_path / "state")
    config = ServerConfig(
        ("127.0.0.1",),
        0,
        security="mtls",
        certs=certs,
        rundir=tmp_path / "s",
        daemon_arguments=arguments,
    )
    async with AsyncExitStack() as stack:
        stack.callback(nfsd.close)
        listening = await stack.enter_async_context(boot_server(config, nfsd.services()))
        mount = mount_config(
            listening.port, tmp_path / "c", certs=certs, export=export.name, **MTLS
        )
        yield listening.host, nfsd, mount


async def create(client: NfsClient, name: bytes) -> nfsstat3:
    how = createhow3(createmode3.UNCHECKED, sattr3(mode=0o644))
    args = CREATE3args(diropargs3(client.root, name), how)
    result = await client.call(NFS3["CREATE"], args, ROOT)
    status: nfsstat3 = result.status
    return status


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory that everybody may write to."""
    path = tmp_path / "data"
    path.mkdir()
    path.chmod(0o777)
    return path


@needs_root
async def test_calls_are_the_certificates_users(tmp_path: Path, data: Path) -> None:
    certs = certificates(tmp_path / "pki", user="daemon@example.org")
    export = Export(str(data), security="certuser", squash="none")
    arguments = ("--certuser", "--domain", "example.org")
    with trio.fail_after(patience(SECONDS)):
        async with serving_files(tmp_path, certs, export, *arguments) as (host, _, mount):
            async with boot_client(mount) as client, mounted(client, mount) as nfs:
                assert await create(nfs, b"file") is nfsstat3.NFS3_OK
            users = [event for event in host.trace.since() if event["event"] == "certuser"]
    daemon = pwd.getpwnam("daemon")
    assert users[0]["uid"] == daemon.pw_uid
    assert (data / "file").stat().st_uid == daemon.pw_uid


async def test_an_export_for_users_and_a_certificate_without_one(tmp_path: Path) -> None:
    certs = certificates(tmp_path / "pki")
    export = Export(str(tmp_path), security="certuser")
    arguments = ("--certuser", "--domain", "example.org")
    with trio.fail_after(patience(SECONDS)):
        async with (
            serving_files(tmp_path, certs, export, *arguments) as (host, _, mount),
            boot_client(mount) as client,
        ):
            with pytest.raises(UmktlsError, match="AUTH_TOOWEAK"):
                async with mounted(client, mount):
                    raise AssertionError("it was mounted")
            (refused,) = [event for event in host.trace.since() if event["event"] == "refused"]
    assert "the export asks for certuser, and the connection has less" in refused["reason"]


@pytest.mark.parametrize("email", ["ann@example.org", "ann@example.com"])
async def test_an_export_for_certain_certificates(
    tmp_path: Path, email: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What the certificate says comes from the daemon over the kernel to the export."""
    certs = certificates(tmp_path / "pki", email=email)
    rules = Rules(
        authorities=frozenset({fingerprint(certs)}), names=(name_pattern("email:*@example.org"),)
    )
    export = Export(str(tmp_path), rules=rules)
    with trio.fail_after(patience(SECONDS)):
        async with (
            serving_files(tmp_path, certs, export) as (host, _, mount),
            boot_client(mount) as client,
        ):
            if email.endswith(".org"):
                async with mounted(client, mount):
                    return
            with pytest.raises(UmktlsError, match=r"denied \(on .*trace --past` says why"):
                async with mounted(client, mount):
                    raise AssertionError("it was mounted")
            (refused,) = [event for event in host.trace.since() if event["event"] == "refused"]
    assert refused["connection"] == "s1"
    assert "has no name that the export is for" in refused["reason"]
    assert refused["reason"] in caplog.text
    assert "[connection s1]" in caplog.text


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_rule_that_comes_while_it_is_mounted(tmp_path: Path, blocking: bool) -> None:
    """The call that fails then is told once, also where it was done in a thread."""
    certs = certificates(tmp_path / "pki")
    export = Export(str(tmp_path), squash="none")
    with trio.fail_after(patience(SECONDS)):
        async with serving_files(tmp_path, certs, export) as (host, nfsd, mount):
            async with boot_client(mount) as client, mounted(client, mount) as nfs:
                nfsd.replace_exports([replace(export, rules=Rules(names=(name_pattern("x.y"),)))])
                for _ in range(2):
                    if blocking:
                        result = await nfs.call(NFS3["COMMIT"], COMMIT3args(nfs.root, 0, 0), ROOT)
                    else:
                        result = await nfs.call(NFS3["FSSTAT"], FSSTAT3args(nfs.root), ROOT)
                    assert result.status is nfsstat3.NFS3ERR_ACCES
            (refused,) = [event for event in host.trace.since() if event["event"] == "refused"]
    assert "has no name that the export is for" in refused["reason"]


def fingerprint(certs: Path) -> bytes:
    (found,) = ca_fingerprints(certs / "ca.pem")
    return found
