"""The page: one document, live or with a recording inside.

Its modules name each other by bare names, which an import map leads to where they
are: the server's files, or, in a recording, the document itself (data: URLs). So a recording is the
same page, needs no network, and opens from a file.
"""

from __future__ import annotations

import base64
import gzip
import json
from html import escape
from importlib import resources
from typing import Any

from umktls.kernel.ground.kinds import KINDS
from umktls.kernel.ground.schema import COMMON, LAYERS, OTHERWISE, SCHEMA, field_of
from umktls.kernel.ground.steps import STEPS
from umktls.ktls.socket.states import RX_TRANSITIONS, TX_TRANSITIONS
from umktls.upcall.states import CONNECT_TRANSITIONS, SESSION_TRANSITIONS

__all__ = ["MODULES", "about", "live", "recorded", "static"]

# A recording can reach nothing, whoever has made it.
ALONE = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    "script-src 'unsafe-inline' data:; style-src 'unsafe-inline'; img-src data:\">"
)
MODULES = (
    "dom",
    "source",
    "model",
    "picture",
    "states",
    "timeline",
    "bytes",
    "controls",
    "steps",
    "lessons",
    "tours",
    "main",
)


def static(name: str) -> bytes:
    """A file of the page. Raises KeyError for what is none."""
    if name not in {"style.css", *(f"{module}.js" for module in MODULES)}:
        raise KeyError(name)
    return resources.files("umktls.watch").joinpath("static", name).read_bytes()


def about() -> dict[str, Any]:
    """What the page has to know before any event: the schema, and the tables of states."""
    kinds = {
        name: {"layer": kind.layer, "watched": kind.watched, "meaning": kind.meaning}
        for name, kind in KINDS.items()
    }
    words = {word for kind in KINDS.values() for word in f"{kind.fields} {kind.maybe}".split()}
    fields = {name: field_of("", name) for name in sorted(words)} | COMMON
    fields |= {f"{kind} {name}": field for (kind, name), field in OTHERWISE.items()}
    return {
        "schema": SCHEMA,
        "layers": LAYERS,
        "steps": STEPS,
        "kinds": kinds,
        "fields": {
            name: {"type": field.type, "unit": field.unit, "meaning": field.meaning}
            for name, field in fields.items()
            if field is not None
        },
        "tables": {
            "tx": [[a.name, event.name, b.name] for (a, event), b in TX_TRANSITIONS.items()],
            "rx": [[a.name, event.name, b.name] for (a, event), b in RX_TRANSITIONS.items()],
            "connect": upcall_table(CONNECT_TRANSITIONS),
            "session": upcall_table(SESSION_TRANSITIONS),
        },
    }


def upcall_table(table: Any) -> list[list[str]]:
    return [[a.value, event.value, b.value] for (a, event), (_, b) in table.items() if a is not b]


def live(facts: dict[str, Any], nonce: str) -> str:
    """The page of a server; its files are beside it, at static/. `nonce` is for its scripts."""
    names = {f"umktls/{name}.js": f"./static/{name}.js" for name in MODULES}
    style = '<link rel="stylesheet" href="./static/style.css">'
    return document(facts, names, style, nonce)


def recorded(recording: dict[str, Any]) -> str:
    """The page with a recording inside, which needs nothing else."""
    names = {
        f"umktls/{name}.js": "data:text/javascript;base64,"
        + base64.b64encode(static(f"{name}.js")).decode()
        for name in MODULES
    }
    style = f"{ALONE}<style>{static('style.css').decode()}</style>"
    packed = gzip.compress(json.dumps(recording, separators=(",", ":")).encode(), mtime=0)
    inside = base64.b64encode(packed).decode()
    data = f'<script type="application/octet-stream" id="recording">{inside}</script>'
    return document({**about(), "live": False}, names, style + data, "")


def document(facts: dict[str, Any], names: dict[str, str], head: str, nonce: str) -> str:
    said = f' nonce="{escape(nonce)}"' if nonce else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer"><title>umktls watch</title>'
        '<link rel="icon" href="data:,">'
        f"{head}"
        f'<script type="application/json" id="facts">{inline(facts)}</script>'
        f'<script type="importmap"{said}>{inline({"imports": names})}</script>'
        "</head><body><noscript>This page is made by scripts.</noscript>"
        f'<script type="module"{said}>import "umktls/main.js";</script></body></html>'
    )


def inline(value: object) -> str:
    """JSON that can stand inside a script element."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
