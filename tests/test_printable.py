"""Each kind of text from outside, through each way out: nothing reaches a terminal or a log raw."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import string
import sys
import syslog
from collections.abc import Callable, Iterator
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
from umktls.cli.probe_run import Report
from umktls.cli.trace import line
from umktls.errors import WorldError
from umktls.kernel.ground.events import TEXTS, Trace
from umktls.printable import (
    PrintableFormatter,
    clean_what_python_prints,
    printable,
    printable_lines,
)
from umktls.userland.notify import notify

# What drives a terminal, begins a line, or turns the direction of writing: each with its name.
HOSTILE = {
    **{f"C0 {number:02x}": chr(number) for number in range(0x20)},
    "DEL": "\x7f",
    **{f"C1 {number:02x}": chr(number) for number in range(0x80, 0xA0)},
    **{f"bidi {number:04x}": chr(number) for number in (0x061C, 0x200E, 0x200F)},
    **{f"override {number:04x}": chr(number) for number in range(0x202A, 0x202F)},
    **{f"isolate {number:04x}": chr(number) for number in range(0x2066, 0x206A)},
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "byte order mark": "\ufeff",
    "tag": "\U000e0001",
    "invalid UTF-8": os.fsdecode(b"\x80\xff"),
    "high surrogate": "\ud800",
    "low surrogate": "\udc00",
}
SEQUENCE = "\x1b]0;owned\x07\x1b[2J\r\n1 Jan mount: all is well\n" + " ".join(HOSTILE.values())


def fit_for_people(text: str, lines: int = 1) -> bool:
    """There is nothing in it but `lines` lines of characters that are shown."""
    rows = text.removesuffix("\n").split("\n")
    return len(rows) == lines and all(row.isprintable() for row in rows)


# Each way out takes the text, and returns what a person or a log gets to see.
WaysOut = dict[str, Callable[[str, pytest.MonkeyPatch, Path], str]]
WAYS: WaysOut = {}


def way(name: str) -> Callable[[Callable[..., str]], Callable[..., str]]:
    def register(function: Callable[..., str]) -> Callable[..., str]:
        WAYS[name] = function
        return function

    return register


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root, hook = logging.getLogger(), sys.excepthook
    handlers, level = root.handlers[:], root.level
    last = None if logging.lastResort is None else logging.lastResort.formatter
    yield
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook = hook
    if logging.lastResort is not None:
        logging.lastResort.formatter = last


@pytest.mark.parametrize("character", HOSTILE.values(), ids=HOSTILE)
def test_no_such_character_is_shown(character: str) -> None:
    shown = printable(f"a{character}b")
    assert shown.isprintable()
    assert shown.startswith("a\\")
    assert shown.endswith("b")
    assert printable(shown) == shown
    shown.encode()


def test_what_is_text_stays_and_what_is_not_can_be_told_apart() -> None:
    assert printable("Zoë 東京 a\\b שלום €") == "Zoë 東京 a\\b שלום €"
    assert printable(b"\xffk\xc3\xa9") == "\\xffké"
    assert printable("\udcff\x85\x1b\n\u202e\U000e0001") == (
        "\\xff\\u0085\\x1b\\x0a\\u202e\\U000e0001"
    )
    assert printable_lines("a\n\x1b\u2028b", "> ") == "> a\n> \\x1b\\u2028b"
    assert printable(WorldError("x\ny")) == "x\\x0ay"


def fields_of(template: str, text: str) -> dict[str, Any]:
    """The event's fields, as bad as their places in the line allow."""
    parsed = string.Formatter().parse(template)
    return {name: 1.5 if form else text for _, name, form, _ in parsed if name}


@pytest.mark.parametrize("event", [*TEXTS, "an event of some daemon's own"])
def test_every_event(event: str, caplog: pytest.LogCaptureFixture) -> None:
    name, _, level = event.partition(" ") if event == "alert fatal" else (event, "", "")
    fields = fields_of(TEXTS.get(event, "{field}"), SEQUENCE)
    trace = Trace("client-7", "client")
    with caplog.at_level(logging.INFO, logger="umktls.kernel.ground.events"):
        record = trace.emit(name, "c1", **fields, **({"level": level} if level else {}))
    assert fit_for_people(record["text"])
    assert fit_for_people(caplog.messages[-1])
    assert fit_for_people(line(record, colour=False))
    # What a program gets is what came.
    kept = json.loads(json.dumps(record))
    assert {key: kept[key] for key in fields if key != "host"} == {
        key: value for key, value in fields.items() if key != "host"
    }


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


@pytest.mark.parametrize("name", WAYS)
def test_no_way_out_shows_it_raw(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown = WAYS[name](SEQUENCE, monkeypatch, tmp_path)
    assert "\\x1b" in shown
    assert "\\xff" in shown
    assert "\\u202e" in shown
    assert fit_for_people(shown)


def failure(text: str) -> None:
    raise ValueError(text)


def test_a_traceback_keeps_its_lines_and_no_line_of_an_error_passes_for_a_log_s() -> None:
    output = io.StringIO()
    handler = logging.StreamHandler(output)
    handler.setFormatter(PrintableFormatter("LOG %(message)s"))

    def say(logger: logging.Logger) -> None:
        try:
            failure("\x1b[2J\nLOG all is well\u2028")
        except ValueError:
            logger.exception("it failed:\nLOG really", stack_info=True)

    logged_with(handler, say)
    rows = output.getvalue().removesuffix("\n").split("\n")
    assert rows[0] == "LOG it failed:\\x0aLOG really"
    assert rows[1] == "  | Traceback (most recent call last):"
    assert "  | ValueError: \\x1b[2J" in rows
    assert "  | LOG all is well\\u2028" in rows
    assert all(row.startswith("  | ") and row.isprintable() for row in rows[1:])


def test_what_nobody_catches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    output = io.StringIO()
    monkeypatch.setattr(sys, "stderr", output)
    clean_what_python_prints()
    try:
        failure("\x1b[2J\u202e")
    except ValueError as error:
        sys.excepthook(type(error), error, error.__traceback__)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        background._kept_traceback(error)
    (kept,) = tmp_path.glob("umktls-mount-*.log")
    for text in (output.getvalue(), kept.read_text()):
        assert text.endswith("ValueError: \\x1b[2J\\u202e\n")
        assert text.startswith("Traceback")
        assert all(row.isprintable() for row in text.removesuffix("\n").split("\n"))
