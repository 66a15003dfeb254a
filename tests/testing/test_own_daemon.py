"""One's own daemon in the pytest plugin, and the examples of the plugin: as the texts have them."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

import umktls.testing
from tests.conftest import patience

pytest_plugins = ["pytester"]

TOP = Path(__file__).parents[2]
EXAMPLE = "docs/examples/mydaemon.py"
CONFTEST, TEST = re.findall(
    r"```python\n(.*?)```",
    (TOP / "docs" / "writing-a-daemon.md").read_text().partition("## Testing it")[2],
    re.DOTALL,
)
BOTH_FAIL = """
import pytest

from umktls.errors import WorldError


async def test_pair(umktls_pair):
    with pytest.raises(WorldError, match="ended with code 3: no, thanks"):
        async with umktls_pair():
            pass


async def test_server(umktls_server):
    with pytest.raises(WorldError, match="ended with code 3: no, thanks"):
        async with umktls_server():
            pass
"""
REFUSER = """
import sys

import pytest


@pytest.fixture
def umktls_daemons():
    return {"server": [sys.executable, "-c", "import sys; print('no, thanks'); sys.exit(3)"]}
"""


def ran(pytester: pytest.Pytester, passed: int) -> None:
    pytester.makefile(".ini", pytest="[pytest]\ntrio_mode = true\n")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", timeout=patience(50))
    result.assert_outcomes(passed=passed)


def test_as_the_page_says(pytester: pytest.Pytester) -> None:
    assert EXAMPLE in CONFTEST
    pytester.makeconftest(CONFTEST.replace(EXAMPLE, str(TOP / EXAMPLE)))
    pytester.makepyfile(TEST)
    ran(pytester, 1)


@pytest.mark.long
def test_a_daemon_that_does_not_come_up(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(REFUSER)
    pytester.makepyfile(BOTH_FAIL)
    ran(pytester, 2)


@pytest.mark.long
def test_the_examples_of_the_plugin(pytester: pytest.Pytester) -> None:
    """Those of the docstring of `umktls.testing`, all in one file."""
    text = umktls.testing.__doc__ or ""
    blocks = re.findall(r"^(?:    .*\n|\n)+", text, re.MULTILINE)
    code = [textwrap.dedent(one) for one in blocks if "import" in one or "async def" in one]
    pytester.makepyfile("\n".join(code))
    ran(pytester, sum(one.count("async def test_") for one in code))
