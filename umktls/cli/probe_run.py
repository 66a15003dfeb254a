"""What `umktls probe` does: one phase after the other, each with what came back.

The connection is made as a mount makes it, by a client host with kernel TLS and a daemon of its
own, which takes any certificate and writes down what is wrong (daemons/programs/inspector.py).
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import trio

from umktls.cli.probe_report import Report, Target
from umktls.errors import UmktlsError
from umktls.kernel.ground.events import Event
from umktls.kernel.host.boot import booted
from umktls.kernel.host.config import HostConfig
from umktls.kernel.host.host import Host
from umktls.kernel.krpc.client import own_credential
from umktls.kernel.krpc.connecting import at_its_port, connect_tcp
from umktls.kernel.krpc.probe import NotOffered, probe
from umktls.kernel.krpc.rpc_client import RpcClient
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.upcalls import tls
from umktls.kernel.upcalls.tls import TlsRefused
from umktls.nfs.program import MOUNT3, NFS3
from umktls.nfs.types import GETATTR3args
from umktls.rpc import xdr
from umktls.rpc.client import AuthRejected, ProgramUnavailable, RpcRejected, VersionMismatch
from umktls.rpc.message import NULL_AUTH, AuthStat
from umktls.rpc.program import Program
from umktls.scenarios.subject import Subject

__all__ = ["inspect"]

# What of a server that chooses no protocol by ALPN; one that chooses another is refused.
SILENT = (
    "the server does not say sunrpc by ALPN, as RFC 9289 says it MUST (those of FreeBSD and Linux "
    "do not): a mount goes on and tells; -o alpn=strict turns it down, -o alpn=compat is silent"
)
SOON_DAYS = 30
ONLY_CLEAR = "only clear text is to be had"
TLS_AT_ONCE = (
    "the server speaks TLS from the first byte, as stunnel does; RPC-with-TLS (RFC 9289) begins in "
    "clear, with the AUTH_TLS probe: behind a TLS proxy, mount from the port of NFS itself"
)
TLS_AT_ONCE_SECONDS = 2.0
# The first bytes of a TLS record that may answer a ClientHello: a handshake message, an alert.
TLS_ANSWERS = (b"\x16\x03", b"\x15\x03")
# The alert by which a server asks for a client's certificate, and what to do about it here.
CERTIFICATE_REQUIRED = "certificate_required"
SHOW_ONE = "mount with -o mtls; to probe as such a mount, --mutual with --certs or -D"
# What a server may say right after the handshake, and how long it is waited for.
FIRST_WORDS = ("ticket", "alert", "key-update", "closed")
FIRST_WORD_SECONDS = 0.5

NFS4 = Program(100003, 4, "NFS4")
NFS4.add(0, "NULL", xdr.VOID, xdr.VOID)
NULL_CALLS = (NFS3, NFS4, MOUNT3)


async def inspect(target: Target) -> Report:
    """Probe a server. Raises `UmktlsError` only for what is wrong on this side."""
    report = Report(target.host, target.port)
    with tempfile.TemporaryDirectory(prefix="umktls-probe-") as name:
        directory = Path(name)
        config = HostConfig("client", directory / "run", upcall_seconds=target.seconds)
        async with booted(config) as host:
            await with_tls(host, target, directory, report)
            target = replace(target, port=report.port)
            if report.phases["probe"].advice == ONLY_CLEAR:
                await in_clear(host, target, report)
            elif report.phases["probe"].ok is False and await speaks_tls_at_once(target):
                report.notes.append(TLS_AT_ONCE)
    return report


@asynccontextmanager
async def tcp(host: Host, target: Target, security: str) -> AsyncIterator[KernelSocket]:
    """A connection inside the block. Raises `UmktlsError`."""
    sock, _ = await at_its_port(target.mount_config(security), NFS3, connect_tcp)
    adopted = host.adopt(sock, "mtls" if target.mutual else security, target.host)
    host.trace.emit("tcp-connect", adopted.name, peer=adopted.peer, local=adopted.local)
    try:
        yield adopted
    finally:
        adopted.close("the probe is over")


async def with_tls(host: Host, target: Target, directory: Path, report: Report) -> None:
    """All phases as a mount with TLS has them, as far as it gets, with a daemon just for that."""
    subject = daemon(target, directory)
    try:
        await subject.start(host, "rpctlscd")
        await phases_with_tls(host, target, directory, report)
    finally:
        with trio.CancelScope(shield=True):
            await subject.end()


async def phases_with_tls(host: Host, target: Target, directory: Path, report: Report) -> None:
    phase = "tcp"
    try:
        async with tcp(host, target, "tls") as sock:
            report.connection = sock.name
            report.port = sock.sock.getpeername()[1]
            found = "" if report.port == target.port else ", which rpcbind says"
            report.set("tcp", True, f"connected to {sock.peer}{found}")
            phase = "probe"
            await probe(sock, NFS3.number, NFS3.version, target.seconds)
            report.set("probe", True, "the server answers STARTTLS")
            phase = "tls"
            try:
                await tls.handshake_client(host, sock, "")
            finally:
                look_at(directory / "report", report)
            await call_programs(host, target, sock, report)
    except UmktlsError as error:
        note(report, phase, error, host)


def daemon(target: Target, directory: Path) -> Subject:
    """The daemon that looks at servers, to be started."""
    command = [sys.executable, "-m", "umktls_daemons.programs.inspector"]
    options: dict[str, Path | None] = {
        "--rundir": directory / "run",
        "--report": directory / "report",
        "--certdir": target.certdir or directory / "no-certificate",
        "--ca": target.ca,
        "--crl": target.crl,
    }
    for name, value in options.items():
        command += [name, str(value)] if value is not None else []
    if target.mutual:
        command.append("--mutual")
    return Subject(command, dict(os.environ), directory / "daemon.log")


def note(report: Report, phase: str, error: UmktlsError, host: Host) -> None:
    """The phase that an error ended."""
    name = report.connection
    sock = host.sockets.get(name) or host.closed.get(name)
    failure = sock.failure if sock is not None else None
    if phase == "tls" and failure is not None:
        name = failure.phase if failure.phase == "alpn" else "tls"
        report.set(name, False, failure.reason, failure.advice)
    elif isinstance(error, NotOffered):
        report.set("probe", False, str(error).partition(";")[0], ONLY_CLEAR)
    else:
        text, _, advice = str(error).partition("; ")
        report.set(phase, False, text, advice)


def look_at(path: Path, report: Report) -> None:
    """What the daemon has written down about the handshake."""
    if not path.exists():
        return
    seen = json.loads(path.read_text().splitlines()[-1])
    report.session = {name: seen[name] for name in ("version", "suite", "alpn")}
    report.chain = seen["chain"]
    report.set("tls", True, f"{seen['version']}, {seen['suite']}")
    judge_certificate(seen, report)
    report.set("alpn", True, seen["alpn"] or "the server does not say sunrpc")
    if not seen["alpn"]:
        report.notes.append(SILENT)


def judge_certificate(seen: dict[str, Any], report: Report) -> None:
    problems = seen["problems"]
    if problems:
        reasons = "; ".join(dict.fromkeys(one["reason"] for one in problems))
        report.set("certificate", False, reasons, problems[0]["advice"])
        return
    own = seen["chain"][0]
    left = (datetime.fromisoformat(own["not_after"]) - datetime.now(UTC)).days
    report.set("certificate", True, f"{own['subject']}, good for {left} days")
    if left < SOON_DAYS:
        report.notes.append(f"the server's certificate ends in {left} days: renew it")
    if own["usage"] and "rpcTLSServer" not in own["usage"]:
        report.notes.append(
            "the certificate is not marked for RPC-with-TLS (EKU id-kp-rpcTLSServer); "
            "that is usual, and some clients may want it"
        )


# ---- RPC


async def call_programs(host: Host, target: Target, sock: KernelSocket, report: Report) -> None:
    """The NULL procedure of each program; at least one version of NFS has to be there."""

    async def disconnect(ended: KernelSocket, reason: str) -> None:
        await tls.disconnect(host, ended, reason)

    async def control(ended: KernelSocket) -> None:
        await tls.handle_control(host, ended)

    async def no_other() -> KernelSocket:
        why = str(sock.failure) if sock.failure else "the server closed the connection"
        raise TlsRefused(why)

    rpc = RpcClient(no_other, disconnect, control, host.trace, target.seconds, target.host)
    rpc.offer(sock)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rpc.run)
        await first_word(host, sock)
        for program in NULL_CALLS:
            label = f"{program.name.rstrip('4')} {program.version}"
            report.rpc[label] = await null_call(rpc, program)
        weakness = await too_weak(rpc) if sock.session is not None else None
        nursery.cancel_scope.cancel()
    tickets = [
        e for e in host.trace.since() if (e["event"], e["connection"]) == ("ticket", sock.name)
    ]
    report.session["tickets"] = len(tickets)
    judge(target, sock, report, weakness)


def judge(target: Target, sock: KernelSocket, report: Report, weakness: str | None) -> None:
    """What the calls came to. weakness: why the server refuses all calls but NULL."""
    served = [label for label, what in report.rpc.items() if what == "answers"]
    text = ", ".join(f"{label} {what}" for label, what in report.rpc.items())
    if sock.failure is not None and sock.failure.phase == "alert":
        reason, _, advice = sock.failure.reason.partition("; ")
        if CERTIFICATE_REQUIRED in reason and not target.mutual:
            advice = SHOW_ONE
        report.set("tls", False, f"after the handshake (phase alert), {reason}", advice)
        report.rpc.clear()
    elif weakness is not None:
        advice = "is the server for this client?" if target.mutual else SHOW_ONE
        report.set("rpc", False, f"NULL is answered, and all else refused ({weakness})", advice)
    elif any(label.startswith("NFS") for label in served):
        report.set("rpc", True, text)
    else:
        report.set("rpc", False, text, "is an NFS server listening on that port?")


async def first_word(host: Host, sock: KernelSocket) -> None:
    """Give the server a moment to say what it thinks of the handshake before anything is called.

    In TLS 1.3 a client certificate is refused when the client has long finished. A call that
    crosses the alert would have the server's machine reset the connection, and the alert would be
    lost.
    """
    said = trio.Event()

    def note_event(event: Event) -> None:
        if event["connection"] == sock.name and event["event"] in FIRST_WORDS:
            said.set()

    if sock.session is not None:
        with host.trace.subscribed(note_event), trio.move_on_after(FIRST_WORD_SECONDS):
            await said.wait()


async def null_call(rpc: RpcClient, program: Program) -> str:
    """What the program's NULL procedure came to, in a few words."""
    try:
        await rpc.call(program["NULL"], None, NULL_AUTH)
    except VersionMismatch as error:
        return f"is not served (versions {error.low} to {error.high} are)"
    except ProgramUnavailable:
        return "is not on this port"
    except RpcRejected as error:
        return f"is refused ({error})"
    except UmktlsError as error:
        return f"fails ({error})"
    return "answers"


async def too_weak(rpc: RpcClient) -> str | None:
    """Why the server takes none of our calls but NULL, which servers answer to anybody; None where
    that is not known. No server has a file by this handle."""
    try:
        await rpc.call(NFS3["GETATTR"], GETATTR3args(b""), own_credential())
    except AuthRejected as error:
        return str(error) if error.auth_status is AuthStat.AUTH_TOOWEAK else None
    except UmktlsError:
        return None
    return None


async def in_clear(host: Host, target: Target, report: Report) -> None:
    """A server without TLS: does it serve in clear?"""
    clear = Report(target.host, target.port)
    try:
        async with tcp(host, replace(target, mutual=False), "none") as sock:
            sock.phase = "established"
            await call_programs(host, target, sock, clear)
    except UmktlsError as error:
        report.notes.append(f"in clear text: {error}")
        return
    report.rpc = clear.rpc
    what = "the server serves in clear text" if clear.phases["rpc"].ok else "nor in clear text"
    report.notes.append(f"{what}: {clear.phases['rpc'].text}")


async def speaks_tls_at_once(target: Target) -> bool:
    """Whether a ClientHello is answered where the probe was not understood."""
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=target.host)
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    answer = b""
    seconds = min(target.seconds, TLS_AT_ONCE_SECONDS)
    with suppress(OSError, trio.BrokenResourceError), trio.move_on_after(seconds):
        async with await trio.open_tcp_stream(target.host, target.port) as stream:
            await stream.send_all(outgoing.read())
            answer = bytes(await stream.receive_some(2))
    return answer in TLS_ANSWERS
