"""Whatever a message, a help text or a page says to type exists: commands, options, mount options.

Collected from all strings of the sources and from the documents, and checked against the programs'
own tables: nothing that is advised can go stale unseen.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import click
import pytest
from umktls_daemons.programs import rpctlscd, rpctlssd
from umktls_fs.helper import helper
from umktls_fs.options import OPTIONS, parse_options

from umktls.cli.main import main
from umktls.errors import UmktlsError

TOP = Path(__file__).parents[2]
SOURCES = [
    path
    for directory in ("umktls", "fs", "daemons")
    for path in sorted((TOP / directory).rglob("*.py"))
]
PAGES = [TOP / "README.md", *sorted((TOP / "docs").glob("*.md"))]

# `umktls WORD` where WORD is no command, but prose, or a part of a certificate's name.
PROSE = {
    *("cannot", "for", "in", "is", "needs", "speaks", "there", "to"),
    *("client", "good", "other", "revoked", "server", "test"),
}
# Options of other programs, with whose they are.
FOREIGN = {
    "--device": "docker",
    "--cap-add": "docker",
    "--force-reinstall": "pip",
    "--no-deps": "pip",
    "--path": "systemd-escape",
    "--suffix": "systemd-escape",
    "--report": "daemons/programs/inspector.py",
    # The example of `umktls run-daemon`, a daemon of somebody's own.
    "--cert": "mydaemon",
    "--dir": "mydaemon",
    "--trust": "mydaemon",
}
# The options of daemons are told of in these words: "rpctlscd -2", "-r of the daemon".
OF_DAEMON = re.compile(
    r"(?:rpctlscd|rpctlssd):? (-[a-zA-Z0-9])\b|\B(-[a-zA-Z0-9]) of (?:the daemon|rpctls[cs]d)"
)
COMMAND = re.compile(r"(?<![\w.])umktls ([a-z][a-z-]*)([^`;,()\n\"]*)")
# In lessons, which are prose, a command stands in backquotes.
QUOTED = re.compile(r"`" + COMMAND.pattern)
LONG = re.compile(r"(?<![\w-])--[a-z][a-z0-9_-]+")
MOUNT_OPTION = re.compile(r"(?<![\w-])-o ([a-z]\w*(?:=[\w/…]*)?(?:,[a-z]\w*(?:=[\w/…]*)?)*)")
# A value that stands for others, or is filled in.
ANY = re.compile(r"[A-Z]*|.*….*")
MAKE = re.compile(r"`make ([a-z][a-z-]*)")
FILE = re.compile(r"`((?:docs|umktls|fs|daemons|tests|contrib)/[\w./-]+)`")
TARGET = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)

Texts = Iterable[tuple[str, str]]


class Text(ast.NodeVisitor):
    """The strings of a module, with their lines; what an f-string fills in is `…`."""

    def __init__(self) -> None:
        self.found: list[tuple[int, str]] = []

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.found.append((node.lineno, node.value))

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pieces = [piece.value if isinstance(piece, ast.Constant) else "…" for piece in node.values]
        self.found.append((node.lineno, "".join(map(str, pieces))))


@cache
def all_texts() -> tuple[tuple[str, str], ...]:
    """(where, text) of all that a person may read."""
    found = []
    for path in SOURCES:
        visitor = Text()
        visitor.visit(ast.parse(path.read_text()))
        name = path.relative_to(TOP)
        found += [(f"{name}:{line}", text) for line, text in visitor.found]
    for path in PAGES:
        lines = enumerate(path.read_text().splitlines(), 1)
        found += [(f"{path.relative_to(TOP)}:{number}", line) for number, line in lines]
    return tuple(found)


def options_of(command: click.Command) -> set[str]:
    names = {"--help", "-h"}
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            names |= {*parameter.opts, *parameter.secondary_opts}
    return names


@cache
def commands() -> dict[str, set[str]]:
    """The options of each `umktls` command."""
    context = click.Context(main)
    found = {}
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        found[name] = options_of(command)
        if isinstance(command, click.Group):
            for inner in command.commands.values():
                found[name] |= options_of(inner)
    return found


@cache
def everywhere() -> set[str]:
    programs = (rpctlscd.command, rpctlssd.command, helper, main)
    return set().union(*map(options_of, programs), *commands().values()) | set(FOREIGN)


def wrong_commands(texts: Texts) -> Iterator[str]:
    for where, text in texts:
        pattern = QUOTED if where.startswith("umktls/lessons/") else COMMAND
        for name, rest in pattern.findall(text):
            if name in PROSE:
                continue
            if name not in commands():
                yield f"{where}: umktls {name}"
                continue
            if name == "stat" and "nfs://" in rest:  # of a file, and not of hosts
                name = "nfs-stat"
            for option in LONG.findall(rest.partition(" -- ")[0]):
                if option not in commands()[name]:
                    yield f"{where}: umktls {name} {option}"


def wrong_options(texts: Texts) -> Iterator[str]:
    for where, text in texts:
        yield from (f"{where}: {name}" for name in LONG.findall(text) if name not in everywhere())


def wrong_mount_options(texts: Texts) -> Iterator[str]:
    for where, text in texts:
        for words in MOUNT_OPTION.findall(text):
            for word in words.split(","):
                name, _, value = word.partition("=")
                option = OPTIONS.get(name)
                if (
                    option is None
                    or option.fate.name == "REFUSED"
                    or (not ANY.fullmatch(value) and not taken(word))
                ):
                    yield f"{where}: -o {word}"


def taken(word: str) -> bool:
    try:
        parse_options([word])
    except UmktlsError:
        return False
    return True


def wrong_daemon_options(texts: Texts) -> Iterator[str]:
    known = options_of(rpctlscd.command) | options_of(rpctlssd.command)
    for where, text in texts:
        for one, other in OF_DAEMON.findall(text):
            if (one or other) not in known:
                yield f"{where}: {one or other}"


def wrong_targets(texts: Texts) -> Iterator[str]:
    known = set(TARGET.findall((TOP / "Makefile").read_text()))
    for where, text in texts:
        yield from (f"{where}: make {name}" for name in MAKE.findall(text) if name not in known)


def wrong_files(texts: Texts) -> Iterator[str]:
    for where, text in texts:
        yield from (f"{where}: {name}" for name in FILE.findall(text) if not (TOP / name).exists())


Check = Callable[[Texts], Iterator[str]]
# With an advice that is wrong, and one that is right.
CHECKS: list[tuple[Check, str, str]] = [
    (wrong_commands, "make some with: umktls cert DIR", "make some with: umktls certs DIR"),
    (wrong_commands, "see `umktls rekey --conection c1`", "see `umktls rekey --connection c1`"),
    (wrong_options, "choose another with --rundirs", "choose another with --rundir"),
    (wrong_mount_options, "mount with -o tls1_3", "mount with -o tls1_2"),
    (wrong_mount_options, "mount with -o engine=nul", "mount with -o engine=null,ro"),
    (wrong_mount_options, "mount with -o tls,bounce=yes", "mount with -o tls,bounce=allow"),
    (wrong_daemon_options, "rpctlscd -Q", "rpctlscd -2"),
    (wrong_daemon_options, "(-Q of the daemon)", "(-r of the daemon)"),
    (wrong_targets, "`make tests`", "`make test`"),
    (wrong_files, "`docs/nowhere.md`", "`docs/daemons.md`"),
]


@pytest.mark.parametrize("check", sorted({one for one, _, _ in CHECKS}, key=repr))
def test_what_is_advised_exists(check: Check) -> None:
    assert list(check(all_texts())) == []


@pytest.mark.parametrize(("check", "bad", "good"), CHECKS)
def test_the_checks_tell_wrong_from_right(check: Check, bad: str, good: str) -> None:
    assert len(list(check([("here", bad)]))) == 1
    assert list(check([("here", good)])) == []


def test_what_troubleshooting_quotes_is_said() -> None:
    """docs/troubleshooting.md's first column has a part of the line that a program prints."""
    rows = [text for where, text in all_texts() if "troubleshooting.md" in where]
    quoted = [found[1] for row in rows if (found := re.match(r"\| `([^`]+)` \|", row))]
    said = [text for where, text in all_texts() if ".md:" not in where]
    assert len(quoted) >= 5
    assert [quote for quote in quoted if not any(quote in text for text in said)] == []


def test_there_is_much_to_check() -> None:
    """A pattern that finds nothing finds no fault either."""
    found = [text for _, text in all_texts()]
    for pattern, least in ((COMMAND, 150), (LONG, 250), (MOUNT_OPTION, 25), (OF_DAEMON, 8)):
        assert sum(len(pattern.findall(text)) for text in found) >= least
