"""OpenSSL's s_server and s_client, under `umktls run` or by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.run.programs import Program, under_run

__all__ = ["client", "connection", "server"]


def server(place: Path, port: int, version: str, *options: str, ktls: bool) -> Program:
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-naccept", "1"]
    command += ["-cert", "cert.pem", "-key", "key.pem", f"-{version}", *options]
    program = Program([*(under_run() if ktls else []), *command], place, ktls=ktls)
    program.wait_for(b"ACCEPT")
    return program


def client(
    place: Path, port: int, version: str, *options: str, ktls: bool, stdin: int | None = None
) -> Program:
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", f"-{version}", *options]
    return Program([*(under_run() if ktls else []), *command], place, ktls=ktls, stdin=stdin)


def connection(program: Program) -> dict[str, Any]:
    """The only one that it has had."""
    (found,) = program.figures["connections"]
    assert isinstance(found, dict)
    return found
