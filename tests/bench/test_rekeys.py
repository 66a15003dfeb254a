"""Keys are renewed by both sides, under few connections."""

from __future__ import annotations

import pytest

from tests.bench.rekeys import ROUNDS, run

pytestmark = pytest.mark.long


def test_no_rpc_fails() -> None:
    outcome = run(5, 100)
    assert outcome.failed == []
    assert outcome.anew == 0
    assert outcome.calls >= 1000
    assert outcome.renewed == {"client": 5 * ROUNDS, "server": 5 * ROUNDS}
