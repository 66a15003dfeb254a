"""What comes from outside, made fit for a terminal and a log: the one place that does it.

A peer chooses the names in its certificate, its alerts, the names of its files and machines; nobody
has verified them when they are shown. Control characters in them drive a terminal, a line break
begins a log line of the peer's own, and characters that turn the direction of writing show another
text than there is (CVE-2021-42574). So every way out for people passes `printable`: the text and
the log line of an event (`umktls.kernel.ground.events`), logs (`PrintableFormatter`), errors on a
terminal, `umktls stat`, `trace` and `probe`. JSON stays as it is: it has escapes of its own, and
loses nothing.
"""

from __future__ import annotations

import logging
import sys
import traceback
from types import TracebackType
from typing import Any

__all__ = ["PrintableFormatter", "clean_what_python_prints", "printable", "printable_lines"]

BYTES = range(0xDC80, 0xDD00)  # of a name that is no UTF-8, as PEP 383 has them in a str
MARGIN = "  | "  # in front of a traceback's lines, which no line of its text can then pass for one


def printable(text: object) -> str:
    """The text in one line, with escapes for all that is not shown as a character of its own.

    These are C0, DEL, C1, line and paragraph separators, spaces other than the usual one, what
    turns the direction of writing or is not to be seen (bidirectional overrides and isolates,
    joiners, tags), lone surrogates, and what Unicode has not assigned: `str.isprintable`. A byte
    of a name that is no UTF-8 is shown as ``\\xff``; a character so up to U+007F, and as
    ``\\u0085`` or ``\\U000e0001`` beyond. `bytes` are read as UTF-8. Doing it twice changes
    nothing.
    """
    shown = text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else str(text)
    return shown if shown.isprintable() else "".join(map(_escaped, shown))


def printable_lines(text: str, margin: str = "") -> str:
    """The same for what has lines of its own that are to stay, such as a traceback or a log."""
    return "\n".join(margin + printable(line) for line in text.split("\n"))


def _escaped(character: str) -> str:
    number = ord(character)
    if character.isprintable():
        return character
    if number in BYTES:
        return f"\\x{number & 0xFF:02x}"
    if number < 0x80:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"


class PrintableFormatter(logging.Formatter):
    """One line for a message, whatever is in it; a traceback's lines stand behind a margin."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return printable_lines(super().formatException(ei), MARGIN)

    def formatStack(self, stack_info: str) -> str:
        return printable_lines(super().formatStack(stack_info), MARGIN)


def clean_what_python_prints() -> None:
    """The same for what Python writes to standard error by itself: warnings of a program that has
    set up no log, and the traceback of an error that nobody has caught."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(PrintableFormatter())
    sys.excepthook = _print_traceback


def _print_traceback(
    kind: type[BaseException], error: BaseException, where: TracebackType | None
) -> None:
    text = "".join(traceback.format_exception(kind, error, where))
    print(printable_lines(text.rstrip("\n")), file=sys.stderr)
