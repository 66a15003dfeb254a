"""`umktls stat`: the hosts that run, and their connections."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from umktls.cli.control import Host, choose, find_hosts, nobody
from umktls.errors import UmktlsError
from umktls.kernel.host.rundir import run_base
from umktls.printable import printable

__all__ = ["stat"]

SCHEMA = 1


@click.command()
@click.argument("host", required=False, metavar="[HOST|nfs://...]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object with everything.")
@click.option("--sysctl", "table", flag_value="sysctl", help="FreeBSD's kern.ipc.tls counters.")
@click.option("--tls_stat", "table", flag_value="tls_stat", help="Linux's /proc/net/tls_stat.")
def stat(host: str | None, as_json: bool, table: str | None) -> None:
    """Show the hosts that run and their connections.

    For each connection and direction: the engine that makes the records, the next record's
    sequence number, how many records and bytes went through. HOST picks one host by its name,
    process number or run directory.

    With nfs://HOST[:PORT]/EXPORT/PATH in place of HOST it shows that file of a server: see
    `umktls nfs-stat --help` for the options then.

    \b
    Examples:
      umktls stat
      umktls stat --json | jq '.hosts[].totals'
      umktls stat --tls_stat
      umktls stat nfs://localhost/file --certs /tmp/pki
    """
    hosts = find_hosts() if host is None else choose(host)
    if table is not None:
        show_counters(hosts, table, as_json)
        return
    states = list(read(hosts))
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, "hosts": states}, indent=2))
    elif not states:
        click.echo(nobody(run_base()))
    else:
        show_states(states)


def show_states(states: list[dict[str, Any]]) -> None:
    """For people."""
    from rich.console import Console  # late, as what only some calls need: wrong usage is told fast

    from umktls.cli.stat_view import host_view

    console = Console(highlight=False, soft_wrap=True)
    for state in states:
        console.print(host_view(state))


def show_counters(hosts: list[Host], table: str, as_json: bool) -> None:
    """The counters of kernel TLS under the names of one kernel, for each host."""
    lines = {host.name: host.sysctl({})[table] for host in hosts}
    if as_json:
        counters = [{"name": name, table: shown} for name, shown in lines.items()]
        click.echo(json.dumps({"schema": SCHEMA, "hosts": counters}, indent=2))
        return
    if not lines:
        click.echo(nobody(run_base()))
    for name, shown in lines.items():
        if len(lines) > 1:
            click.echo(f"{printable(name)}:")
        for line in shown:
            click.echo(printable_line(line))


def printable_line(line: str) -> str:
    return "\t".join(printable(part) for part in line.split("\t"))


def read(hosts: list[Host]) -> Iterator[dict[str, Any]]:
    """The states of the hosts that answer; a line on stderr for each that does not."""
    for host in hosts:
        try:
            yield host.stat()
        except UmktlsError as error:
            click.echo(f"umktls: {printable(error)}", err=True)
