"""Connections that get no TLS, with the real daemons as processes: what is said, and where."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.conftest import patience
from tests.passing import expire
from tests.tlsworld import AUTHORITY, MTLS
from umktls.certs.pki import Authority
from umktls.errors import UmktlsError
from umktls.rpc.message import NULL_AUTH
from umktls.testing.certificates import SERVER, directory, expired
from umktls.testing.echo import SAY
from umktls.testing.hosts import pair


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
    """The next try may be with one, until the call's deadline passes."""
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, {"no_daemon": True, "deadline": 1000}, {}) as both:

            async def expire_after_a_try() -> None:
                await both.event("client", "server-try")
                expire(both.rpc)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(expire_after_a_try)
                with pytest.raises(UmktlsError, match=r"no rpctlscd is registered.*start one"):
                    await both.rpc.call(SAY, b"secret", NULL_AUTH)


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
