"""What is kept of a host whose mount failed."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.capture.blocks import packets
from umktls.errors import CallerError, WorldError
from umktls.kernel.captures.capture import Capture
from umktls.kernel.captures.line import HOST
from umktls.kernel.ground.events import Trace
from umktls.kernel.host import kept
from umktls.kernel.host.capturing import Capturing
from umktls.kernel.host.kept import Kept, keeping
from umktls.kernel.host.rundir import RunDirectory, run_base
from umktls.kernel.sockets.ktls_socket import KernelSocket


class FakeHost:
    """As much of a host as there is to keep."""

    def __init__(self, pid: int) -> None:
        self.rundir = RunDirectory("client", pid=pid)
        self.rundir.make()
        (self.rundir.path / "rpctlscd.log").write_text("refused\n")
        self.trace = Trace(self.rundir.path.name, "client")
        self.trace.emit("probe", "c1")
        self.pid = pid
        self.name = self.rundir.path.name
        self.sockets: dict[str, KernelSocket] = {}
        self.capture: Capture | None = None
        self.capturing = Capturing(self, client=True)

    def describe(self) -> dict[str, Any]:
        return {"name": self.rundir.path.name, "role": "client", "pid": self.pid}


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UMKTLS_RUNDIR", str(tmp_path / "run"))
    return tmp_path / "run"


def fail(host: FakeHost) -> str:
    """Have its mount fail; what is said then."""
    with pytest.raises(CallerError) as caught, keeping(host):
        raise CallerError("refused", 13)
    assert caught.value.errno == 13
    return str(caught.value)


def test_logs_and_trace_stay_and_the_error_says_where(base: Path) -> None:
    host = FakeHost(7)
    with (host.rundir.path / "rpctlscd.log").open("a") as log:
        said = fail(host)
        log.write("last words\n")  # of a daemon that still runs
    host.rundir.remove()
    place = base / "failed" / "client-7"
    assert said == f"refused (logs and trace are kept in {place})"
    assert (place / "rpctlscd.log").read_text() == "refused\nlast words\n"
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    (one,) = kept.kept()
    assert one == Kept(place, host.describe())
    assert [event["event"] for event in one.trace()] == ["probe"]


def test_a_capture_stays_with_them(base: Path) -> None:
    host = FakeHost(7)

    def mount() -> None:
        with keeping(host):
            host.trace.emit("probe", "c2")
            raise CallerError("refused", 13)

    with pytest.raises(CallerError):
        mount()
    assert host.capture is None
    (one,) = packets(base / "failed" / "client-7" / "capture.pcapng", HOST)
    assert one.text["name"] == "probe"


def test_a_capture_that_nobody_needs_any_more_goes(base: Path) -> None:
    host = FakeHost(7)

    def mount() -> None:
        with keeping(host):
            assert host.capture is not None
            host.capturing.forget()
            assert host.capture is None
            raise CallerError("later", 13)

    with pytest.raises(CallerError):
        mount()
    assert not (base / "failed" / "client-7" / "capture.pcapng").exists()


def test_only_the_newest_are_kept() -> None:
    for pid in range(kept.AT_MOST + 3):
        fail(FakeHost(pid))
        os.utime(run_directory(pid), (pid, pid))
    assert len(kept.kept()) == kept.AT_MOST
    assert kept.kept()[-1].pid == kept.AT_MOST + 2


def test_of_two_processes_with_one_number_the_later_is_kept() -> None:
    fail(FakeHost(7))
    later = FakeHost(7)
    (later.rundir.path / "rpctlscd.log").write_text("refused again\n")
    assert "logs and trace are kept in" in fail(later)
    assert (run_directory(7) / "rpctlscd.log").read_text() == "refused again\n"


def run_directory(pid: int) -> Path:
    return run_base() / "failed" / f"client-{pid}"


def test_what_works_leaves_nothing(base: Path) -> None:
    with keeping(FakeHost(7)):
        pass
    assert kept.kept() == []
    assert not (base / "failed").exists()


def test_what_cannot_be_kept_hides_no_failure(base: Path) -> None:
    """Nor does it follow what somebody else has put there."""
    host = FakeHost(7)
    (base / "elsewhere").mkdir()
    (base / "failed").symlink_to("elsewhere")
    assert "refused (logs and trace could not be kept: " in fail(host)
    assert list((base / "elsewhere").iterdir()) == []


def test_a_failure_inside_nurseries_is_the_one_that_counts(base: Path) -> None:
    with pytest.raises(WorldError, match=r"lost .*kept in"), keeping(FakeHost(7)):
        raise ExceptionGroup("", [ExceptionGroup("", [WorldError("lost")])])


def test_what_is_no_description_is_passed_over(base: Path) -> None:
    (base / "failed" / "odd").mkdir(parents=True)
    (base / "failed" / "odd" / "kept.json").write_text("{")
    assert kept.kept() == []
