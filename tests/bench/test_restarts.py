"""All daemons are killed in turn, under few connections."""

from __future__ import annotations

import pytest

from tests.bench.restarts import run

pytestmark = pytest.mark.long


def test_no_rpc_fails() -> None:
    outcome = run(10)
    assert outcome.failed == []
    assert (outcome.killed, outcome.anew, outcome.renewed) == (3, 0, 10)
    assert outcome.calls > 200
