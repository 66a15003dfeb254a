"""Makes docs/events.md of the table of events: `python -m tests.docs.events` (see `make docs`)."""

from __future__ import annotations

from pathlib import Path

from umktls.kernel.ground.events import RING_EVENTS
from umktls.kernel.ground.kinds import KINDS
from umktls.kernel.ground.pace import MOST_STEPS, STEPS_PER_WINDOW, WINDOW_SECONDS
from umktls.kernel.ground.schema import COMMON, FIELDS, LAYERS, OTHERWISE, SCHEMA, Field, Kind

__all__ = ["PAGE", "page"]

PAGE = Path(__file__).parents[2] / "docs" / "events.md"

HEAD = f"""# Events

Made from `umktls/kernel/ground/kinds.py` and `schema.py` by `make docs`; do not edit. This is
version {SCHEMA} of the schema.

What happens in a host is an event: an object of JSON. `umktls trace --json` prints them, one a
line, and `umktls trace` their texts; the page of `umktls watch` and its recordings are made of
them. A host keeps its newest {RING_EVENTS}, and logs them. Those marked *watched* happen for every
record, call and system call. They are made only while somebody watches closely (`umktls watch`),
are neither kept nor logged, and where many happen, {STEPS_PER_WINDOW} of them are told in
{WINDOW_SECONDS:g} s, behind the first {MOST_STEPS}: `skipped` then says how many were not.
While nobody watches, they cost a look at a flag. Of whoever reads too slowly 10000 events wait,
the newest; the next one that it gets has the number of those that are lost in `skipped`, too.

The version grows when a kind or a field goes or changes its meaning. Readers pass over what they do
not know.

## In every event
"""


def described(field: Field) -> str:
    unit = f", in {field.unit}" if field.unit else ""
    return f"{field.type}{unit} | {field.meaning}"


def row(name: str, kind: Kind) -> str:
    """One kind: when it happens, and what is in it."""
    fields = [f"`{word}`" for word in kind.fields.split()]
    fields += [f"(`{word}`)" for word in kind.maybe.split()]
    mark = " *watched*" if kind.watched else ""
    return f"| `{name}`{mark} | {kind.meaning} | {' '.join(fields)} |"


def page() -> str:
    """All of it."""
    lines = [HEAD, "| field | type | meaning |", "|---|---|---|"]
    lines += [f"| `{name}` | {described(field)} |" for name, field in COMMON.items()]
    lines += ["", "## Kinds", "", "Fields in parentheses are not always there."]
    for layer, meaning in LAYERS.items():
        lines += ["", f"### {layer}: {meaning}", "", "| kind | when | fields |", "|---|---|---|"]
        lines += [row(name, kind) for name, kind in KINDS.items() if kind.layer == layer]
    lines += ["", "## Fields", "", "| field | type | meaning |", "|---|---|---|"]
    lines += [f"| `{name}` | {described(FIELDS[name])} |" for name in sorted(FIELDS)]
    for (kind_name, name), field in OTHERWISE.items():
        lines.append(f"| `{name}` of `{kind_name}` | {described(field)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
