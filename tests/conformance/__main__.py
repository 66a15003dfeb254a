"""`python -m tests.conformance`: write docs/compatibility.md anew."""

from __future__ import annotations

from tests.conformance.page import PAGE, page

PAGE.write_text(page())
