"""`umktls stat`: the hosts that run, and their connections."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import click
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from umktls.cli.control import Host, choose, find_hosts
from umktls.cli.trace import printable
from umktls.errors import UmktlsError

__all__ = ["amount", "host_view", "stat"]

SCHEMA = 1


@click.command()
@click.argument("host", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object with everything.")
def stat(host: str | None, as_json: bool) -> None:
    """Show the hosts that run and their connections.

    For each connection and direction: the engine that makes the records, the next record's
    sequence number, how many records and bytes went through. HOST picks one host by its name,
    process number or run directory.

    \b
    Examples:
      umktls stat
      umktls stat --json | jq '.hosts[].totals'
    """
    hosts = find_hosts() if host is None else choose(host)
    states = list(read(hosts))
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, "hosts": states}, indent=2))
    elif not states:
        click.echo("no host runs")
    else:
        console = Console(highlight=False)
        for state in states:
            console.print(host_view(state))


def read(hosts: list[Host]) -> Iterator[dict[str, Any]]:
    """The states of the hosts that answer; a line on stderr for each that does not."""
    for host in hosts:
        try:
            yield host.stat()
        except UmktlsError as error:
            click.echo(f"umktls: {error}", err=True)


def host_view(state: dict[str, Any]) -> Group:
    """One host for people: a line, a table of its connections, its totals."""
    connections = state.get("connections") or []
    parts = [heading(state), connection_table(connections)] if connections else [heading(state)]
    return Group(*parts, totals_line(state.get("totals") or {}), Text())


def heading(state: dict[str, Any]) -> Text:
    host = state.get("host") or {}
    started = datetime.fromtimestamp(float(host.get("started") or 0)).strftime("%H:%M:%S")
    text = Text()
    text.append(printable(str(host.get("name"))), style="bold")
    text.append(f"  process {host.get('pid')}, since {started}, {host.get('personality')}")
    for label in ("mount", "exports", "daemons"):
        if state.get(label):
            text.append(f"\n  {label}: {printable(describe(state[label]))}")
    return text


def describe(value: Any) -> str:
    """A mount or a list of exports on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items() if item is not None)
    if isinstance(value, list):
        return "; ".join(describe(item) for item in value)
    return str(value)


COLUMNS = ("", "peer", "state", "TLS", "", "engine", "sequence", "records", "bytes", "RPCs")


def connection_table(connections: list[dict[str, Any]]) -> Table:
    """Two rows for each connection: what it sends and what it receives."""
    table = Table(box=None, padding=(0, 1), pad_edge=True, header_style="dim")
    for name in COLUMNS:
        right = name in ("sequence", "records", "bytes", "RPCs")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for connection in connections:
        tls = connection.get("tls") or {}
        rpc, upcalls = connection.get("rpc") or {}, connection.get("upcalls") or {}
        asked = " ".join(f"{name} {count}" for name, count in upcalls.items() if count)
        first = (connection.get("id"), connection.get("peer"), connection.get("state"))
        version = tls.get("version") or "clear text"
        sends, receives = connection.get("tx") or {}, connection.get("rx") or {}
        add_row(table, (*first, version), "tx", sends, rpc.get("calls"))
        second = ("", tls.get("peer") or "", f"upcalls: {asked}" if asked else "")
        add_row(table, (*second, tls.get("suite") or ""), "rx", receives, rpc.get("replies"))
    return table


def add_row(
    table: Table, left: tuple[Any, ...], direction: str, counters: dict[str, Any], rpcs: Any
) -> None:
    numbers = [str(counters.get(key, "")) for key in ("sequence", "records")]
    size = amount(int(counters.get("bytes") or 0))
    cells = (*left, direction, counters.get("engine") or "-", *numbers, size, rpcs)
    table.add_row(*(Text(printable(str(cell))) for cell in cells))


def totals_line(totals: dict[str, Any]) -> Text:
    def count(key: str) -> int:
        return int(totals.get(key) or 0)

    return Text(
        f"  in all: {count('connections')} connections, {count('rpcs')} RPCs, "
        f"sent {count('records_tx')} records ({amount(count('bytes_tx'))}), "
        f"received {count('records_rx')} records ({amount(count('bytes_rx'))}), "
        f"{count('handshakes')} handshakes ({count('resumed')} resumed, "
        f"{count('handshakes_failed')} failed)",
        style="dim",
    )


def amount(count: int) -> str:
    """A number of bytes for people, in units of 1024: `1.5 MiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
