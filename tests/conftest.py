"""What every test has: directories with short paths, signals as usual, the rule about skipping,
and a limit that grows with what else the machine does.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import Literal

import pytest
import pytest_timeout  # type: ignore[import-untyped]
from hypothesis import HealthCheck, settings

KERNEL_LACKS = "kernel lacks"
"""A skip's reason begins with this where the machine's kernel is what is missing."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for other users")

FAILED = pytest.StashKey[bool]()
"""That a test has failed: its files are kept."""

Pair = tuple[socket.socket, socket.socket]

LEAST_WAIT = 0.1  # seconds for which a test's alarm is set again


# How long an example takes depends on what else the machine does; a test's own limit is enough.
settings.register_profile("umktls", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("umktls")


@pytest.fixture(scope="session", autouse=True)
def _own_run_base() -> Iterator[None]:
    """No test sees the hosts that somebody runs on this machine, and none leaves one behind.

    The path is short, because the path of an AF_UNIX socket may be 107 bytes long at most.
    """
    base = tempfile.mkdtemp(prefix="umktls-")
    before = os.environ.get("UMKTLS_RUNDIR")
    os.environ["UMKTLS_RUNDIR"] = base
    yield
    os.environ.pop("UMKTLS_RUNDIR")
    if before is not None:
        os.environ["UMKTLS_RUNDIR"] = before
    shutil.rmtree(base)


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two connected stream sockets, of which the first does not block."""
    near, far = socket.socketpair()
    near.setblocking(False)
    with near, far:
        yield near, far


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    """A directory as `umktls certs` makes it, with a server's and a client's certificate."""
    # Imported here: test_conftest.py has this file stand alone.
    from tests.tlsworld import AUTHORITY
    from umktls.testing.certificates import directory

    return directory(tmp_path / "pki", AUTHORITY)


@pytest.fixture(scope="session", autouse=True)
def _signals_are_heard() -> None:
    """Programs obey what they inherit, and a shell has what runs in the background (`make test &`,
    nohup) ignore these; the tests send them to the programs that they start.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory for the test, kept only if it fails.

    pytest's own has the user's, the worker's and the test's name in its path, too long for sockets.
    """
    path = Path(tempfile.mkdtemp(prefix="umktls-"))
    yield path
    if FAILED not in request.node.stash:
        shutil.rmtree(path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With UMKTLS_SKIPS_FAIL=1 (as .ci/run sets it) a test that could not run has failed."""
    report = yield
    _fail_if_skipped(report)
    if report.failed:
        item.stash[FAILED] = True
        path = getattr(item, "funcargs", {}).get("tmp_path")
        if path is not None:
            report.sections.append(("Files of the test", str(path)))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a file of tests that is skipped as a whole."""
    report = yield
    _fail_if_skipped(report)
    return report


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if os.environ.get("UMKTLS_SKIPS_FAIL") != "1" or not report.skipped:
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
    if not hasattr(report, "wasxfail") and KERNEL_LACKS not in reason:
        report.outcome = "failed"
        report.longrepr = f"could not run, and a skip counts as failed here: {reason}"


def slowness() -> float:
    """How many times longer work takes now than on a machine that does nothing else.

    From the load average of the last minute: that many processes share the processors.
    """
    return max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))


def patience(seconds: float) -> float:
    """A deadline for what takes no more than `seconds` on a quiet machine."""
    return seconds * slowness()


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(
    item: pytest.Item, settings: pytest_timeout.Settings
) -> Literal[True] | None:
    """A test's limit, as pytest-timeout has it, in seconds of a machine that does nothing else.

    When the limit is reached, the time that has passed counts in so far as the machine had time
    for the test; what is left is waited for, again in proportion. A test that hangs on a quiet
    machine ends after its limit, and no signal disturbs one that is quick.
    """
    if settings.method != "signal" or settings.timeout is None:
        return None
    spent, began = 0.0, time.monotonic()

    def reached(number: int, frame: FrameType | None) -> None:
        nonlocal spent, began
        now, slower = time.monotonic(), slowness()
        spent, began = spent + (now - began) / slower, now
        left = (settings.timeout - spent) * slower
        if left < LEAST_WAIT:
            pytest_timeout.timeout_sigalrm(item, settings)
        else:
            signal.setitimer(signal.ITIMER_REAL, left)

    def cancel() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    item.cancel_timeout = cancel  # type: ignore[attr-defined]  # where pytest-timeout has it
    signal.signal(signal.SIGALRM, reached)
    signal.setitimer(signal.ITIMER_REAL, settings.timeout)
    return True
