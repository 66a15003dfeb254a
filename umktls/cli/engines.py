"""`umktls engines`: what can make the records here, and what each can do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from umktls.abi.freebsd import TCP_TLS_MODE_NAMES
from umktls.errors import CallerError
from umktls.ktls.engines import engine_names, get_engine, others_engines, route_of
from umktls.ktls.engines.choice import EngineChoice
from umktls.printable import printable

if TYPE_CHECKING:
    from rich.text import Text

    from umktls.kernel.sockets.engines import Ability

__all__ = ["engines", "say_loudly", "warn"]

SCHEMA = 1
DIRECTIONS = {"tx": "sends", "rx": "receives"}
INDENT = " " * 10


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object with everything.")
def engines(as_json: bool) -> None:
    """List the engines: what seals and opens the records of a connection.

    One is chosen with --engine NAME, or one for each direction with --engine tx=NAME,rx=NAME, for
    `umktls serve` and for `umktls mount`. Other packages bring more by the entry point group
    umktls.engines.

    \b
    Examples:
      umktls engines
      umktls serve /srv/data --certs /tmp/pki --engine tx=ifnet,rx=software
      umktls mount localhost:/ /mnt --certs /tmp/pki -o engine=bounce
    """
    found = [facts(name) for name in engine_names()]
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, "engines": found}, indent=2))
        return
    # `umktls serve` takes only `warn` from here, and starts faster without.
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for one in found:
        for line in view(one):
            console.print(line)


def facts(name: str) -> dict[str, Any]:
    """All about one engine; `problem` says why it cannot be used, null where it can."""
    entry = others_engines().get(name)
    known: dict[str, Any] = {"name": name, "from": entry.value if entry else "umktls"}
    try:
        engine = get_engine(name)
    except CallerError as error:
        return known | {"problem": str(error)}
    from umktls.kernel.sockets.engines import abilities, problem  # late: it has what a host has

    able = abilities(engine)
    return known | {
        "mode": TCP_TLS_MODE_NAMES.get(engine.mode, str(engine.mode)),
        "route": route_of(engine).value,
        "note": getattr(engine, "note", ""),
        "warning": getattr(engine, "warning", None),
        "problem": problem(engine),
        **{way: words(able[way]) if way in able else None for way in ("tx", "rx")},
    }


def words(ability: Ability) -> dict[str, Any]:
    return {"suites": ability.suites, "refused": ability.refused}


def view(one: dict[str, Any]) -> Iterator[Text]:
    """One engine for people."""
    from rich.text import Text

    title = Text(f"{one['name']:<9} ", style="bold")
    if one["problem"]:
        title.append(f"cannot be used here: {one['problem']}", style="not bold yellow")
    else:
        origin = "" if one["from"] == "umktls" else f", from {one['from']}"
        title.append(f"mode {one['mode']}{origin}: {one['note'] or 'no note'}", style="not bold")
    if one.get("warning"):
        title.stylize("red")
    yield title
    if not one["problem"]:
        for line in ability_lines(one):
            yield Text(INDENT + line)


def ability_lines(one: dict[str, Any]) -> Iterator[str]:
    if one["tx"] == one["rx"]:
        yield from direction_lines(one["tx"], "both ways")
        return
    for way, verb in DIRECTIONS.items():
        yield from direction_lines(one[way], verb)


def direction_lines(able: dict[str, Any] | None, verb: str) -> Iterator[str]:
    if able is None:
        yield f"{verb}: not with this engine"
        return
    for version, suites in able["suites"].items():
        yield f"{verb} {version}: {', '.join(suites)}"
    for reason, what in refusals(able).items():
        yield f"{verb} not {', '.join(what) if able['suites'] else 'anything'}: {reason}"


def refusals(able: dict[str, Any]) -> dict[str, list[str]]:
    """What is refused, by reason; a version of which nothing is left is named as a whole."""
    found: dict[str, list[str]] = {}
    for version, suites in able["refused"].items():
        reasons = list(dict.fromkeys(suites.values()))
        if len(reasons) == 1 and version not in able["suites"]:
            found.setdefault(reasons[0], []).append(version)
            continue
        for suite, reason in suites.items():
            found.setdefault(reason, []).append(suite)
    return found


def warn(choice: EngineChoice) -> None:
    """Say on stderr, in red, what whoever uses these engines has to know every time."""
    for text in choice.warnings():
        say_loudly(text)


def say_loudly(text: str) -> None:
    """On stderr, in red."""
    click.secho(f"umktls: warning: {printable(text)}", fg="red", bold=True, err=True)
