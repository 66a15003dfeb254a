"""What is made of processor times with a page open and without."""

from __future__ import annotations

from tests.bench.watched import neighbours


def test_a_turn_with_a_page_is_compared_with_those_beside_it() -> None:
    """A machine that gets slower all the time makes no page dear."""
    assert neighbours([1.0, 3.0, 5.0], [2.0, 4.4]) == [(2.0, 2.0), (4.0, 4.4)]
