"""The command line of `umktls mount`, up to where it would mount."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from umktls_fs import command
from umktls_fs.command import mount
from umktls_fs.helper import helper
from umktls_fs.mount import fuse_options, heeded
from umktls_fs.options import OPTIONS, parse_options
from umktls_fs.plan import MountPlan
from umktls_fs.source import Source

from tests.conftest import patience
from tests.fs.mounted import needs_fuse
from tests.ports import silent_port
from umktls.errors import CallerError
from umktls.kernel.host.commands import program_path

SECONDS = 30


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(mount, [str(argument) for argument in arguments])


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[MountPlan]:
    """Instead of mounting: what would be mounted."""
    made: list[MountPlan] = []
    monkeypatch.setattr(command, "_mount", made.append)
    return made


def test_everything_can_be_said(plans: list[MountPlan], tmp_path: Path) -> None:
    arguments = ["[::1]:99:/x", tmp_path, "--certs", "/c", "-o", "mtls,ro", "-o", "timeo=70"]
    more = ["--no-daemon", "--rundir", "/r", "--keylog", "/k", "-n", "-v", "-s"]
    result = invoke(*arguments, *more)
    assert result.exit_code == 0, result.output
    (plan,) = plans
    assert not plan.foreground
    config = plan.config()
    assert (config.server, config.port, config.export) == ("::1", 99, "/x")
    assert (config.security, config.certs, config.keylog) == ("mtls", Path("/c"), Path("/k"))
    assert (config.no_daemon, config.rundir, config.deadline) == (True, Path("/r"), 21.0)
    assert config.mountpoint == str(tmp_path)
    assert plan.options.read_only


@pytest.mark.parametrize("flag", ["-f", "--foreground", "-d", "--debug"])
def test_foreground(plans: list[MountPlan], flag: str) -> None:
    assert invoke("host:/x", "/mnt", flag).exit_code == 0
    assert plans[0].foreground


def test_relative_paths_are_meant_from_here(
    plans: list[MountPlan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke("host:/x", "/mnt", "--certs", "pki", "--rundir", "run").exit_code == 0
    assert plans[0].options.certs == tmp_path / "pki"
    assert plans[0].rundir == tmp_path / "run"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["host", "/mnt"], "not HOST"),
        (["host:/x", "/mnt", "-o", "tls,notls"], "contradict"),
        (["host:/x", "/mnt", "-o", "nonsense"], "unknown mount option"),
        (["host:/x", "/mnt", "--certs", "/a", "-o", "certs=/b"], "contradict"),
        (["host:1:/x", "/mnt", "-o", "port=2"], "port 1"),
        ([], "Missing argument"),
        (["host:/x"], "where is it to be mounted?"),
        (["host:/x", "/mnt", "--nonsense"], "No such option"),
    ],
)
def test_wrong_usage_is_code_1_and_says_why(arguments: list[str], reason: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert reason in result.output


def test_what_has_no_effect_is_one_warning(plans: list[MountPlan]) -> None:
    result = invoke("host:/x", "/mnt", "-o", "fsc,max_connect=2", "-o", "ro")
    assert result.exit_code == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith("umktls mount: warning: mount options without an effect here: fsc (")
    assert plans[0].options.read_only


def test_sloppy_as_mount_passes_it_on(plans: list[MountPlan]) -> None:
    assert invoke("host:/x", "/mnt", "-s", "-o", "frob").exit_code == 0
    assert invoke("host:/x", "/mnt", "-o", "sloppy,frob").exit_code == 0
    assert invoke("host:/x", "/mnt", "-o", "frob").exit_code == 1


def test_the_shell_completes_options() -> None:
    words = {"COMP_WORDS": "mount -o ro,nos", "COMP_CWORD": "2", "_MOUNT_COMPLETE": "bash_complete"}
    result = CliRunner().invoke(mount, [], prog_name="mount", env=words)
    assert "plain,ro,nosuid" in result.output.splitlines()


@pytest.mark.parametrize(
    ("typed", "put", "left"),
    [
        ("rw,noatime", "rw,noatime,dev,suid", "rw,noatime"),
        ("", "dev,suid", ""),
        ("rw,nosuid,nodev", "rw,nosuid,nodev", "rw,nosuid,nodev"),
        ("rw,nodev", "rw,nodev,suid", "rw,nodev"),
        ("rw,suid", "rw,suid,dev,suid", "rw,suid"),
        ("rw,suid,dev", "rw,suid,dev,dev,suid", "rw,suid,dev"),
    ],
)
def test_what_mount_fuse_puts_behind_is_not_what_was_typed(
    plans: list[MountPlan], typed: str, put: str, left: str
) -> None:
    assert command.without_defaults(put) == left
    assert invoke("host:/x", "/mnt", "-o", put, "--by-mount-fuse").exit_code == 0
    assert invoke("host:/x", "/mnt", "-o", typed).exit_code == 0
    assert plans[0].options == plans[1].options


def test_the_helper_of_mount_takes_what_mount_gives(plans: list[MountPlan]) -> None:
    """mount(8), external helpers: -sfnv, -N, -o, -t."""
    words = ["host:/x", "/mnt", "-s", "-n", "-v", "-t", "fuse.umktls", "-o", "rw,frob,noatime"]
    result = CliRunner().invoke(helper, words)
    assert result.exit_code == 0, result.output
    assert plans[0].options.fuse == {"noatime"}
    refused = CliRunner().invoke(helper, ["host:/x", "/mnt", "-N", "/proc/1/ns/mnt"])
    assert refused.exit_code == 1
    assert "nsenter(1)" in refused.output


def test_mount_f_mounts_nothing_and_checks_all_the_same(
    plans: list[MountPlan], tmp_path: Path
) -> None:
    needs_fuse()
    for place, code in ((tmp_path, 0), (tmp_path / "missing", 32)):
        assert CliRunner().invoke(helper, ["host:/x", str(place), "-f"]).exit_code == code
    assert plans == []


def test_help_lists_every_option() -> None:
    text = invoke("--help").output
    for name in OPTIONS:
        assert name in text


def test_a_missing_mount_point_is_code_32_and_one_line(tmp_path: Path) -> None:
    needs_fuse()
    result = invoke("host:/x", tmp_path / "missing")
    assert result.exit_code == 32
    assert len(result.output.splitlines()) == 1
    assert "make it first" in result.output


@pytest.mark.parametrize("where", [[], ["-f"]])
def test_a_closed_port_is_code_32_and_one_line(tmp_path: Path, where: list[str]) -> None:
    """Also from the background, where the reason has to come from another process."""
    needs_fuse()
    with silent_port() as port:
        done = subprocess.run(
            [
                program_path("umktls"),
                "mount",
                f"127.0.0.1:{port}:/x",
                tmp_path,
                "-o",
                "notls",
                *where,
            ],
            capture_output=True,
            text=True,
            timeout=patience(SECONDS),
            check=False,
        )
    assert done.returncode == 32
    lines = [line for line in done.stderr.splitlines() if line.startswith("umktls mount: ")]
    assert len(lines) == 1
    assert f"port {port}: Connection refused" in lines[0]
    assert where or done.stderr.count("\n") == 1


# ---- what FUSE is told


def told(text: str, root: bool, source: str = "host:/x") -> set[str]:
    return fuse_options(Source.parse(source), parse_options([text]), root)


def test_roots_mount_is_for_everybody_and_others_are_not() -> None:
    everybody = {"allow_other", "default_permissions"}
    assert told("", root=True) == {"fsname=host:/x", "subtype=umktls"} | everybody
    assert told("", root=False) == {"fsname=host:/x", "subtype=umktls"}
    assert "allow_other" in told("allow_other", root=False)
    assert told("noallow_other", root=True) == told("", root=True) - everybody


@pytest.mark.parametrize(
    ("options", "root", "checks"),
    [
        ("", True, True),
        ("", False, False),
        ("allow_other", False, True),
        ("allow_root", False, True),
        ("default_permissions", False, True),
        ("nodefault_permissions", True, False),
        ("allow_other,nodefault_permissions", False, False),
    ],
)
def test_the_kernel_checks_modes_where_others_are_let_in(
    options: str, root: bool, checks: bool
) -> None:
    assert ("default_permissions" in told(options, root)) is checks


def test_fuses_own_options_are_handed_on() -> None:
    assert told("ro,nosuid,fsname=y,subtype=z", root=False) == {
        "ro",
        "nosuid",
        "fsname=y",
        "subtype=z",
    }
    assert "allow_other" not in told("allow_root", root=True)


def test_commas_in_names_are_escaped_for_libfuse() -> None:
    assert r"fsname=host:/a\,b\\c" in told("", root=False, source=r"host:/a,b\c")


def test_the_port_is_the_sources_or_the_options_or_nfs() -> None:
    def port(source: str, options: str) -> int:
        plan = MountPlan(Source.parse(source), "/mnt", parse_options([options]))
        assert plan.config().find_port == (plan.port() is None)
        return plan.config().port

    assert port("host:/x", "") == 2049
    assert port("host:/x", "port=0") == 2049
    assert port("host:99:/x", "") == 99
    assert port("host:/x", "port=99") == 99
    assert port("host:99:/x", "port=99") == 99
    with pytest.raises(CallerError, match=r"port 98.*port 99"):
        port("host:98:/x", "port=99")


def test_nohup_is_obeyed_in_the_foreground() -> None:
    plan = MountPlan(Source.parse("host:/"), "/mnt", parse_options([]))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert signal.SIGHUP in heeded(plan)
        assert signal.SIGHUP not in heeded(replace(plan, foreground=True))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.SIGHUP in heeded(replace(plan, foreground=True))


def mount_with(
    tmp_path: Path, pyfuse3: str, *words: str, run: str = "run"
) -> subprocess.CompletedProcess[str]:
    """`umktls mount` where this stands in pyfuse3's place, which is imported when the daemon
    starts already."""
    needs_fuse()
    (tmp_path / "pyfuse3.py").write_text(pyfuse3)
    (tmp_path / run).mkdir(mode=0o700)
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    program = [sys.executable, program_path("umktls"), "mount", "127.0.0.1:1:/"]
    return subprocess.run(
        [*program, str(mountpoint), "-o", "tls", *words],
        env=os.environ | {"PYTHONPATH": str(tmp_path), "UMKTLS_RUNDIR": str(tmp_path / run)},
        capture_output=True,
        text=True,
        timeout=patience(SECONDS),
    )


KILL = """
import os, signal
assert os.listdir({run!r})
def kill(of=None):
    os.kill(os.getpid(), {number})
"""
DROPPED = """
import weakref
class Thing: pass
thing = Thing()
dropped = weakref.ref(thing, kill)
del thing
"""


@pytest.mark.parametrize("kill", ["kill()", DROPPED], ids=["", "in a callback"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("how", [(), ("-f",)], ids=["background", "foreground"])
def test_a_signal_before_the_mount_heeds_any_leaves_nothing(
    how: tuple[str, ...], number: signal.Signals, kill: str, tmp_path: Path
) -> None:
    """Nobody took the run directory away, since no host was described in it."""
    code = KILL.format(run=str(tmp_path / "run"), number=int(number)) + kill
    done = mount_with(tmp_path, code, *how)
    if how:
        assert done.returncode == 128 + number
    else:
        assert done.returncode == 32
        assert "ended with code 1 before the mount worked" in done.stderr
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("how", [(), ("-f",)], ids=["background", "foreground"])
def test_without_pyfuse3_one_line_says_so(how: tuple[str, ...], tmp_path: Path) -> None:
    """Its import fails when the daemon starts already; nothing of that is left."""
    done = mount_with(tmp_path, "raise ImportError('no libfuse3')", *how)
    assert done.returncode == 32
    assert "mounting needs pyfuse3, which cannot be imported: no libfuse3" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list((tmp_path / "run").iterdir()) == []


def test_whoever_has_mounted_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a process that ends nothing has to be looked through for cycles."""
    at_end: list[object] = []
    monkeypatch.setattr(command, "_check", lambda plan: plan)
    monkeypatch.setattr(command, "in_background", lambda run: None)
    monkeypatch.setattr(atexit, "register", at_end.append)
    assert invoke("host:/x", "/mnt").exit_code == 0
    assert at_end == [gc.freeze]
