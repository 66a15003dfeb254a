"""Who made a mistake in typing is told at once: what takes long to import is imported late.

Times depend on the machine, so modules are counted. A command's help has 145 to 205 of them in an
editable installation; importlib.metadata, by which others' commands are found, brings 30, trio 130,
cryptography 50, rich 70 more.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from umktls.cli.main import found

HEAVY = {"OpenSSL", "cryptography", "pyfuse3", "rich", "ssl", "trio"}
MOST = 300
# Have cases of their own: another exit code; options that are left to a daemon.
OTHERWISE = ("mount", "run-daemon")

PROGRAM = """
import contextlib, io, json, sys
from umktls.cli.main import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    try:
        main(sys.argv[1:], prog_name="umktls")
    except SystemExit as end:
        code = end.code
print(json.dumps([code, sorted(sys.modules)]))
"""


def run(*arguments: str) -> tuple[int, set[str]]:
    """The exit code, and what had been imported by then."""
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
    code, modules = json.loads(done.stdout)
    return code, set(modules)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--version"], 0),
        (["--help"], 0),
        (["no-such-command"], 2),
        (["mount"], 1),  # mount(8)'s code for wrong usage
        (["mount", "server:/", "/mnt", "-o", "no_such_option"], 1),
        (["mount", "no-source", "/mnt"], 1),
        (["serve"], 1),
        (["serve", "/no/such/directory"], 2),
        (["serve", "/", "--exports", "/x"], 1),
        (["probe", "a:b:c"], 2),
        (["umount", "/no/such/mount"], 1),
        (["run-daemon", "--role", "x"], 2),
        *(([name, "--no-such-option", "x", "y"], 2) for name in found() if name not in OTHERWISE),
        *(([name, "--help"], 0) for name in found()),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_told_at_once_imports_little(arguments: list[str], code: int) -> None:
    ended, modules = run(*arguments)
    assert ended == code
    assert not HEAVY & modules
    assert len(modules) < MOST


@pytest.mark.parametrize("name", ["mount", "serve", "stat"])
def test_what_others_have_installed_is_not_looked_at_for_a_command_that_is_known(name: str) -> None:
    ended, modules = run(name, "--help")
    assert ended == 0
    assert "importlib.metadata" not in modules


FIRST = """
import sys
from umktls.cli.main import main
from umktls.kernel.host import early
from umktls_fs import command
def daemons_start(role, path, commands):
    list(commands)
    print(*sys.modules, file=sys.__stdout__)
    raise SystemExit(0)
early.starting_early = daemons_start
command._check = lambda plan: plan
main(["mount", "127.0.0.1:/", "/", "-o", "mtls", "-f"])
"""


def test_the_daemon_of_a_mount_starts_before_what_is_large_is_imported() -> None:
    command = [sys.executable, "-c", FIRST]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
    unwanted = HEAVY | {"random", "shutil", "tempfile"}
    assert unwanted & set(done.stdout.split()) == set()


def test_a_mount_imports_what_it_needs() -> None:
    program = """
import sys, umktls_fs.command
from umktls_fs.library import import_pyfuse3
import_pyfuse3()
import umktls_fs.mount, umktls_fs.serving, umktls.ktls.engines.software
print(*sys.modules)"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
    unwanted = {"email", "importlib.metadata", "OpenSSL", "rich", "zipfile"}
    assert unwanted & set(done.stdout.split()) == set()


def test_a_daemon_imports_what_it_needs() -> None:
    program = "import sys, umktls_daemons.programs.rpctlscd; print(*sys.modules)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
    unwanted = {"getpass", "importlib.metadata", "logging.handlers", "trio", "zipfile"}
    assert not unwanted & set(done.stdout.split())
