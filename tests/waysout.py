"""Each way by which text from outside comes before people, or into a log."""

from __future__ import annotations

import io
import json
import logging
import socket
import string
import sys
import syslog
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from umktls_daemons.programs.background import Launch
from umktls_daemons.programs.logs import set_up_logging
from umktls_fs import background, command, helper

from tests.cli.fakes import fake_host
from umktls.certs import layout, revocation
from umktls.cli import main as program
from umktls.cli.probe import show as show_probe
from umktls.cli.probe_report import Report
from umktls.errors import WorldError
from umktls.printable import clean_what_python_prints
from umktls.userland.notify import notify

# Each way out takes the text, and returns what a person or a log gets to see.
WaysOut = dict[str, Callable[[str, pytest.MonkeyPatch, Path], str]]
WAYS: WaysOut = {}


def way(name: str) -> Callable[[Callable[..., str]], Callable[..., str]]:
    def register(function: Callable[..., str]) -> Callable[..., str]:
        WAYS[name] = function
        return function

    return register


def fields_of(template: str, text: str) -> dict[str, Any]:
    """The event's fields, as bad as their places in the line allow."""
    parsed = string.Formatter().parse(template)
    return {name: 1.5 if form else text for _, name, form, _ in parsed if name}


def logged_with(handler: logging.Handler, say: Callable[[logging.Logger], None]) -> None:
    logger = logging.Logger("umktls.of-a-test")
    logger.addHandler(handler)
    say(logger)
    handler.close()


def said(text: str) -> Callable[[logging.Logger], None]:
    return lambda logger: logger.warning("%s is not given to %s", text, text)


@way("a daemon's log on standard error")
def _(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    set_up_logging("rpctlscd", logging.INFO, None)
    logging.getLogger("umktls.of-a-test").warning("%s: %r", text, text)
    assert isinstance(sys.stderr, io.StringIO)
    return sys.stderr.getvalue()


@way("a daemon's log in syslog")
def _(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(tmp_path / "log"))
        log.settimeout(10)
        set_up_logging("rpctlscd", logging.INFO, tmp_path / "log")
        logging.getLogger("umktls.of-a-test").warning("%s", text)
        return log.recv(65536).decode()


@way("a mount's log")
def _(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    output = io.StringIO()
    monkeypatch.setattr(sys, "stderr", output)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(command, "_mount", lambda plan: logging.getLogger("x").warning("%s", text))
    arguments = ["h:/x", "/mnt", "--certs", str(tmp_path), "-f"]
    command.mount.main(arguments, standalone_mode=False)
    return output.getvalue()


@way("a program without a log")
def _(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    output = io.StringIO()
    monkeypatch.setattr(sys, "stderr", output)
    clean_what_python_prints()
    assert logging.lastResort is not None
    logged_with(logging.lastResort, said(text))
    return output.getvalue()


@way("an error of umktls")
def _(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    return failing(WorldError(text), monkeypatch)


@way("wrong usage of umktls")
def _(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    return failing(click.UsageError(text), monkeypatch).rpartition("\n\n")[2]


@way("wrong usage in front of the command")
def _(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    return misused(program.main, text, monkeypatch)


@way("wrong usage of mount.umktls")
def _(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    return misused(helper.helper, text, monkeypatch)


def misused(command: click.Command, text: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Not by arguments: some versions of click quote them, and some do not."""

    def wrong(*args: object, **kwargs: object) -> click.Context:
        raise click.NoSuchOption(text, f"No such option: {text}")

    monkeypatch.setattr(click.Command, "make_context", wrong)
    done = CliRunner().invoke(command, [])
    assert done.exit_code
    return done.stderr


@way("umktls certs")
def _(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setattr(layout, "create", lambda *args: [text])
    return CliRunner().invoke(program.main, ["certs", "d"]).stdout


@way("umktls certs --crl")
def _(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setattr(revocation, "revoke", lambda *args: text)
    return CliRunner().invoke(program.main, ["certs", "d", "--crl"]).stdout


def failing(error: Exception, monkeypatch: pytest.MonkeyPatch) -> str:
    @click.command()
    def fails() -> None:
        raise error

    monkeypatch.setattr(program, "load", lambda entry: fails)
    done = CliRunner().invoke(program.main, ["stat"])
    assert done.exit_code
    return done.stderr


@way("an error of umktls mount")
def _(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    def fails(plan: object) -> None:
        raise WorldError(text)

    monkeypatch.setattr(command, "_mount", fails)
    return CliRunner().invoke(command.mount, ["h:/x", "/mnt", "--certs", str(tmp_path)]).stderr


@way("a mount that is tried again")
def _(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setattr(command, "in_background", lambda run: text)
    monkeypatch.setattr(command, "check_mountpoint", lambda path: path)
    return CliRunner().invoke(command.mount, ["h:/x", "/mnt", "--certs", str(tmp_path)]).stderr


@way("the system's log, of a mount in the background")
def _(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    lines: list[str] = []
    monkeypatch.setattr(syslog, "syslog", lambda level, text: lines.append(text))
    background.Report(-1).failed(WorldError(text))
    return "\n".join(lines)


@way("the end of a daemon")
def _(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    output = io.StringIO()
    monkeypatch.setattr(sys, "stderr", output)
    with pytest.raises(SystemExit):
        Launch().failed(f"rpctlscd: {text}", 1)
    return output.getvalue()


@way("the status for a service manager")
def _(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify(f"STATUS={text}")
        return manager.recv(65536).decode()


@way("umktls probe")
def _(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    output = io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    report = Report("h", 1)
    report.set("tcp", True, text)
    report.set("certificate", True, text)
    report.set("rpc", False, text, text)
    report.notes.append(text)
    names = ("subject", "issuer", "not_before", "not_after", "key", "sha256")
    report.chain.append({**dict.fromkeys(names, text), "names": [text]})
    show_probe(report)
    return joined(output.getvalue(), "verdict: ")


@way("umktls stat")
def _(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    state: dict[str, Any] = {
        "host": dict.fromkeys(("name", "pid", "personality"), text),
        "mount": dict.fromkeys(("what", "mountpoint", "security"), text),
        "exports": [text],
        "daemons": [dict.fromkeys(("name", "pid", "version"), text)],
        "connections": [
            {
                **dict.fromkeys(("id", "peer", "state", "daemon"), text),
                "tls": dict.fromkeys(
                    ("version", "suite", "alpn", "peer", "client_certificate", "remark"), text
                ),
                "tx": dict.fromkeys(("engine", "mode", "sequence", "records"), text),
                "rpc": dict.fromkeys(("calls", "replies"), text),
                "upcalls": {text: 1},
            }
        ],
    }
    return joined(answered("stat", [state], monkeypatch, tmp_path), "in all: ")


@way("an error in umktls stat")
def _(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    answer = {"error": text}
    return answered("stat", [answer], monkeypatch, tmp_path).rpartition("no host runs")[0]


@way("umktls trace")
def _(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    event = dict.fromkeys(("side", "host", "connection", "event", "text"), text)
    return answered("trace", [event], monkeypatch, tmp_path, "--past")


def answered(
    name: str,
    answers: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *more: str,
) -> str:
    """What a command prints of a host that answers so; and what is in its JSON came unchanged."""
    monkeypatch.setenv("UMKTLS_RUNDIR", str(tmp_path / "run"))
    lines = [json.dumps(answer).encode() for answer in answers]
    with fake_host(tmp_path / "run", "client-7", {name: lines}):
        shown = CliRunner().invoke(program.main, [name, *more])
        as_json = CliRunner().invoke(program.main, [name, *more, "--json"])
    found = json.loads(as_json.stdout)
    if "error" not in answers[0]:
        assert (found["hosts"] if name == "stat" else [found]) == answers
    return shown.output


def joined(text: str, last: str) -> str:
    """What has several lines of its own, in one; and the last is where it belongs."""
    rows = text.rstrip("\n").split("\n")
    assert last in rows[-1]
    assert len(rows) < 80  # rich wraps what is long
    return " ".join(rows)
