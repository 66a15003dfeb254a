"""utrace(2): what a daemon tells of its sessions, for the trace and for the kernel."""

from __future__ import annotations

import contextlib
import json
import math
from types import NoneType
from typing import Any, NamedTuple, Protocol

from umktls.abi.alerts import TlsAlert, alert_name
from umktls.errors import CallerError
from umktls.kernel.ground.events import Trace
from umktls.kernel.ground.kinds import KINDS
from umktls.kernel.sockets.facts import Failure, TlsFacts
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.upcalls.renewal import Renewals

__all__ = ["UTRACE_EVENTS", "Told", "decode_untrusted", "flight_untrusted", "take_note"]

# What a daemon may put into the trace by utrace: event -> fields that are kept.
UTRACE_EVENTS = {
    "handshake": (
        *("version", "suite", "alpn", "peer"),
        *("resumed", "verified", "client_certificate", "remark"),
    ),
    "handshake-failed": ("phase", "reason", "advice"),
    "ticket": ("lifetime", "bytes"),
    "ticket-dropped": ("lifetime", "bytes"),
    "key-update": ("direction", "generation", "requested"),
    "alert": ("level", "description", "reason"),
    "swallowed": ("type", "name", "bytes"),
    "flight": ("messages", "bytes"),
    "handshake-message": ("direction", "name", "bytes", "hex"),
    "warning": ("reason",),
    "reloaded": ("outcome",),
}
PLAIN = (str, int, float, NoneType)  # as JSON has them; a bool is an int
# The phases of failures: of one whose daemon names none, and of a fatal alert behind the handshake.
SOME_PHASE, ALERT_PHASE = "handshake", "alert"
# Alerts about what was said on one connection, by names and numbers: a byte that the network has
# spoilt is one. All others are about who the peers are, or what they can.
PASSING_ALERTS = frozenset(
    text
    for alert in (
        TlsAlert.UNEXPECTED_MESSAGE,
        TlsAlert.BAD_RECORD_MAC,
        TlsAlert.RECORD_OVERFLOW,
        TlsAlert.ILLEGAL_PARAMETER,
        TlsAlert.DECODE_ERROR,
        TlsAlert.DECRYPT_ERROR,
    )
    for text in (alert_name(alert), str(alert.value))
)


class Told(NamedTuple):
    """An event as a daemon has told it, and the descriptor that it names, if it names one."""

    event: str
    fd: int | None
    fields: dict[str, Any]


class Noting(Protocol):
    """Who has to hear of an event, of a host."""

    trace: Trace
    renewals: Renewals


def decode_untrusted(data: bytes) -> Told:
    """The argument of utrace(2). Raises `CallerError` for what is no event of the table."""
    try:
        record = json.loads(data.decode("utf-8", "surrogatepass"))
        event = record["event"]
        kept = UTRACE_EVENTS[event]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CallerError("utrace: not an event that the kernel knows") from error
    fields = {key: plain(record[key]) for key in kept if key in record}
    if event == "handshake-failed":
        fields["phase"] = fields.get("phase") or SOME_PHASE
    elif event == "alert" and fields.get("level") == "fatal":
        fields["phase"] = ALERT_PHASE
    number = record.get("fd")
    return Told(event, number if type(number) is int else None, fields)


def flight_untrusted(data: bytes) -> tuple[str, str]:
    """The step that an event of a daemon's is, if it is one: "flight", and its messages."""
    with contextlib.suppress(CallerError):
        told = decode_untrusted(data)
        if told.event == "flight":
            return "flight", str(told.fields.get("messages", ""))
    return "", ""


def take_note(host: Noting, sock: KernelSocket | None, event: str, fields: dict[str, Any]) -> None:
    """What the kernel does with an event: `keep`, and an event of the trace."""
    if sock is not None:
        keep(sock, event, fields)
        if event == "key-update" and fields.get("direction") == "received":
            host.renewals.update_received(sock)
    tell = host.trace.step if KINDS[event].watched else host.trace.emit
    tell(event, sock.name if sock is not None else None, **fields)


def plain(value: object) -> str | int | float | bool | None:
    """`value` if it is a plain one, its text otherwise. Python reads and writes NaN and Infinity,
    which are no JSON: a browser would throw away all that is told with them."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, PLAIN) else str(value)


def keep(sock: KernelSocket, event: str, fields: dict[str, Any]) -> None:
    """Keep what concerns the connection itself: what was agreed, or why it failed."""
    if event == "handshake":
        text = {key: str(fields.get(key, "?")) for key in ("version", "suite", "alpn", "peer")}
        certificate = str(fields.get("client_certificate", "unknown"))
        sock.tls = TlsFacts(
            **text,
            resumed=bool(fields.get("resumed")),
            client_certificate=certificate,
            remark=str(fields.get("remark") or ""),
        )
    elif event == "handshake-failed":
        names = ("phase", "reason", "advice")
        phase, reason, advice = (str(fields.get(name, "")) for name in names)
        sock.fail(Failure(phase, reason, advice))
    elif event == "alert" and fields.get("level") == "fatal":
        reason = fields.get("reason") or fields.get("description") or "a fatal alert"
        sock.fail(
            Failure(ALERT_PHASE, str(reason), final=fields.get("description") not in PASSING_ALERTS)
        )
