"""Writes the manual pages."""

from __future__ import annotations

from tests.manual.pages import MAN, pages

MAN.mkdir(exist_ok=True)
made = pages()
for path in MAN.iterdir():
    if path.name not in made:
        path.unlink()
for name, text in made.items():
    (MAN / name).write_text(text)
