"""`umktls doctor`: what this machine has and lacks, and the line that mends it."""

from __future__ import annotations

import json

import click

from umktls.printable import printable

__all__ = ["doctor"]

SCHEMA = 1
MARKS = {"ok": ("ok", "green"), "lacks": ("LACKS", "red"), "could": ("could", "yellow")}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object with everything.")
def doctor(as_json: bool) -> None:
    """Look at what umktls needs of this machine, and name the line that mends what is lacking.

    What LACKS keeps something that everybody needs from working: mounts, servers, daemons. What
    `could` be there is needed for one purpose only, which is named. Nothing is changed, and nothing
    goes over a network.

    Exit codes: 0 nothing is lacking, 1 something is.

    \b
    Examples:
      umktls doctor
      umktls doctor --json | jq '.checks[] | select(.state != "ok")'
    """
    from umktls.cli.doctor_checks import examined  # late: it has much of what a host has

    found = examined()
    good = all(one.state != "lacks" for one in found)
    if as_json:
        checks = [one.as_dict() for one in found]
        click.echo(json.dumps({"schema": SCHEMA, "ok": good, "checks": checks}, indent=2))
    else:
        for one in found:
            mark, colour = MARKS[one.state]
            click.echo(f"{click.style(f'{mark:6}', fg=colour)} {one.name:13} {printable(one.text)}")
            if one.mend:
                click.echo(f"{'':20} {one.mend}")
        click.secho("nothing is lacking" if good else "see what LACKS above", bold=True)
    if not good:
        raise click.exceptions.Exit(1)
