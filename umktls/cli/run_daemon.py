"""`umktls run-daemon`: try a handshake daemon against all that a peer can do to it."""

from __future__ import annotations

import json
import shutil
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from umktls.abi.personality import PERSONALITIES, Personality
from umktls.cli.capture_options import capture_options, say_what_is_secret, wanted_capture
from umktls.cli.options import Seconds, personality_option
from umktls.errors import CallerError, WorldError
from umktls.printable import printable, printable_lines

if TYPE_CHECKING:
    from umktls.kernel.captures.config import CaptureConfig
    from umktls.scenarios.bench import Role
    from umktls.scenarios.runner import Result
    from umktls.scenarios.table import Scenario

__all__ = ["run_daemon"]

SCHEMA = 1
LOG_TAIL = 2000  # characters
COLOURS = {"passed": "green", "failed": "red", "skipped": "yellow"}
# What our own daemons are started with when no command is given.
OWN_ARGUMENTS: dict[Role, tuple[str, ...]] = {
    "client": ("-D", "{certdir}", "-l", "{ca}", "-r", "{crl}"),
    "server": ("-D", "{certdir}", "-l", "{ca}", "-r", "{crl}", "-m"),
}


@click.command("run-daemon", context_settings={"ignore_unknown_options": True})
@click.option(
    "--role",
    type=click.Choice(["client", "server"]),
    default="client",
    show_default=True,
    help="Whose daemon it is: a client host's, or a server host's.",
)
@personality_option(
    "Whose kernel it is to serve; what that cannot do is skipped, or expected otherwise."
)
@click.option(
    "--agent",
    is_flag=True,
    help="COMMAND is an unmodified agent for Linux's handshake upcall (netlink family "
    "`handshake`), such as tlshd. {config} in it says so too.",
)
@click.option("--only", multiple=True, metavar="NAME", help="Run this scenario; may be repeated.")
@click.option("--list", "listing", is_flag=True, help="List the scenarios for the role, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--deadline",
    type=Seconds(min=0.5, max=600),
    default=3.0,
    show_default=True,
    metavar="SECONDS",
    help="How long an upcall may take. (15 s in a real kernel: some scenarios wait for it.)",
)
@capture_options
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def run_daemon(
    role: Role,
    personality: str,
    agent: bool,
    only: tuple[str, ...],
    listing: bool,
    as_json: bool,
    deadline: float,
    capture: Path | None,
    secrets: bool,
    capture_size: str | None,
    command: tuple[str, ...],
) -> None:
    """Start COMMAND as the daemon of a fresh host, play the other side, and print a score card.

    COMMAND is a daemon for the sockets of docs/wire.md; without one, our own daemon of that role
    is tried. In its arguments, {rundir} stands for the host's run directory, {certdir} for a
    directory with cert.pem and certkey.pem, {ca} and {crl} for the files of trusted CAs and of
    revoked certificates, {role} for the role. The same are in its environment as UMKTLS_RUNDIR,
    UMKTLS_CERTDIR, UMKTLS_CA, UMKTLS_CRL and UMKTLS_ROLE.

    With --agent, or {config} in its arguments, COMMAND is a program for a real Linux's handshake
    upcall, such as tlshd of ktls-utils. {config} is a tlshd.conf(5) with the certificates. The
    kernel is `linux` then unless said, and what is expected is what Linux's agents do: the
    scenarios say where that differs, with the source.

    Exit codes: 0 all passed (skipped ones do not count, but one at least has to pass), 1 not all
    passed, or the daemon did not come up, 2 wrong usage.

    \b
    Examples:
      umktls run-daemon --role server
      umktls run-daemon -- ./mydaemon --dir {rundir} --cert {certdir} --trust {ca}
      umktls run-daemon --only glued --only tickets-20 -- ./mydaemon
      umktls run-daemon --list --role server
      umktls run-daemon --personality freebsd14 -- ./mydaemon
      umktls run-daemon --role server -- tlshd -s -c {config}
    """
    # Late, as all that a host needs: wrong usage is told at once.
    from umktls.kernel.host.commands import program_path
    from umktls.scenarios.bench import DAEMONS
    from umktls.scenarios.runner import choose

    try:
        agent = agent or any("{config}" in word for word in command)
        personality = kernel_for(agent, personality)
        scenarios, kernel = choose(role, only), PERSONALITIES[personality]
        check_agent(agent, kernel, command, listing)
        wanted = wanted_capture(capture, secrets, capture_size)
    except CallerError as error:
        raise click.UsageError(str(error)) from error
    if listing:
        show_list(scenarios, kernel, agent, as_json)
        return
    words = command or (program_path(DAEMONS[role]), *OWN_ARGUMENTS[role])
    say_what_is_secret(wanted)
    trial = Trial(say_nothing if as_json else show, agent)
    trial.run(role, words, scenarios, deadline, kernel, wanted)
    finish(trial, trial.card(role, personality, words), as_json)


def kernel_for(agent: bool, personality: str) -> str:
    """An agent's is Linux's, unless another one was asked for."""
    source = click.get_current_context().get_parameter_source("personality")
    asked = source is not click.core.ParameterSource.DEFAULT
    return "linux" if agent and not asked else personality


def check_agent(agent: bool, kernel: Personality, command: Sequence[str], listing: bool) -> None:
    """Raises CallerError."""
    if agent and not kernel.handshake_family:
        raise CallerError(
            f"the kernel of {kernel.name} has no netlink family `handshake`, which such agents are "
            "for: leave out --personality, or take linux"
        )
    if agent and not command and not listing:
        raise CallerError("--agent needs a command, such as: tlshd -s -c {config}")


def finish(trial: Trial, card: dict[str, Any], as_json: bool) -> None:
    """Print the score card; the exit code says whether all passed."""
    if as_json:
        click.echo(json.dumps(card))
    else:
        show_end(card)
    if not trial.good:
        raise click.exceptions.Exit(1)


class Trial:
    """The scenarios that were played, what the daemon has logged, and why it came to an end before
    all were: that one error is part of the card. `tell` gets each result as it comes."""

    def __init__(self, tell: Callable[[Result], None], agent: bool = False) -> None:
        self._tell = tell
        self._agent = agent
        self.results: list[Result] = []
        self.log = ""
        self.error: str | None = None

    def run(
        self,
        role: Role,
        command: Sequence[str],
        scenarios: Sequence[Scenario],
        deadline: float,
        kernel: Personality,
        capture: CaptureConfig | None = None,
    ) -> None:
        from functools import partial

        from umktls.cli.interrupts import ended_by_signals
        from umktls.kernel.ground import hostclock
        from umktls.kernel.host.rundir import next_place
        from umktls.scenarios.runner import run

        directory = Path(tempfile.mkdtemp(prefix="umktls-run-"))
        try:
            # Among the others, and by a clock that can stand still: umktls watch shows it, too.
            arguments = (role, command, scenarios, directory, deadline, self._note, kernel)
            rundir = next_place(role)
            play = partial(run, *arguments, capture=capture, rundir=rundir, agent=self._agent)
            hostclock.run(ended_by_signals, play)
        except WorldError as error:
            self.error = str(error)
        finally:
            with suppress(FileNotFoundError):
                self.log = (directory / "daemon.log").read_text(errors="replace")
            shutil.rmtree(directory, ignore_errors=True)

    def _note(self, result: Result) -> None:
        self.results.append(result)
        self._tell(result)

    def count(self, verdict: str) -> int:
        return sum(result.verdict == verdict for result in self.results)

    @property
    def good(self) -> bool:
        """Where nothing was played, nothing is known of the daemon."""
        return self.error is None and not self.count("failed") and self.count("passed") > 0

    def card(self, role: Role, personality: str, command: Sequence[str]) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "role": role,
            "personality": personality,
            "agent": self._agent,
            "command": list(command),
            **{verdict: self.count(verdict) for verdict in COLOURS},
            "results": [result.as_dict() for result in self.results],
            "error": self.error,
            "log": self.log,
        }


def show_list(
    scenarios: Sequence[Scenario], kernel: Personality, agent: bool, as_json: bool
) -> None:
    if as_json:
        names = ("name", "about", "roles")
        listed = [
            {name: getattr(one, name) for name in names} | asdict(one.under(kernel, agent))
            for one in scenarios
        ]
        click.echo(json.dumps({"schema": SCHEMA, "scenarios": listed}))
        return
    for one in scenarios:
        expected = one.under(kernel, agent)
        click.secho(one.name, bold=True, nl=False)
        click.echo(f": {expected.words}" if not expected.skipped else f": {expected.skipped}")
        click.echo(textwrap.fill(one.about, 90, initial_indent="    ", subsequent_indent="    "))


def show(result: Result) -> None:
    """The score card's two lines about a scenario."""
    verdict = click.style(f"{result.verdict:7}", fg=COLOURS[result.verdict])
    click.echo(
        f"{verdict} {result.scenario:26} {result.seconds:6.2f} s  expected: {result.expected}"
    )
    click.echo(f"{'':44}    seen: {printable(result.seen)}")


def show_end(card: dict[str, Any]) -> None:
    """The log, where it may say more than the results; and how many there are of each."""
    if card["failed"] or card["error"]:
        log = card["log"][-LOG_TAIL:].strip()
        click.echo("the end of the daemon's log:\n" + printable_lines(log or "(nothing)", "  "))
    click.echo("{passed} passed, {failed} failed, {skipped} skipped".format_map(card))
    if card["error"]:
        click.secho(printable(card["error"]), fg="red")
    elif not card["passed"] and not card["failed"]:
        click.secho("nothing was played, so nothing is known of the daemon", fg="red")


def say_nothing(result: Result) -> None:
    """For a card that is printed at the end."""
