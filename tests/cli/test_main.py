"""The group: finding commands, and one line for each error."""

from __future__ import annotations

import errno
import importlib.metadata
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tests.conftest import KERNEL_LACKS, patience
from umktls.cli import main as module
from umktls.cli.main import main
from umktls.errors import CallerError, WorldError
from umktls.kernel.host.commands import program_path


def add(monkeypatch: pytest.MonkeyPatch, **commands: str) -> None:
    """Pretend that these entry points are installed."""
    found = [EntryPoint(name, value, module.GROUP) for name, value in commands.items()]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found)


@click.command()
def failing() -> None:
    raise WorldError("the connection to [::1]:2049 was lost", errno.ECONNRESET)


@click.command()
def working() -> None:
    click.echo("done")


@click.command()
@click.argument("source")
@click.argument("mountpoint")
@click.option("-o", "options")
@click.option("--by-mount-fuse", is_flag=True)
def mounting(source: str, mountpoint: str, options: str, by_mount_fuse: bool) -> None:
    click.echo(f"{source} {mountpoint} {options} {by_mount_fuse}")


HERE = "tests.cli.test_main"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason=f"{KERNEL_LACKS} /dev/full")
@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize("words", ["--version", "--help", "engines", "stat --json", "doctor"])
def test_where_the_disk_of_standard_output_is_full(words: str, buffered: str) -> None:
    """It was a traceback."""
    code = "from umktls.cli.main import main; main()"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code, *words.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=patience(60),
            env=os.environ | {"PYTHONUNBUFFERED": buffered},
            check=False,
        )
    said = "umktls: cannot write what is to be printed: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason=f"{KERNEL_LACKS} /dev/full")
@pytest.mark.parametrize("program", ["mount.umktls", "rpctlscd", "rpctlssd"])
def test_where_the_disk_is_full_for_other_programs(program: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [program_path(program), "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=patience(60),
            check=False,
        )
    said = f"{program}: cannot write what is to be printed: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.parametrize(
    "words",
    [
        "serve /tmp --no-tls --idle-timeout",
        "serve /tmp --no-tls --upcall-timeout",
        "front --backend host --check-interval",
        "front --backend host --connect-timeout",
        "probe host --timeout",
        "trace --since",
        "umount /mnt --timeout",
        "watch --since",
        "watch --record page.html --seconds",
        "run-daemon --deadline",
    ],
)
def test_what_is_not_a_number_is_no_time(words: str) -> None:
    """Deadlines take it for an error, or never pass."""
    result = CliRunner().invoke(main, [*words.split(), "nan"])
    assert result.exit_code == 2
    assert "nan is not a number of seconds" in result.output


def test_own_commands_are_listed_with_help() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for name in module.OWN:
        assert f"\n  {name} " in result.output
    assert "(cannot be used" not in result.output


@pytest.mark.parametrize("name", module.OWN)
def test_each_command_explains_itself_with_an_example(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"umktls {name}" in result.output


def test_error_is_one_line_and_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, fails=f"{HERE}:failing")
    result = CliRunner().invoke(main, ["fails"])
    assert result.exit_code == 1
    assert result.stderr == "umktls: the connection to [::1]:2049 was lost\n"
    assert result.stdout == ""


def test_a_source_in_place_of_a_command_is_mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.ELSEWHERE, "mount", f"{HERE}:mounting")
    result = CliRunner().invoke(main, ["[::1]:2049:/srv", "/mnt", "-o", "rw,tls"])
    assert result.output == "[::1]:2049:/srv /mnt rw,tls True\n"


def test_command_from_outside_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, works=f"{HERE}:working")
    result = CliRunner().invoke(main, ["works"])
    assert (result.exit_code, result.output) == (0, "done\n")


def test_own_command_cannot_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, certs=f"{HERE}:working", mount=f"{HERE}:working")
    for commands in (module.found(), module.own()):
        assert commands["certs"].value == "umktls.cli.certs:certs"
        assert commands["mount"].value == "umktls_fs.command:mount"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("no_such_module_here:mount", "No module named 'no_such_module_here'"),
        (f"{HERE}:no_such_name", "has no attribute 'no_such_name'"),
        (f"{HERE}:HERE", "is not a command"),
    ],
)
def test_a_part_that_is_missing_says_so(
    monkeypatch: pytest.MonkeyPatch, value: str, reason: str
) -> None:
    monkeypatch.setitem(module.ELSEWHERE, "mount", value)
    for arguments in (["mount"], ["mount", "a:/b", "/c", "-o", "tls", "--help"]):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 1
        assert result.stderr.startswith("umktls: `umktls mount` cannot be used here: ")
        assert reason in result.stderr
    assert "(cannot be used: " in CliRunner().invoke(main, ["--help"]).output


def test_unknown_command_is_wrong_usage() -> None:
    result = CliRunner().invoke(main, ["nonsense"])
    assert result.exit_code == 2
    assert "No such command 'nonsense'; `umktls --help` lists them" in result.stderr


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("muont", "mount"),
        ("umout", "umount"),
        ("stats", "stat"),
        ("rundaemon", "run-daemon"),
        ("tarce", "trace"),
        ("unmount", "umount"),
        ("exportfs", "serve"),
    ],
)
def test_a_typing_error_is_understood(typed: str, meant: str) -> None:
    result = CliRunner().invoke(main, [typed])
    assert result.exit_code == 2
    assert f"No such command '{typed}'; did you mean {meant}?" in result.stderr
    assert CliRunner().invoke(main, [meant, "--help"]).exit_code == 0


def test_habits_are_commands_that_do_not_exist_and_lead_to_some_that_do() -> None:
    assert not set(module.HABITS) & set(module.found())
    assert set(module.HABITS.values()) <= set(module.found())


def test_caller_error_keeps_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def refuse() -> None:
        raise CallerError("there is no mount here")

    monkeypatch.setattr(module, "load", lambda entry: refuse)
    result = CliRunner().invoke(main, ["certs"])
    assert result.stderr == "umktls: there is no mount here\n"
