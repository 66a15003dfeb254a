"""`umktls probe` against servers of every kind: where it stops, what it says, its exit code."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from tests.conftest import patience
from tests.kernel.krpc.rpcpeer import answers, peer
from tests.ports import silent_port
from umktls.certs.kinds import Wallet
from umktls.cli import probe_run
from umktls.cli.main import main
from umktls.cli.probe import host_and_port, show
from umktls.cli.probe_report import EXIT_CODES, Report, Target
from umktls.cli.probe_run import inspect
from umktls.errors import CallerError
from umktls.kernel.krpc import rpcbind
from umktls.kernel.krpc.server import ServerConfig, boot_server
from umktls.nfs.program import MOUNT3, NFS3
from umktls.nfsd import Export, NfsServer
from umktls.nfsd.exports.exports import Security
from umktls.rpc.message import (
    NULL_AUTH,
    STARTTLS_VERIFIER,
    AcceptStat,
    Call,
    encode_accepted,
    parse_untrusted,
)
from umktls.rpc.record import RecordReader, mark
from umktls.rpc.rpcbind import PMAP2
from umktls.rpc.server import Service
from umktls.scenarios.tlspeer import (
    APPLICATION_DATA,
    AlertReceived,
    Ended,
    TlsPeer,
    plain_alert,
    server_context,
)

SERVICES = [Service(NFS3, {}), Service(MOUNT3, {})]
# For what a server that says nothing is waited.
SHORT = 1.0
Serve = Callable[[trio.SocketStream], Awaitable[None]]


@pytest.fixture(autouse=True)
def _servers_have_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what they say soon on a quiet machine."""
    monkeypatch.setattr(probe_run, "FIRST_WORD_SECONDS", patience(20))
    monkeypatch.setattr(probe_run, "TLS_AT_ONCE_SECONDS", patience(20))


@pytest.fixture(scope="module")
def wallet(tmp_path_factory: pytest.TempPathFactory) -> Wallet:
    return Wallet(tmp_path_factory.mktemp("wallet"))


def target(port: int, wallet: Wallet, **more: Any) -> Target:
    settings = {"ca": wallet.ca, "certdir": wallet.directory("client"), **more}
    return Target("localhost", port, **settings)


@asynccontextmanager
async def server(
    wallet: Wallet, rundir: Path, services: Sequence[Service] = SERVICES, **config: Any
) -> AsyncIterator[int]:
    """One of our own; its port."""
    settings = ServerConfig(("127.0.0.1",), 0, certs=wallet.path, rundir=rundir, **config)
    async with boot_server(settings, services) as listening:
        yield listening.port


@asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[int]:
    """A server that does with each connection what `serve` does; its port."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, serve, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def starttls(stream: trio.SocketStream) -> None:
    """Answer the AUTH_TLS probe."""
    call = parse_untrusted(memoryview(await stream.receive_some(4096))[4:])
    assert isinstance(call, Call)
    reply = encode_accepted(call.xid, STARTTLS_VERIFIER, AcceptStat.SUCCESS)
    await stream.send_all(mark(len(reply)) + reply)


def tls_server(
    context: ssl.SSLContext, directory: Path, answer: AcceptStat = AcceptStat.SUCCESS
) -> Serve:
    """Any RFC 9289 server with this context, that answers every call the same."""

    async def serve(stream: trio.SocketStream) -> None:
        keylog = directory / "keylog"
        keylog.write_bytes(b"")
        await starttls(stream)
        peer = TlsPeer(stream, keylog, server=True)
        reader = RecordReader(4096)
        try:
            await peer.handshake(context)
            while True:
                reader.feed(await peer.receive_data())
                for message in reader.messages():
                    call = parse_untrusted(message)
                    assert isinstance(call, Call)
                    reply = encode_accepted(call.xid, NULL_AUTH, answer)
                    await peer.send(APPLICATION_DATA, mark(len(reply)) + reply)
        except (AlertReceived, Ended, ssl.SSLError):
            await stream.aclose()

    return serve


async def probed(port: int, wallet: Wallet, **more: Any) -> Report:
    with trio.fail_after(patience(30)):
        return await inspect(target(port, wallet, **more))


def reached(report: Report) -> dict[str, bool | None]:
    return {name: phase.ok for name, phase in report.phases.items()}


async def test_our_own_server_with_mutual_tls(wallet: Wallet, tmp_path: Path) -> None:
    async with server(wallet, tmp_path / "s", security="mtls") as port:
        report = await probed(port, wallet, mutual=True)
    assert reached(report) == dict.fromkeys(EXIT_CODES, True)
    assert (report.exit_code, report.verdict) == (0, "a mount with TLS works")
    assert report.session["version"] == "TLSv1.3"
    assert report.session["tickets"] == 2
    assert report.rpc["NFS 3"] == report.rpc["MOUNT 3"] == "answers"
    assert "versions 3 to 3" in report.rpc["NFS 4"]
    own, issuer = report.chain[:2]
    assert (own["subject"], own["issuer"]) == ("CN=localhost", issuer["subject"])
    assert own["names"] == ["DNS:localhost", "IP:127.0.0.1", "IP:::1"]
    assert own["key"] == "EC secp256r1"
    assert "rpcTLSServer" in own["usage"]
    assert json.loads(json.dumps(report.as_dict()))["exit_code"] == 0


async def test_a_certificate_is_demanded_and_none_is_shown(wallet: Wallet, tmp_path: Path) -> None:
    """The server says so when the handshake is over for the client."""
    async with server(wallet, tmp_path / "s", security="mtls") as port:
        report = await probed(port, wallet)
    assert report.exit_code == EXIT_CODES["tls"]
    assert "after the handshake" in report.phases["tls"].text
    assert "certificate_required" in report.verdict
    assert "-o mtls; to probe as such a mount, --mutual" in report.verdict
    assert report.phases["certificate"].ok is True


@pytest.mark.parametrize(("security", "mutual"), [("mtls", False), ("certuser", True)])
async def test_a_server_that_refuses_calls_and_not_the_handshake(
    wallet: Wallet, tmp_path: Path, security: Security, mutual: bool
) -> None:
    """As `umktls serve` does, and servers of kernels: NULL tells nothing of it."""
    with closing(NfsServer([Export(str(tmp_path), security=security)], tmp_path / "state")) as nfsd:
        async with server(wallet, tmp_path / "s", nfsd.services()) as port:
            report = await probed(port, wallet, mutual=mutual)
    assert report.phases["tls"].ok is True
    assert report.exit_code == EXIT_CODES["rpc"]
    assert "NULL is answered, and all else refused" in report.verdict
    assert "AUTH_TOOWEAK" in report.verdict
    assert ("-o mtls; to probe as such a mount, --mutual" in report.verdict) != mutual


async def test_a_server_without_tls(wallet: Wallet, tmp_path: Path) -> None:
    async with server(wallet, tmp_path / "s", offer_tls=False) as port:
        report = await probed(port, wallet)
    assert report.exit_code == EXIT_CODES["probe"]
    assert "does not offer TLS" in report.verdict
    assert any("serves in clear text: NFS 3 answers" in note for note in report.notes)


@pytest.mark.parametrize("named", [False, True])
async def test_a_port_that_only_rpcbind_knows(
    wallet: Wallet, tmp_path: Path, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked as by a mount: where nothing is at the usual port, and none was given."""
    async with (
        server(wallet, tmp_path / "s") as port,
        peer(answers(PMAP2, GETPORT=lambda wanted: port)) as played,
    ):
        monkeypatch.setattr(rpcbind, "RPCBIND_PORT", played.port)
        with silent_port() as usual:
            # "localhost" may be ::1 first, where nothing listens either.
            report = await probed(usual, wallet, find_port=not named)
    assert bool(played.calls) != named
    if named:
        assert report.exit_code == EXIT_CODES["tcp"]
        assert "rpcbind" not in report.verdict
        return
    assert reached(report) == dict.fromkeys(EXIT_CODES, True)
    assert report.port == port
    assert report.phases["tcp"].text.endswith(f"{port}, which rpcbind says")


BAD = {
    "expired": "expired at",
    "foreign": "which is not among the CAs",
    "selfsigned": "is self-signed",
    "elsewhere": "is for nfs.example.org",
    "nameless": "no name at all",
    "purpose": "not meant for this purpose",
}


@pytest.mark.parametrize("kind", BAD)
async def test_a_bad_certificate_is_shown_and_the_rest_looked_at(
    wallet: Wallet, tmp_path: Path, kind: str
) -> None:
    async with listening(tls_server(server_context(wallet, kind), tmp_path)) as port:
        report = await probed(port, wallet)
    assert report.exit_code == EXIT_CODES["certificate"]
    assert BAD[kind] in report.phases["certificate"].text
    assert report.phases["rpc"].ok is True
    assert report.chain[0]["subject"].startswith("CN=")


async def test_a_revoked_certificate(wallet: Wallet, tmp_path: Path) -> None:
    """It is good for those who do not ask, as in a mount."""
    async with listening(tls_server(server_context(wallet, "revoked"), tmp_path)) as port:
        assert (await probed(port, wallet)).exit_code == 0
        report = await probed(port, wallet, crl=wallet.crl)
    assert report.exit_code == EXIT_CODES["certificate"]
    assert "was revoked" in report.phases["certificate"].text


async def test_all_kinds_of_names_are_shown(
    wallet: Wallet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    context = server_context(wallet, "names")
    async with listening(tls_server(context, tmp_path)) as port:
        report = await probed(port, wallet)
    names = report.chain[0]["names"]
    assert {"email:ann@example.org", "URI:spiffe://example.org/nfs"} < set(names)
    show(report)
    assert f"  for {', '.join(names)}" in capsys.readouterr().out
    report.chain[0]["names"] = []
    show(report)
    assert "  for no name at all" in capsys.readouterr().out


async def test_what_is_no_nfs_server(wallet: Wallet, tmp_path: Path) -> None:
    serve = tls_server(server_context(wallet), tmp_path, AcceptStat.PROG_UNAVAIL)
    async with listening(serve) as port:
        report = await probed(port, wallet)
    assert report.exit_code == EXIT_CODES["rpc"] == 8
    assert "NFS 3 is not on this port" in report.verdict
    assert "is an NFS server listening on that port?" in report.verdict


async def test_no_alpn(wallet: Wallet, tmp_path: Path) -> None:
    """As the servers of FreeBSD and Linux: a mount works, and tells."""
    context = server_context(wallet, alpn=())
    async with listening(tls_server(context, tmp_path)) as port:
        report = await probed(port, wallet)
    assert (report.exit_code, report.phases["rpc"].ok) == (0, True)
    assert report.phases["alpn"].text == "the server does not say sunrpc"
    (said,) = [note for note in report.notes if "ALPN" in note]
    assert "RFC 9289 says it MUST" in said
    assert "-o alpn=strict turns it down" in said


async def test_a_handshake_that_fails(wallet: Wallet) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await starttls(stream)
        await stream.send_all(plain_alert(40))

    async with listening(serve) as port:
        report = await probed(port, wallet)
    assert report.exit_code == EXIT_CODES["tls"]
    assert "handshake_failure" in report.verdict
    assert report.phases["certificate"].ok is None


async def test_a_server_that_says_nothing(
    wallet: Wallet, mock_clock: trio.testing.MockClock
) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        mock_clock.jump(SHORT)
        await trio.sleep_forever()

    async with listening(serve) as port:
        report = await probed(port, wallet, seconds=SHORT)
    assert report.exit_code == EXIT_CODES["probe"]
    assert "did not answer the AUTH_TLS probe within 1 s" in report.verdict


async def test_a_server_that_wants_tls_from_the_first_byte(wallet: Wallet) -> None:
    """Such as stunnel. What is no ClientHello, as the probe, it does not understand."""

    async def serve(stream: trio.SocketStream) -> None:
        served = trio.SSLStream(stream, server_context(wallet), server_side=True)
        with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
            await served.do_handshake()
        await stream.aclose()

    async with listening(serve) as port:
        report = await probed(port, wallet)
    assert report.exit_code == EXIT_CODES["probe"]
    assert any("TLS from the first byte" in note for note in report.notes)


async def test_what_is_no_server_of_ours_at_all(wallet: Wallet) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await stream.aclose()

    async with listening(serve) as port:
        report = await probed(port, wallet)
    assert report.exit_code == EXIT_CODES["probe"]
    assert "not RPC" in report.verdict
    assert report.notes == []


# ---- the command


def test_nothing_listens() -> None:
    with silent_port() as port:
        done = CliRunner().invoke(main, ["probe", f"127.0.0.1:{port}", "--json"])
    assert done.exit_code == EXIT_CODES["tcp"], done.output
    found = json.loads(done.output)
    assert [phase["ok"] for phase in found["phases"]] == [False, *[None] * 5]
    assert "nothing listens there" in found["verdict"]


def test_wrong_usage() -> None:
    done = CliRunner().invoke(main, ["probe", "localhost", "--mutual"])
    assert done.exit_code == 2
    assert "--mutual needs a certificate" in done.output
    done = CliRunner().invoke(main, ["probe", "localhost", "--crl", __file__])
    assert done.exit_code == 2
    assert "--crl needs the CAs" in done.output
    done = CliRunner().invoke(main, ["probe", "localhost:65536"])
    assert done.exit_code == 2
    assert "a port of 1 to 65535" in done.output


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nfs.example.org", ("nfs.example.org", None)),
        ("127.0.0.1:20049", ("127.0.0.1", 20049)),
        ("[2001:db8::1]", ("2001:db8::1", None)),
        ("[::1]:1", ("::1", 1)),
    ],
)
def test_targets(text: str, expected: tuple[str, int | None]) -> None:
    assert host_and_port(text) == expected


@pytest.mark.parametrize(
    "text", ["", ":2049", "h:", "h:0", "h:65536", "h:x", "[::1", "[::1]2049", "h:²", "h:٣"]
)
def test_what_is_no_target(text: str) -> None:
    with pytest.raises(CallerError, match="is not HOST or HOST:PORT"):
        host_and_port(text)


def test_the_report_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("h", 1)
    report.set("tcp", True, "connected to 192.0.2.1:1")
    report.set("probe", False, "no \x1b[2J answer", "try again")
    report.notes.append("a note")
    show(report)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ok", "TCP", "connected", "to", "192.0.2.1:1"]
    assert lines[1].startswith("FAIL  AUTH_TLS probe  no \\x1b[2J answer")
    assert lines[2].split() == ["-", "TLS", "not", "reached"]
    assert lines[-2:] == [
        "note: a note",
        "verdict: a mount with TLS fails in phase probe: no \\x1b[2J answer; try again",
    ]
