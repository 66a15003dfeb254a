"""What MOUNT says of an export, and that it hears of the end of a mount."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.kernel.krpc.mountworld import HANDLE, gives, root, world
from umktls.errors import CallerError
from umktls.kernel.krpc import mountd
from umktls.kernel.krpc.mountconfig import MountConfig, check_config
from umktls.kernel.krpc.mountd import Caller, exports_of
from umktls.nfs.mount import mountres3_fail, mountres3_ok, mountstat3
from umktls.nfs.program import MOUNT3
from umktls.rpc.message import NULL_AUTH, AcceptStat, Call, encode_accepted


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


@pytest.mark.parametrize("protocol", [None, "tcp"])
def test_tls_for_mount_that_can_be(protocol: str | None) -> None:
    check_config(
        MountConfig("server", "/", mount_tls=True, mount_protocol=protocol, no_daemon=True)
    )


@pytest.mark.parametrize("more", [{"security": "none"}, {"mount_protocol": "udp"}])
def test_mount_in_clear_text(more: dict[str, Any]) -> None:
    check_config(MountConfig("server", "/", no_daemon=True, **more))


@pytest.mark.parametrize(
    ("security", "lacks"),
    [("tls", "ca.pem"), ("mtls", "client/cert.pem"), ("mtls", "client/certkey.pem")],
)
def test_certificates_that_are_not_there(security: str, lacks: str, tmp_path: Path) -> None:
    (tmp_path / "client").mkdir()
    for name in ("ca.pem", "client/cert.pem", "client/certkey.pem"):
        (tmp_path / name).touch()
    config = MountConfig("server", "/", security=security, certs=tmp_path)
    check_config(config)
    (tmp_path / lacks).unlink()
    with pytest.raises(CallerError, match=f"{lacks} is missing .make some with: umktls certs"):
        check_config(config)
    (tmp_path / lacks).mkdir()
    with pytest.raises(CallerError, match=f"{lacks} cannot be read: Is a directory"):
        check_config(config)


@pytest.mark.parametrize("security", ["", "clear", "TLS", "mtls "])
def test_a_security_that_there_is_not_is_not_clear_text(security: str, tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="there are: tls, mtls, none"):
        check_config(MountConfig("server", "/", security=security, certs=tmp_path))
