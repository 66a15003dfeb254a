"""docs/rfc9289.md has a test or a reason for each requirement."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent


def test_every_requirement_has_its_test_or_its_reason() -> None:
    text = (HERE.parents[1] / "docs" / "rfc9289.md").read_text()
    rows = re.findall(r"^\| (\d+) \| .* \| (.*) \|$", text, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 31))
    code = "".join(path.read_text() for path in HERE.glob("test_*.py"))
    tests = re.findall(r"^(?:async )?def (test_(\d\d)_\w+)", code, re.MULTILINE)
    by_number = {int(number): name for name, number in tests}
    for number, evidence in rows:
        name = by_number.get(int(number))
        assert evidence == (f"`{name}`" if name else "none: see below")
    for number in {int(number) for number, _ in rows} - set(by_number):
        assert re.search(rf"^- {number}: ", text, re.MULTILINE), f"{number} has no reason"
