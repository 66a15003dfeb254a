"""`umktls doctor`: each thing that may be lacking, taken away, is named with the line that mends
it; where all is there it says so."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from umktls.cli import doctor_checks as checks
from umktls.cli.doctor_checks import CHECKS, Check
from umktls.cli.main import main
from umktls.cli.system_packages import COLUMNS, command, family, names


def found(name: str) -> Check:
    return CHECKS[name](name)


def test_where_the_demo_works_nothing_is_lacking() -> None:
    result = CliRunner().invoke(main, ["doctor", "--json"])
    said = json.loads(result.stdout)
    lacking = [one for one in said["checks"] if one["state"] == "lacks"]
    assert said["ok"] is (not lacking)
    assert result.exit_code == bool(lacking)
    assert [one["name"] for one in said["checks"]] == list(CHECKS)
    if Path("/dev/fuse").exists():
        assert lacking == []


def test_what_is_lacking_is_said_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """In words, and by the exit code."""
    monkeypatch.setattr(checks, "DEVICE", Path("/no/such/device"))
    monkeypatch.setattr(checks, "CHECKS", {"/dev/fuse": checks.device})
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert "LACKS  /dev/fuse" in result.stdout
    assert "modprobe fuse" in result.stdout
    assert result.stdout.endswith("see what LACKS above\n")


def test_python_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "OLDEST_PYTHON", (99, 1))
    check = found("python")
    assert check.state == "lacks"
    assert "99.1 is the oldest" in check.text


def test_pyfuse3_does_not_import(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'ImportError: libfuse3.so.3' >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    check = found("pyfuse3")
    assert check.state == "lacks"
    assert "ImportError: libfuse3.so.3" in check.text
    assert check.mend is not None
    assert "fuse3" in check.mend
    assert check.mend.endswith("-m pip install --force-reinstall pyfuse3")


def test_pyfuse3_cannot_be_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A Python that this user may not run."""
    (tmp_path / "python").write_text("")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    check = found("pyfuse3")
    assert check.state == "lacks"
    assert "cannot be tried" in check.text
    assert "Permission denied" in check.text


def test_no_fusermount3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert found("fusermount3").state == "lacks"
    (tmp_path / "fusermount3").write_text("")
    (tmp_path / "fusermount3").chmod(0o755)
    monkeypatch.setattr("umktls.cli.doctor_checks.os.geteuid", lambda: 1000)
    check = found("fusermount3")
    assert (check.state, check.mend) == ("lacks", f"chmod u+s {tmp_path}/fusermount3")


def test_the_device_is_closed_to_this_user(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checks, "DEVICE", Path("/dev/null"))
    monkeypatch.setattr("umktls.cli.doctor_checks.os.open", refuse)
    check = found("/dev/fuse")
    assert (check.state, check.mend) == ("lacks", "chmod 666 /dev/null")
    assert "Permission denied" in check.text


def test_daemons_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    check = found("daemons")
    assert check.state == "lacks"
    assert "cannot start rpctlscd" in check.text


@pytest.mark.parametrize("base", ["/proc/umktls", "/tmp/" + 100 * "x"])
def test_no_run_directory_can_be_made(monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    monkeypatch.setenv("UMKTLS_RUNDIR", base)
    monkeypatch.setattr(
        "umktls.cli.doctor_checks.os.access", lambda path, mode: str(path) != "/proc"
    )
    check = found("run directory")
    assert check.state == "lacks"
    assert check.mend is not None
    assert "UMKTLS_RUNDIR" in check.mend


def test_others_are_not_let_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    conf = tmp_path / "fuse.conf"
    monkeypatch.setattr(checks, "FUSE_CONF", conf)
    monkeypatch.setattr("umktls.cli.doctor_checks.os.geteuid", lambda: 1000)
    check = found("other users")
    assert (check.state, check.mend) == ("could", f"echo user_allow_other >>{conf}")
    conf.write_text("# mine\nuser_allow_other\n")
    assert found("other users").state == "ok"
    conf.write_text("#user_allow_other\n")
    assert found("other users").state == "could"


def test_few_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 256))
    check = found("descriptors")
    assert check.state == "could"
    assert "256" in check.text


def test_no_localhost(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*arguments: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("umktls.cli.doctor_checks.socket.getaddrinfo", nothing)
    assert found("localhost").state == "lacks"


def test_mount_finds_no_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checks, "SYSTEM_PATH", (str(tmp_path),))
    check = found("fstab")
    assert check.state == "could"
    assert check.mend is not None
    assert check.mend.startswith("ln -s /")
    (tmp_path / "umktls").touch()
    assert found("fstab").state == "ok"


def test_mount_finds_no_helper_until_the_line_is_typed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(checks, "HELPER", tmp_path / "mount.umktls")
    check = found("mount -t umktls")
    assert check.state == "could"
    assert check.mend is not None
    subprocess.run(check.mend, shell=True, check=True)
    assert found("mount -t umktls").state == "ok"
    done = subprocess.run([checks.HELPER, "--help"], capture_output=True, text=True, check=True)
    assert "called by mount(8)" in done.stdout


def test_no_kernel_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "umktls.cli.doctor_checks.hosttls.problem", lambda: "this machine's kernel lacks TLS"
    )
    check = found("kernel TLS")
    assert (check.state, check.mend) == ("could", "modprobe tls")


@pytest.mark.parametrize(
    ("release", "column"),
    [
        ("ID=debian\n", "debian"),
        ("NAME=Ubuntu\nID=ubuntu\nID_LIKE=debian\n", "debian"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "fedora"),
        ("ID=arch\n", "arch"),
        ("ID=manjaro\nID_LIKE=arch\n", "arch"),
        ('ID="opensuse-leap"\nID_LIKE="suse opensuse"\n', "opensuse"),
        ("ID=alpine\n", "alpine"),
    ],
)
def test_distributions_are_known(tmp_path: Path, release: str, column: str) -> None:
    path = tmp_path / "os-release"
    path.write_text(release)
    assert family(path) == column


def test_an_unknown_distribution_gets_a_line_for_each(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "os-release"
    path.write_text("ID=plan9\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert family(path) is None
    monkeypatch.setattr("umktls.cli.system_packages.family", lambda: None)
    lines = command(["fuse3", "libfuse3-dev"]).splitlines()
    assert [line.split()[0] for line in lines] == list(COLUMNS)
    assert lines[2].split() == ["arch", "pacman", "-S", "fuse3"]


def test_a_package_that_is_part_of_another_is_named_once() -> None:
    assert names(["python3", "python3-venv", "python3-dev"], "arch") == ["python"]
    assert names(["systemd", "gcc"], "alpine") == ["gcc"]
