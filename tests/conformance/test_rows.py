"""Every row, on every personality that it speaks of."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.collection import ROWS
from tests.conformance.rows import EVERYBODY, Row
from umktls.abi.personality import PERSONALITIES

CHECKED = [row for row in ROWS if row.check]
RUNS = [
    pytest.param(row, personality, variant, id=f"{row.name}-{personality}-{variant}")
    for row in CHECKED
    for personality in row.personalities
    for variant in row.variants or (None,)
]


@pytest.mark.parametrize(("row", "personality", "variant"), RUNS)
def test_row(row: Row, personality: str, variant: Any) -> None:
    row.run(personality, variant)


def test_rows_speak_of_kernels_that_there_are() -> None:
    assert set(EVERYBODY) == set(PERSONALITIES)
    assert {name for row in ROWS for name in row.personalities} == set(PERSONALITIES)


def test_no_statement_is_made_twice() -> None:
    statements = [(row.area, row.statement, row.personalities) for row in ROWS]
    assert len(set(statements)) == len(statements)


def test_what_is_not_followed_has_a_reason() -> None:
    assert all(row.reason for row in ROWS if not row.check)
