"""A page of man(7), written by what click writes help with.

click's commands write their help to a `HelpFormatter`: usage, texts, lists of options under
headings. `Roff` is one whose output is a manual page, so nothing can stand in one and not in the
other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import click

__all__ = ["Roff", "escaped", "markdown", "page"]

# Paragraphs of a help text that have a section of their own in a manual page.
OWN_SECTIONS = {"Example": "EXAMPLES", "Exit codes": "EXIT STATUS"}
ORDER = ("SYNOPSIS", "DESCRIPTION", "OPTIONS", "COMMANDS")
LAST = ("EXIT STATUS", "EXAMPLES")


def escaped(text: str) -> str:
    """Text as roff wants it; what is in backticks becomes bold."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = re.sub(r"\*\*(.+?)\*\*|`([^`]*)`", r"\\fB\1\2\\fR", text)
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def verbatim(lines: Iterable[str]) -> str:
    return "\n".join([".PP", ".RS 4", ".nf", *map(escaped, lines), ".fi", ".RE"])


def titled(heading: str) -> str:
    """In capitals where man-pages(7) has it; what is only click's or ours stays readable."""
    return heading.upper() if heading.upper() in ORDER else heading


class Roff(click.HelpFormatter):
    """Collects sections: heading -> roff."""

    def __init__(self) -> None:
        super().__init__(width=10_000)  # no line is broken by click
        self.sections: dict[str, list[str]] = {}
        self.heading = "DESCRIPTION"

    def add(self, roff: str, heading: str | None = None) -> None:
        self.sections.setdefault(heading or self.heading, []).append(roff)

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        self.add(f"\\fB{escaped(prog)}\\fR {escaped(args)}", "SYNOPSIS")

    def write_heading(self, heading: str) -> None:
        self.heading = titled(heading)

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        before, self.heading = self.heading, titled(name)
        yield
        self.heading = before

    def write_text(self, text: str) -> None:
        for paragraph in re.split(r"\n\s*\n", text.strip()):
            self.write_a_paragraph(paragraph)

    def write_a_paragraph(self, text: str) -> None:
        """One paragraph; behind \\b its lines stay as they are."""
        lines = text.split("\n")
        kept = lines[0].strip() == "\b"
        lines = lines[1:] if kept else lines
        start = next((word for word in OWN_SECTIONS if lines[0].strip().startswith(word)), None)
        heading = OWN_SECTIONS[start] if start else None
        if heading == "EXAMPLES":
            lines = lines[1:]
        if kept:
            self.add(verbatim(line.removeprefix("  ") for line in lines), heading)
        else:
            self.add(".PP\n" + escaped(" ".join(" ".join(lines).split())), heading)

    def write_dl(
        self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
    ) -> None:
        for term, text in rows:
            text = " ".join(text.split())
            self.add(f".TP\n\\fB{escaped(term)}\\fR\n{escaped(text)}".rstrip())

    def write_paragraph(self) -> None:
        """Paragraphs are made from texts."""

    def body(self) -> str:
        """All sections in the order that man-pages(7) asks for."""
        others = [name for name in self.sections if name not in ORDER + LAST]
        names = [name for name in (*ORDER, *others, *LAST) if name in self.sections]
        return "\n".join(
            line for name in names for line in (f".SH {escaped(name)}", *self.sections[name])
        )


def page(name: str, section: int, summary: str, body: str, see_also: Sequence[str]) -> str:
    """The whole page. It has no date: it changes only if its text does."""
    head = [
        '.\\" Made by `make man` from the texts of --help: change those.',
        f'.TH {name.upper()} {section} "" umktls "umktls manual"',
        ".nh",
        ".ad l",
        ".SH NAME",
        f"{escaped(name)} \\- {escaped(summary)}",
    ]
    also = [".SH SEE ALSO", *(f".BR {escaped(one)} ," for one in see_also[:-1])]
    also += [f".BR {escaped(see_also[-1])}"]
    return "\n".join([*head, body, *also]) + "\n"


def markdown(text: str) -> str:
    """The few things of Markdown that docs/ has: paragraphs, blocks, tables of two columns."""
    found = []
    for block in re.split(r"\n\n", text.strip()):
        lines = block.split("\n")
        if lines[0].startswith("```"):
            found.append(verbatim(lines[1:-1]))
        elif lines[0].startswith("|"):
            found += [table_row(line) for line in lines[2:]]
        else:
            found.append(".PP\n" + escaped(" ".join(lines)))
    return "\n".join(found)


def table_row(line: str) -> str:
    term, text = (cell.strip() for cell in line.strip().strip("|").split("|", 1))
    return f".TP\n{escaped(term)}\n{escaped(text)}"
