"""`umktls run`: unmodified programs on a kernel that has kernel TLS."""

from __future__ import annotations

from pathlib import Path

import click

from umktls.abi.personality import PERSONALITIES, personality
from umktls.errors import CallerError
from umktls.ktls.engines.choice import parse_engines

__all__ = ["run"]

KERNELS = [name for name, each in PERSONALITIES.items() if "linux" in each.keys.interfaces]


@click.command(context_settings={"allow_interspersed_args": False})
@click.option(
    "--personality",
    "kernel",
    type=click.Choice(KERNELS),
    default="linux",
    show_default=True,
    help="Which Linux's kernel TLS is emulated; docs/compatibility.md tells how they differ.",
)
@click.option(
    "--engine",
    default="software",
    show_default=True,
    metavar="NAME|tx=NAME,rx=NAME",
    help="What seals and opens the records; `umktls engines` lists them.",
)
@click.option(
    "--no-tls-module",
    is_flag=True,
    help="As a kernel without net/tls: TCP_ULP is refused with ENOENT.",
)
@click.option(
    "--host",
    "host",
    metavar="HOST",
    help="COMMAND is the handshake agent of this host, a mount or a server that was started "
    "without a daemon of its own: its name (`umktls stat` has it), process number or run "
    "directory.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="When the command has ended, print what `umktls stat --json` would have to standard "
    "error, in one line.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    kernel: str,
    engine: str,
    no_tls_module: bool,
    host: str | None,
    as_json: bool,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND, and all that it starts, on a kernel that has kernel TLS.

    Programs that can use Linux's kernel TLS do so, unchanged: those with OpenSSL when their
    configuration says `Options = KTLS`, nginx with `ssl_conf_command Options KTLS`. No root is
    needed. `umktls stat` and `umktls trace` show the connections. Exit status, signals and terminal
    are the command's. docs/unmodified.md tells what works and what cannot.

    With --host the command is what does the TLS handshakes for a host that runs: a program for
    Linux's netlink family `handshake`, such as tlshd of ktls-utils.

    \b
    Examples:
      umktls run -- openssl s_server -sendfile -WWW -cert cert.pem -key key.pem
      umktls run --personality linux6.12 -- nginx -g 'daemon off;'
      umktls run --host server-123 -- tlshd -s -c tlshd.conf
    """
    from umktls.run.front import run_in_front
    from umktls.run.supervisor import RunConfig, check

    try:
        agent_of = None if host is None else rundir_of(host)
        config = RunConfig(
            command, personality(kernel), parse_engines(engine), no_tls_module, agent_of
        )
        check(config)
    except CallerError as error:
        raise click.UsageError(str(error)) from error
    run_in_front(config, as_json)


def rundir_of(host: str) -> Path:
    """Raises CallerError where there is no such host."""
    from umktls.cli.control import choose

    (found,) = choose(host)
    return found.rundir
