"""docs/compatibility.md is what the code and the rows say now."""

from __future__ import annotations

from tests.conformance.collection import ROWS
from tests.conformance.page import PAGE, TESTED_BELOW, page, result
from tests.conformance.rows import Row
from umktls.ktls.options.table import options_of


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run `python -m tests.conformance`"


def test_a_row_that_fails_shows() -> None:
    def check(world: object) -> None:
        raise AssertionError("no kernel does that")

    row = Row(__name__, "area", "statement", ("umktls",), check)
    assert result(row, "umktls") == "FAILS"
    assert result(row, "linux") == "-"


def test_every_option_is_tested() -> None:
    assert set(TESTED_BELOW.values()) <= {row.area for row in ROWS}
    names = {option.name for option in options_of(("freebsd", "linux")).values()}
    assert set(TESTED_BELOW) == names


def test_every_row_is_on_the_page() -> None:
    text = PAGE.read_text()
    assert all(f"| {row.statement} |" in text for row in ROWS)
    assert "FAILS" not in text
