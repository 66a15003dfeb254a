"""`umktls lesson`: things that are better seen than read about."""

from __future__ import annotations

import click

__all__ = ["lesson"]


@click.group(invoke_without_command=True)
@click.pass_context
def lesson(context: click.Context) -> None:
    """Show how something works, live, on this machine.

    \b
    Example:
      umktls lesson 478      the bytes that come behind a TLS 1.3 handshake
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@lesson.command("478")
@click.option("--step", is_flag=True, help="Wait for Enter between the steps.")
def bytes_478(step: bool) -> None:
    """The 478 bytes that recv finds after SSL_connect, and SSL_read does not.

    Runs a TLS client and a server over loopback, three times: with SSL_read and SSL_write, with
    recv and send, and with the model of kernel TLS.
    """
    from umktls.cli.lesson_478 import lesson_478

    lesson_478(step)
