"""The manual pages: as the texts of --help are now, complete, and without a complaint of groff."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest

from tests.conftest import patience
from tests.manual.pages import MAN, TOP
from tests.manual.roff import Roff, escaped
from umktls.cli.main import found, main


def test_the_pages_are_as_the_texts_are_now() -> None:
    """`make man` writes them anew. In a process of its own, as there: other tests add commands and
    engines to this one."""
    script = "import json; from tests.manual.pages import pages; print(json.dumps(pages()))"
    command = [sys.executable, "-c", script]
    made = subprocess.run(command, cwd=TOP, capture_output=True, check=True, timeout=patience(30))
    assert {path.name: path.read_text() for path in MAN.iterdir()} == json.loads(made.stdout)


def test_every_command_has_one() -> None:
    programs = {one.name for one in entry_points(group="console_scripts") if ours(one.value)}
    have = {path.stem for path in MAN.iterdir()}
    assert programs | {f"umktls-{name}" for name in found()} <= have
    assert {path.suffix for path in MAN.iterdir()} == {".1", ".5", ".8"}


def ours(value: str) -> bool:
    return value.startswith(("umktls.", "umktls_"))


@pytest.mark.parametrize("path", sorted(MAN.iterdir()), ids=lambda path: path.name)
def test_groff_has_nothing_to_say(path: Path) -> None:
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("groff is not installed")
    command = [groff, "-man", "-ww", "-z", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert done.stderr == ""


def test_every_option_of_the_help_is_in_the_page() -> None:
    context = click.Context(main, info_name="umktls")
    for name in found():
        command = main.get_command(context, name)
        assert command is not None
        text = (MAN / f"umktls-{name}.1").read_text()
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                for option in parameter.opts:
                    assert f"{escaped(option)}" in text


def test_what_begins_like_a_request_is_text() -> None:
    formatter = Roff()
    formatter.write_text(".so /etc/passwd\n\n'tis \\fB `--x`")
    assert formatter.body() == (
        ".SH DESCRIPTION\n.PP\n\\&.so /etc/passwd\n.PP\n\\&'tis \\efB \\fB\\-\\-x\\fR"
    )
