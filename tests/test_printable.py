"""Each kind of text from outside, through each way out: nothing reaches a terminal or a log raw."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from umktls_fs import background

from tests.waysout import WAYS, fields_of, logged_with
from umktls.cli.trace import line
from umktls.errors import WorldError
from umktls.kernel.ground.events import TEXTS, Trace
from umktls.printable import (
    PrintableFormatter,
    clean_what_python_prints,
    printable,
    printable_lines,
)

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


@pytest.mark.parametrize("event", [*TEXTS, "an event of some daemon's own"])
def test_every_event(event: str, caplog: pytest.LogCaptureFixture) -> None:
    name, _, level = event.partition(" ") if event == "alert fatal" else (event, "", "")
    fields = fields_of(TEXTS.get(event, "{field}"), SEQUENCE)
    trace = Trace("client-7", "client")
    with caplog.at_level(logging.INFO, logger="umktls.kernel.ground.events"):
        trace.emit(name, "c1", **fields, **({"level": level} if level else {}))
    (record,) = trace.since()
    assert fit_for_people(record["text"])
    assert fit_for_people(caplog.messages[-1])
    assert fit_for_people(line(record, colour=False))
    # What a program gets is what came.
    kept = json.loads(json.dumps(record))
    assert {key: kept[key] for key in fields if key != "host"} == {
        key: value for key, value in fields.items() if key != "host"
    }


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
