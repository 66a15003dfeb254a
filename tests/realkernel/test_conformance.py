"""The conformance suite's rows about Linux, asked of this one; and the engine `linux` on it."""

from __future__ import annotations

import sys

import pytest

from tests.realkernel.guest import Guest, GuestError

MINUTES = 20
TESTS = (
    "tests/realkernel/test_rows.py",
    "tests/engines/test_linux.py::test_calls_by_this_machine_s_kernel",
)


@pytest.mark.timeout(60 * MINUTES)
@pytest.mark.parametrize("test", TESTS)
def test_rows(guest: Guest, test: str) -> None:
    """Run by pytest in there; what it says is told where it fails."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rx", "--tb=short"]
    try:
        said = guest.run(*command, test, seconds=60 * (MINUTES - 1))
    except GuestError as error:
        pytest.fail(str(error), pytrace=False)
    assert " passed" in said
    assert " skipped" not in said
