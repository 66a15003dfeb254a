"""`umktls probe`: why a mount with TLS from a server works, or where and why it fails."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from umktls.abi.ports import NFS_PORT
from umktls.cli.options import STEP_TIMEOUT
from umktls.errors import CallerError
from umktls.printable import printable

if TYPE_CHECKING:
    from umktls.cli.probe_report import Report

__all__ = ["probe"]

FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
DIRECTORY = click.Path(path_type=Path, file_okay=False, exists=True)
MARKS = {True: ("ok", "green"), False: ("FAIL", "red"), None: ("-", "white")}
NO_NAME = "no name at all (in a subjectAltName)"
NAMES = {
    "tcp": "TCP",
    "probe": "AUTH_TLS probe",
    "tls": "TLS",
    "certificate": "certificate",
    "alpn": "ALPN",
    "rpc": "RPC",
}


@click.command()
@click.argument("target", metavar="HOST[:PORT]")
@click.option("--certs", type=DIRECTORY, help="What `umktls certs` made; its ca.pem and client/.")
@click.option("--ca", type=FILE, help="PEM file of the CAs to trust. [default: the system's]")
@click.option("--crl", type=FILE, help="Revocation lists (PEM), one for each CA.")
@click.option("-D", "--certdir", type=DIRECTORY, help="Directory with cert.pem and certkey.pem.")
@click.option("-m", "--mutual", is_flag=True, help="Show the server the client certificate.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@STEP_TIMEOUT
def probe(
    target: str,
    certs: Path | None,
    ca: Path | None,
    crl: Path | None,
    certdir: Path | None,
    mutual: bool,
    as_json: bool,
    timeout: float,
) -> None:
    """Look at a server as a mount with TLS would, and tell phase by phase what came back.

    The phases: TCP, the AUTH_TLS probe (does the server speak RPC-with-TLS, RFC 9289?), the TLS
    handshake, the server's certificate, ALPN, and the first calls of NFS and MOUNT. Where no PORT
    is named and nothing is at 2049, rpcbind of the server is asked, as by a mount. Unlike a mount,
    a bad certificate does not end it: all of it is shown.

    Exit codes: 0 a mount would work; otherwise the first phase that failed: 3 TCP, 4 probe, 5 TLS,
    6 certificate, 7 ALPN, 8 RPC. 1 something is wrong here, 2 wrong usage.

    \b
    Examples:
      umktls probe nfs.example.org
      umktls probe localhost:2049 --certs /tmp/pki --mutual
      umktls probe [2001:db8::1]:2049 --ca ca.pem --json
    """
    try:
        host, named = host_and_port(target)
    except CallerError as error:
        raise click.UsageError(str(error)) from error
    if certs is not None:
        ca, certdir = ca or certs / "ca.pem", certdir or certs / "client"
    known = absolute(ca=ca, certdir=certdir, crl=crl)
    check_paths(known, mutual)
    import trio  # late, as all that a host needs: wrong usage is told at once

    from umktls.cli.interrupts import ended_by_signals
    from umktls.cli.probe_report import Target
    from umktls.cli.probe_run import inspect

    port, find = (NFS_PORT, True) if named is None else (named, False)
    asked = Target(host, port, mutual=mutual, seconds=timeout, find_port=find, **known)
    found = trio.run(ended_by_signals, partial(inspect, asked))
    if as_json:
        click.echo(json.dumps(found.as_dict()))
    else:
        show(found)
    if found.exit_code:
        raise click.exceptions.Exit(found.exit_code)


def absolute(**paths: Path | None) -> dict[str, Path]:
    """The paths that are given, as absolute ones."""
    return {name: path.absolute() for name, path in paths.items() if path is not None}


def check_paths(paths: Mapping[str, Path], mutual: bool) -> None:
    """Complain of one that needs another, which is missing. Raises `click.UsageError`."""
    if mutual and "certdir" not in paths:
        raise click.UsageError("--mutual needs a certificate: pass --certs DIR or -D DIR")
    if "crl" in paths and "ca" not in paths:
        raise click.UsageError("--crl needs the CAs that have signed the lists: --ca or --certs")


def host_and_port(target: str) -> tuple[str, int | None]:
    """Host and port of HOST, HOST:PORT, [ADDRESS], [ADDRESS]:PORT. Raises `CallerError`."""
    if target.startswith("["):
        host, closed, rest = target[1:].partition("]")
        good = bool(closed) and (not rest or rest.startswith(":"))
        port = rest.removeprefix(":") if rest else None
    else:
        host, colon, text = target.partition(":")
        port, good = (text if colon else None), True
    valid = port is None or (port.isascii() and port.isdecimal() and 0 < int(port) < 65536)
    if not (good and host and valid):
        raise CallerError(
            f"{target!r} is not HOST or HOST:PORT with a port of 1 to 65535; "
            "an IPv6 address is in brackets"
        )
    return host, None if port is None else int(port)


def show(report: Report) -> None:
    for phase in report.phases.values():
        mark, colour = MARKS[phase.ok]
        text = printable(phase.text)
        click.echo(f"{click.style(f'{mark:4}', fg=colour)}  {NAMES[phase.name]:15} {text}")
        if phase.name == "certificate":
            show_chain(report)
    if "tickets" in report.session:
        click.echo(f"      session tickets {report.session['tickets']}")
    for note in report.notes:
        click.echo(f"note: {printable(note)}")
    click.secho(f"verdict: {printable(report.verdict)}", bold=True)


def show_chain(report: Report) -> None:
    for depth, one in enumerate(report.chain):
        lines = [
            f"{one['subject']}, issued by {one['issuer']}",
            f"  for {', '.join(one['names']) or NO_NAME}" if depth == 0 else "",
            f"  from {one['not_before'][:10]} to {one['not_after'][:10]}, {one['key']}",
            f"  SHA-256 {one['sha256']}" if depth == 0 else "",
        ]
        for line in filter(None, lines):
            click.echo(f"        {depth if line == lines[0] else ' '} {printable(line)}")
