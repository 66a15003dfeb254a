"""The set-up: what .ci/packages says and does, and when the Makefile installs the project again.

The system's programs are replaced by a PATH that has only what a test puts there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import patience
from umktls.cli.system_packages import COLUMNS, TABLE

TOP = Path(__file__).parents[1]
# What .ci/packages itself needs of the system.
NEEDED = ("bash", "cat", "env")


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in NEEDED:
        found = shutil.which(name)
        assert found is not None
        (directory / name).symlink_to(found)
    return directory


def fake(programs: Path, name: str, script: str) -> None:
    (programs / name).write_text(f"#!/bin/sh\n{script}\n")
    (programs / name).chmod(0o755)


def packages(programs: Path, *sets: str, python: str = sys.executable) -> tuple[int, str, str]:
    # /usr/sbin and /sbin are looked into as well; no program of the mount's set is there.
    done = subprocess.run(
        ["bash", str(TOP / ".ci" / "packages"), *sets],
        env={"PATH": str(programs), "PYTHON": python},
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def provide(programs: Path) -> None:
    """Everything that the mount needs, as far as .ci/packages can tell."""
    for name in ("fusermount3", "pkg-config", "gcc"):
        fake(programs, name, "exit 0")


def test_nothing_missing_says_nothing(programs: Path) -> None:
    provide(programs)
    assert packages(programs, "mount") == (0, "", "")


@pytest.mark.parametrize("sudo", [None, "exit 1"])
def test_not_root_says_in_one_line_what_to_install(programs: Path, sudo: str | None) -> None:
    provide(programs)
    (programs / "fusermount3").unlink()
    fake(programs, "pkg-config", "exit 1")
    fake(programs, "id", "echo 1000")
    fake(programs, "apt-get", "exit 9")
    if sudo is not None:
        fake(programs, "sudo", sudo)
    assert packages(programs, "mount") == (
        1,
        "",
        "umktls needs system packages that only root can install; as root, run: "
        "apt-get update && apt-get install --no-install-recommends fuse3 libfuse3-dev\n",
    )


@pytest.mark.parametrize(
    ("tool", "line"),
    [
        ("dnf", "dnf install fuse3-devel gcc glibc-devel"),
        ("pacman", "pacman -S fuse3 gcc glibc"),
        ("zypper", "zypper install fuse3-devel gcc glibc-devel"),
        ("apk", "apk add fuse3-dev gcc musl-dev"),
    ],
)
def test_without_apt_it_names_the_packages_as_the_distribution_does(
    programs: Path, tool: str, line: str
) -> None:
    provide(programs)
    (programs / "gcc").unlink()
    fake(programs, "pkg-config", "exit 1")
    fake(programs, "id", "echo 0")
    fake(programs, tool, "exit 9")
    code, _, said = packages(programs, "mount")
    assert code == 1
    assert said == (
        "umktls needs system packages that only root can install; as root, run: " + line + "\n"
    )


def test_without_any_known_tool_it_names_them_for_all(programs: Path) -> None:
    provide(programs)
    (programs / "gcc").unlink()
    fake(programs, "id", "echo 0")
    code, _, said = packages(programs, "mount")
    assert code == 1
    assert said.splitlines()[1:] == [
        "  apt-get install --no-install-recommends gcc libc6-dev",
        "  dnf install gcc glibc-devel",
        "  pacman -S gcc glibc",
        "  zypper install gcc glibc-devel",
        "  apk add gcc musl-dev",
    ]


def test_every_package_has_its_names() -> None:
    """Whatever .ci/packages may ask for is in the table of names, for all distributions."""
    script = (TOP / ".ci" / "packages").read_text()
    asked = set(re.findall(r"^([a-z0-9-]+): has", script, re.MULTILINE))
    rows = [line.split() for line in TABLE.read_text().splitlines() if line[:1] != "#"]
    assert {row[0] for row in rows} == asked
    assert {len(row) for row in rows} == {len(COLUMNS)}


@pytest.mark.parametrize("root", [True, False])
def test_root_or_sudo_installs_just_what_is_missing(
    programs: Path, tmp_path: Path, root: bool
) -> None:
    provide(programs)
    (programs / "fusermount3").unlink()
    log = tmp_path / "log"
    fake(programs, "id", f"echo {0 if root else 1000}")
    fake(programs, "true", "exit 0")
    fake(programs, "sudo", f'echo "sudo $*" >>{log}; shift; exec "$@"')
    fake(programs, "apt-get", f'echo "apt-get $* ($DEBIAN_FRONTEND)" >>{log}')
    code, said, complaint = packages(programs, "mount")
    assert (code, said, complaint) == (0, "Installing system packages: fuse3\n", "")
    lines = log.read_text().splitlines()
    assert [line for line in lines if not line.startswith("sudo")] == [
        "apt-get update -q (noninteractive)",
        "apt-get install -q -y --no-install-recommends fuse3 (noninteractive)",
    ]
    assert all(line.startswith("sudo -n ") for line in lines if line.startswith("sudo"))
    assert any(line.startswith("sudo") for line in lines) is not root


def test_old_python_is_named(programs: Path) -> None:
    provide(programs)
    fake(programs, "oldpython", 'test "$1" = -V && echo Python 3.9.2; exit 1')
    fake(programs, "id", "echo 0")
    fake(programs, "true", "exit 0")
    fake(programs, "apt-get", "exit 0")
    code, _, said = packages(programs, "mount", python=str(programs / "oldpython"))
    assert code == 1
    assert said.startswith("umktls needs Python 3.11 or newer, and ")
    assert "is Python 3.9.2: install one" in said


def test_every_tool_of_the_tests_is_looked_for(programs: Path) -> None:
    provide(programs)
    fake(programs, "id", "echo 1000")
    code, _, said = packages(programs, "mount", "test")
    assert code == 1
    for package in (
        "attr",
        "fio",
        "git",
        "gnutls-bin",
        "openssl",
        "sqlite3",
        "sshfs",
        "systemd",
        "tshark",
    ):
        assert f" {package}" in said


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose set-up is done."""
    top = tmp_path / "checkout"
    (top / ".ci").mkdir(parents=True)
    for number, name in enumerate(("Makefile", "pyproject.toml", ".ci/packages")):
        shutil.copy(TOP / name, top / name)
        os.utime(top / name, (number, number))
    stamps = (
        ".make/packages-mount",
        ".make/packages-test",
        ".venv/.project",
        ".venv/.project-test",
    )
    for stamp in stamps:
        (top / stamp).parent.mkdir(exist_ok=True)
        (top / stamp).touch()
    return top


def planned(checkout: Path, target: str) -> str:
    """What `make target` would do."""
    command = ["make", "--no-print-directory", "-n", "-C", str(checkout), target]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=patience(30), check=True
    ).stdout


@pytest.mark.parametrize("target", ["demo", "test", "lint", "bench", "set-up"])
def test_what_is_set_up_is_not_set_up_again(checkout: Path, target: str) -> None:
    assert "pip install" not in planned(checkout, target)
    assert ".ci/packages" not in planned(checkout, target)


def test_changed_metadata_installs_the_project_again(checkout: Path) -> None:
    os.utime(checkout / "pyproject.toml")
    for stamp in (".venv/.project", ".venv/.project-test"):
        os.utime(checkout / stamp, (1, 1))
    assert "pip install --disable-pip-version-check -q -e '.[watch]'\n" in planned(checkout, "demo")
    assert "-e '.[test]'" in planned(checkout, "test")
    assert ".ci/packages" not in planned(checkout, "test")


def test_the_demo_needs_no_test_tools(checkout: Path) -> None:
    for stamp in (checkout / ".make").iterdir():
        stamp.unlink()
    plan = planned(checkout, "demo")
    assert "bash .ci/packages mount\n" in plan
    assert "mount test" not in plan
    assert "bash .ci/packages mount test\n" in planned(checkout, "test")


def test_help_lists_every_target(checkout: Path) -> None:
    command = ["make", "-C", str(checkout)]
    said = subprocess.run(
        command, capture_output=True, text=True, timeout=patience(30), check=True
    ).stdout
    for target in ("set-up", "demo", "smoke", "test", "test-long", "lint", "man", "bench", "clean"):
        assert f"make {target} " in said
