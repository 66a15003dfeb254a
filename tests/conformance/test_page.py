"""docs/compatibility.md is what the code and the rows say now."""

from __future__ import annotations

from tests.conformance.collection import ROWS
from tests.conformance.page import PAGE, page, result
from tests.conformance.rows import Row


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run `python -m tests.conformance`"


def test_a_row_that_fails_shows() -> None:
    def check(world: object) -> None:
        raise AssertionError("no kernel does that")

    row = Row(__name__, "area", "statement", ("umktls",), check)
    assert result(row, "umktls") == "FAILS"
    assert result(row, "linux") == "-"


def test_every_row_is_on_the_page() -> None:
    text = PAGE.read_text()
    assert all(f"| {row.statement} |" in text for row in ROWS)
    assert "FAILS" not in text
