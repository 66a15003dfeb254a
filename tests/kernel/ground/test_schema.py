"""The table of events: what code emits is in it, and docs/events.md is made of it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import umktls
from tests.docs.events import PAGE, page
from umktls.kernel.ground.kinds import KINDS
from umktls.kernel.ground.schema import COMMON, FIELDS, LAYERS, OTHERWISE, field_of, problems
from umktls.kernel.host.utrace import UTRACE_EVENTS

ROOT = Path(umktls.__file__).parents[1]
EMITTERS = {"emit": False, "step": True, "tell": True, "_tell": True}
# What else is called so.
OTHERS = {"tests", "build"}
BASE = {
    "time": 1.0,
    "mono": 1.0,
    "number": 1,
    "host": "h",
    "side": "client",
    "connection": None,
    "text": "t",
}


def emitted() -> Iterator[tuple[str, bool, set[str] | None, str]]:
    """Of each call that emits a kind named on the spot: the kind, whether only watchers hear of
    it, its fields (None where they are not all named), and where it is."""
    for path in sorted(
        p for top in ("umktls", "fs", "daemons") for p in (ROOT / top).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            name = node.func.attr
            if name not in EMITTERS or not node.args or not isinstance(node.args[0], ast.Constant):
                continue
            kind = node.args[0].value
            if isinstance(kind, str):
                words = {keyword.arg for keyword in node.keywords}
                fields = None if None in words or name == "_tell" else {str(w) for w in words}
                yield kind, EMITTERS[name], fields, f"{path.name}:{node.lineno}"


def test_what_code_emits_is_in_the_table() -> None:
    found = list(emitted())
    assert len(found) > 60
    for kind, watched, fields, where in found:
        assert kind in KINDS, f"{where}: {kind}"
        if "_emit" in where or kind in UTRACE_EVENTS:
            continue
        assert KINDS[kind].watched == watched, f"{where}: {kind}"
        if fields is not None:
            said = set(KINDS[kind].fields.split()), set(KINDS[kind].maybe.split())
            assert said[0] <= fields <= said[0] | said[1], f"{where}: {kind} {fields}"


def test_what_is_in_the_table_is_emitted() -> None:
    told = {kind for kind, *_ in emitted()} | set(UTRACE_EVENTS)
    assert set(KINDS) == told


def test_what_a_daemon_may_tell_is_in_the_table() -> None:
    for event, fields in UTRACE_EVENTS.items():
        kind = KINDS[event]
        assert set(fields) <= {*kind.fields.split(), *kind.maybe.split()}, event


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_kind_is_described(name: str) -> None:
    kind = KINDS[name]
    assert kind.layer in LAYERS
    assert kind.meaning
    words = {*kind.fields.split(), *kind.maybe.split()}
    assert all(field_of(name, word) for word in words)
    assert not words & set(COMMON)


def test_no_field_is_described_for_nobody() -> None:
    used = {word for kind in KINDS.values() for word in (*kind.fields.split(), *kind.maybe.split())}
    assert set(FIELDS) - used == {"skipped"}
    assert all(name in KINDS for name, _ in OTHERWISE)


def test_the_page_is_made_of_the_table() -> None:
    assert PAGE.read_text() == page(), "docs/events.md is not as the table is: run make docs"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"pid": 3}, "lacks fd"),
        ({"pid": "3", "fd": 4}, "pid is '3'"),
        ({"pid": True, "fd": 4}, "pid is True"),
        ({"pid": 3, "fd": 4, "colour": "red"}, "colour, of which nothing is said"),
    ],
)
def test_an_event_that_is_not_as_its_schema_says(fields: dict[str, object], reason: str) -> None:
    (found,) = problems({**BASE, "event": "socket-taken", **fields}, KINDS)
    assert reason in found


def test_an_event_that_is() -> None:
    assert problems({**BASE, "event": "socket-taken", "pid": 3, "fd": 4, "skipped": 9}, KINDS) == []
    assert "no such kind" in problems({**BASE, "event": "tea"}, KINDS)[0]
