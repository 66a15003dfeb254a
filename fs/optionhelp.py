"""What the table of mount options says to people: `--help`, docs/options.md, completion."""

from __future__ import annotations

from collections.abc import Iterator

import click
from click.shell_completion import CompletionItem

from .optiontable import OPTIONS, SECTIONS, Fate, Option

__all__ = ["complete", "completed", "help_rows", "markdown"]

_HEAD = """# Mount options

All that `umktls mount -o`, `mount -t umktls` and fstab(5) take, made from the table in
`fs/optiontable.py`. The names are those of nfs(5), mount(8), mount_nfs(8), sshfs(1) and fuse(8).
What has no effect here is named in one warning; what would be a lie is refused with the reason.
Two options that contradict each other are refused too.
"""


def help_rows() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """For each section its title, and the rows: the options as one types them, and a line.

    Options of one line stand together.
    """
    for title, options in SECTIONS.items():
        rows: dict[str, list[str]] = {}
        for option in options:
            rows.setdefault(_line(option), []).append(option.form)
        yield title, [(", ".join(forms), text) for text, forms in rows.items()]


def _line(option: Option) -> str:
    if option.fate is Fate.HONOURED:
        return option.help
    return f"[{option.fate.value}] {option.help}"


def markdown() -> str:
    """docs/options.md."""
    parts = [_HEAD]
    for title, options in SECTIONS.items():
        rows = [f"## {title}\n", "| option | | what it does, or why not |", "|---|---|---|"]
        rows += [f"| `{_cell(o.form)}` | {o.fate.value} | {_cell(o.help)} |" for o in options]
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def complete(typed: str) -> list[tuple[str, str]]:
    """What the last word of an ``-o`` text may become: whole texts, each with its help.

    Options that are refused are not offered; behind ``=``, the words that a value can be.
    """
    before, comma, word = typed.rpartition(",")
    start = before + comma
    name, equals, value = word.partition("=")
    if equals:
        option = OPTIONS.get(name)
        takes = option.takes.split("|") if option is not None else []
        return [
            (f"{start}{name}={one}", "") for one in takes if one.islower() and one.startswith(value)
        ]
    return [
        (start + key + ("=" if option.convert and not option.bare else ""), option.help)
        for key, option in OPTIONS.items()
        if key.startswith(name) and not key.endswith("*") and option.fate is not Fate.REFUSED
    ]


def completed(ctx: click.Context, param: click.Parameter, typed: str) -> list[CompletionItem]:
    """The same for click."""
    return [CompletionItem(text, help=line) for text, line in complete(typed)]


if __name__ == "__main__":
    print(markdown(), end="")
