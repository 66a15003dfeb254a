"""What `umktls stat` shows of a host to people."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from umktls.abi.handshake import HANDSHAKE_VERSION
from umktls.cli.away import amount, server_words, waiting_words, work_words
from umktls.printable import printable

__all__ = ["host_view"]


def host_view(state: dict[str, Any]) -> Group:
    """One host for people: what it is, its connections, its totals."""
    parts: list[Text | Table] = [heading(state)]
    for connection in state.get("connections") or []:
        parts += [connection_line(connection), directions(connection), calls_line(connection)]
        parts += [line for line in (remark_line(connection), clear_warning(connection)) if line]
    return Group(*parts, totals_line(state.get("totals") or {}), Text())


def heading(state: dict[str, Any]) -> Text:
    host = state.get("host") or {}
    started = datetime.fromtimestamp(float(host.get("started") or 0)).strftime("%H:%M:%S")
    text = Text()
    text.append(printable(str(host.get("name"))), style="bold")
    text.append(printable(f"  process {host.get('pid')}, since {started}"))
    text.append(f", personality {printable(str(host.get('personality')))}")
    for label, value in (
        ("mount", state.get("mount") and mount_words(state["mount"], certificate(state))),
        ("server", state.get("server") and server_words(state["server"], time.time())),
        ("waiting", state.get("server") and waiting_words(state["server"])),
        ("work", state.get("work") and work_words(state["work"])),
        ("exports", ", ".join(map(str, state.get("exports") or []))),
        ("backends", ", ".join(map(backend_words, state.get("backends") or []))),
        ("workers", ", ".join(map(worker_words, state.get("workers") or []))),
        ("daemons", ", ".join(map(daemon_words, state.get("daemons") or []))),
        ("handshakes", handshake_words(state.get("handshakes") or {})),
    ):
        if value:
            text.append(f"\n  {label}: {printable(value)}")
    return text


def mount_words(mount: dict[str, Any], shown: str | None) -> str:
    """What is mounted; a mount by mtls that showed no certificate does not look like one."""
    security = str(mount.get("security"))
    if security == "mtls" and shown not in (None, "shown", "unknown"):
        security = f"{security}, but the client's certificate was {shown}"
    return f"{mount.get('what')} at {mount.get('mountpoint') or '-'} ({security})"


def certificate(state: dict[str, Any]) -> str | None:
    """What became of the client's certificate on the newest connection that has TLS."""
    known = [one["tls"] for one in state.get("connections") or [] if one.get("tls")]
    return known[-1].get("client_certificate") if known else None


def backend_words(backend: dict[str, Any]) -> str:
    """A server behind a front."""
    state = "up" if backend.get("up") else f"DOWN, {backend.get('reason')}"
    return f"{backend.get('name')} ({state}, {backend.get('connections')} connections)"


def worker_words(worker: dict[str, Any]) -> str:
    what = f"process {worker.get('pid')}" if worker.get("up") else "being started"
    return f"{worker.get('worker')} ({what}, {worker.get('connections')} connections)"


def daemon_words(daemon: dict[str, Any]) -> str:
    version = f", upcalls of version {daemon['version']}" if "version" in daemon else ""
    if daemon.get("version") == HANDSHAKE_VERSION:
        version = ", Linux's handshake upcall"
    return f"{daemon.get('name')} (process {daemon.get('pid')}{version})"


def handshake_words(handshakes: dict[str, Any]) -> str:
    """What agents of Linux's handshake upcall have to do; empty for nothing."""
    words = (("pending", "wait for an agent"), ("accepted", "are with one"))
    return ", ".join(f"{handshakes[name]} {text}" for name, text in words if handshakes.get(name))


def connection_line(connection: dict[str, Any]) -> Text:
    tls = connection.get("tls") or {}
    words = [connection.get("state"), tls.get("version") or "clear text", tls.get("suite")]
    if tls.get("peer"):
        words.append(f"peer {tls['peer']}")
    if tls.get("client_certificate"):
        words.append(f"client certificate {tls['client_certificate']}")
    shown = ", ".join(str(word) for word in words if word)
    text = Text(f"  {printable(str(connection.get('id')))}", style="bold")
    text.append(printable(f"  {connection.get('peer')}  {shown}"), style="not bold")
    return text


def directions(connection: dict[str, Any]) -> Table:
    """What the connection sends and receives: engine, mode and counters."""
    table = Table.grid(padding=(0, 2))
    for name in ("", *COLUMNS):
        table.add_column(justify="right" if name in ("sequence", "records", "bytes") else "left")
    table.add_row("     ", *COLUMNS, style="dim")
    for direction in ("tx", "rx"):
        half = connection.get(direction) or {}
        engine, mode = half.get("engine") or "none", half.get("mode") or ""
        counters = (half.get("sequence", ""), half.get("records", ""))
        cells = (direction, engine, mode, *counters, amount(int(half.get("bytes") or 0)))
        style = "bold red" if half.get("route") == "clear" else ""
        table.add_row("     ", *(Text(printable(str(cell)), style) for cell in cells))
    return table


def remark_line(connection: dict[str, Any]) -> Text | None:
    """What the handshake daemon wants to be known of the connection."""
    said = (connection.get("tls") or {}).get("remark")
    return Text(f"       {printable(str(said))}", "yellow") if said else None


def clear_warning(connection: dict[str, Any]) -> Text | None:
    """A line for a connection that was meant to be sealed and is not."""
    ways = [way for way in ("tx", "rx") if (connection.get(way) or {}).get("route") == "clear"]
    if not ways or not connection.get("tls"):
        return None
    return Text(
        f"       {' and '.join(ways)}: engine null, everything goes in CLEAR TEXT", "bold red"
    )


COLUMNS = ("", "engine", "mode", "sequence", "records", "bytes")


def calls_line(connection: dict[str, Any]) -> Text:
    rpc, upcalls = connection.get("rpc") or {}, connection.get("upcalls") or {}
    asked = ", ".join(f"{name} {count}" for name, count in upcalls.items() if count)
    line = f"       {rpc.get('calls', 0)} calls, {rpc.get('replies', 0)} replies"
    line = printable(f"{line}, upcalls: {asked}" if asked else line)
    if connection.get("backend"):
        line += printable(f"; backend {connection['backend']}")
    who = connection.get("daemon") or "none"
    if who == "orphan":
        return Text(f"{line}; orphan: its daemon has gone, and another one may adopt it", "yellow")
    return Text(line if who == "none" else f"{line}; its daemon: {printable(str(who))}")


def totals_line(totals: dict[str, Any]) -> Text:
    def count(key: str) -> int:
        return int(totals.get(key) or 0)

    return Text(
        f"  in all: {count('connections')} connections, {count('rpcs')} RPCs, "
        f"sent {count('records_tx')} records ({amount(count('bytes_tx'))}), "
        f"received {count('records_rx')} records ({amount(count('bytes_rx'))}), "
        f"{count('handshakes')} handshakes ({count('resumed')} resumed, "
        f"{count('handshakes_failed')} failed, {count('adopted')} handed over)",
        style="dim",
    )
