"""What is made of processor times with a page open and without."""

from __future__ import annotations

from tests.bench.watched import Spent, left_of


def test_what_is_lost_is_a_share_of_a_processor() -> None:
    alone = [Spent(0.0001, 0.0002, 5000.0), Spent(0.00012, 0.0003, 4000.0)]
    shown = [Spent(0.00011, 0.0002, 3000.0), Spent(0.0002, 0.0002, 300.0)]
    left = left_of("client", alone, shown)
    assert round(left, 4) == 0.97
    assert left_of("server", alone, shown) == 1.0
