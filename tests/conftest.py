"""What every test has: directories with short paths, signals as usual, the rule about skipping."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

KERNEL_LACKS = "kernel lacks"
"""A skip's reason begins with this where the machine's kernel is what is missing."""

FAILED = pytest.StashKey[bool]()
"""That a test has failed: its files are kept."""


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
