"""What events there are: one table for `umktls trace`, for the page of `umktls watch` and for its
recordings. `docs/events.md` is made of it (`make docs`), and tests hold the code to it.

An event is an object of JSON. The fields of `COMMON` are in each; a kind has more, which are named
here with their types and units in `FIELDS`. A field that a kind only sometimes has is in its
`maybe`. Kinds that are `watched` happen only while somebody watches closely (`Trace.step`): they
come for every record, call and system call, so they are neither kept nor logged.

The schema has a version. It grows when a kind or a field goes or changes its meaning; readers pass
over kinds and fields that they do not know.
"""

from __future__ import annotations

from typing import Any

from umktls.dataclass import dataclass

__all__ = ["COMMON", "FIELDS", "LAYERS", "SCHEMA", "Field", "Kind", "field_of", "problems"]

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Field:
    """`type` is JSON's ("integer" and "number" apart); `unit` is empty for what has none."""

    type: str
    meaning: str
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of events.

    `line` is the text for people, with the names of fields in braces. `layer` is one of `LAYERS`,
    `meaning` says when it happens. `fields` and `maybe` are names, with blanks between them.
    """

    layer: str
    line: str
    meaning: str
    fields: str = ""
    maybe: str = ""
    watched: bool = False


# From the top of the picture in docs/architecture.md to its bottom, then what goes beside it.
LAYERS = {
    "fs": "requests of the file system, on the client",
    "rpc": "calls and replies, and the connections that carry them",
    "ktls": "the KTLS socket: keys, records, modes",
    "tcp": "TCP connections",
    "upcall": "what the kernel asks a daemon",
    "syscall": "what a daemon asks the kernel",
    "tls": "what a daemon tells of TLS",
    "daemon": "daemons that come and go",
    "front": "a front and its backends",
    "host": "the host itself",
}

COMMON = {
    "time": Field("number", "wall clock", "seconds since 1970"),
    "mono": Field(
        "number", "CLOCK_MONOTONIC: the same for all hosts of one machine, never set", "seconds"
    ),
    "number": Field("integer", "counts the events of one host, from 1"),
    "host": Field("string", "name of the host"),
    "side": Field("string", "client, server, or run (`umktls run`)"),
    "connection": Field("string or null", "the connection, as logs and mount errors call it"),
    "event": Field("string", "the kind"),
    "text": Field("string", "the line for people"),
}

_INTEGERS = {
    "attempt": "how often it was sent, this time included",
    "connections": "connections there are",
    "fd": "number of the socket in the kernel's table of the daemon's process",
    "generation": "how many keys this direction has had, this one included",
    "pid": "process",
    "program": "number of the RPC program",
    "records": "TLS records",
    "request": "counts the requests of a mount; 0: it was made for none that was told",
    "sequence": "TLS sequence number",
    "skipped": "events before this one that were not told: too many at once, or read too slowly",
    "strangers": "connections that have shown nothing yet",
    "tries": "attempts so far",
    "type": "TLS ContentType: 20 change_cipher_spec, 21 alert, 22 handshake, 23 application_data",
    "uid": "user",
    "version_number": "of the RPC program",
    "waiting": "what waits: calls or connections; with keys, bytes in the receive queue",
    "worker": "number of the worker",
    "xid": "transaction id of the RPC",
}
_TEXTS = {
    "advice": "what to do about it, may be empty",
    "alpn": "protocol agreed by ALPN",
    "backend": "server that a front calls",
    "client_certificate": "what became of the client's certificate",
    "cookie": "of a socket, hexadecimal",
    "daemon": "name of the daemon",
    "description": "name of the alert",
    "direction": "sent or received",
    "done": "what was done about it",
    "engine": "what seals or opens",
    "engine_rx": "engine that opens",
    "engine_tx": "engine that seals",
    "fate": "what happens to the record",
    "hex": "the bytes, hexadecimal; of a long message the first 1800",
    "how": "how it goes",
    "level": "warning or fatal",
    "local": "own address and port",
    "messages": "names of handshake messages, in their order",
    "mode": "TCP_TLS_MODE_*, without that",
    "name": "name of the record's type, handshake message, system call or request",
    "object": "what the request is about: a name or an inode number",
    "outcome": "what came of it",
    "path": "file of the capture",
    "peer": "the other end: address and port, or a certificate's name",
    "phase": "part of the handshake in which it failed",
    "procedure": "name of the procedure",
    "reason": "why",
    "remark": "what else there is to say",
    "result": "the answer, by the names of its numbers; ok, or the name of the error",
    "role": "client, server, or run (`umktls run`)",
    "rundir": "run directory",
    "rx": "mode of receiving",
    "server": "the server, as the mount names it",
    "step": "the kind of step, as in umktls/kernel/ground/steps.py",
    "state": "as in the tables of umktls/ktls/socket/states.py and umktls/upcall/states.py",
    "suite": "cipher suite",
    "tx": "mode of sending",
    "version": "version of TLS; of a daemon, of the upcall",
    "what": "what it is about",
    "where": "place",
    "who": "who calls",
}

FIELDS: dict[str, Field] = {
    **{name: Field("integer", meaning) for name, meaning in _INTEGERS.items()},
    **{name: Field("string", meaning) for name, meaning in _TEXTS.items()},
    "bytes": Field(
        "integer", "payload; of a sealed record that is only counted, all of it", "bytes"
    ),
    "gids": Field("list", "groups"),
    "length": Field("integer", "on the wire, header and tag included", "bytes"),
    "lifetime": Field("integer", "how long a ticket is good for", "seconds"),
    "pause": Field("number", "time until the next try", "seconds"),
    "percent": Field("number", "part that had to be sent again", "percent"),
    "record": Field("integer", "by which `umktls watch` asks for the record's bytes"),
    "requested": Field("boolean", "the peer is asked for a new key too"),
    "resumed": Field("boolean", "the handshake resumed a session"),
    "seconds": Field("number", "how long it took", "seconds"),
    "verified": Field("boolean", "the peer's certificate was verified"),
}

# Where one kind has a field of the same name with another type or meaning.
OTHERWISE = {
    ("bounce", "direction"): Field("string", "sending or receiving"),
    ("daemon-registered", "path"): Field("string", "socket of the daemon, or its netlink group"),
    ("daemon-registered", "version"): Field("integer", "version of the upcall"),
    ("key-update", "generation"): Field("integer", "KeyUpdates in that direction, this one too"),
    ("certuser", "gids"): Field("list", "groups of that user"),
}


def field_of(kind: str, name: str) -> Field | None:
    """What a field of that kind is; None for one that nobody has described."""
    return COMMON.get(name) or OTHERWISE.get((kind, name)) or FIELDS.get(name)


_TYPES: dict[str, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "string or null": (str, type(None)),
    "boolean": (bool,),
    "list": (list,),
}


def problems(event: dict[str, Any], kinds: dict[str, Kind]) -> list[str]:
    """What is wrong with an event by its schema, one line each; empty where nothing is."""
    name = str(event.get("event"))
    kind = kinds.get(name)
    if kind is None:
        return [f"{name}: there is no such kind"]
    wanted = {*COMMON, *kind.fields.split()}
    allowed = wanted | set(kind.maybe.split()) | {"skipped"}
    found = [f"{name} lacks {field}" for field in sorted(wanted - set(event))]
    found += [f"{name} has {field}, of which nothing is said" for field in set(event) - allowed]
    for field in sorted(allowed & set(event)):
        described = field_of(name, field)
        if described is None or not _fits(event[field], described.type):
            found.append(f"{name}: {field} is {event[field]!r}")
    return found


def _fits(value: object, type_: str) -> bool:
    if isinstance(value, bool) and type_ != "boolean":
        return False
    return isinstance(value, _TYPES[type_])
