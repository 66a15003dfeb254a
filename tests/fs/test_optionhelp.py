"""What people are told about mount options: documentation, help, completion."""

from __future__ import annotations

from pathlib import Path

from umktls_fs.optionhelp import complete, help_rows, markdown
from umktls_fs.options import OPTIONS

DOC = Path(__file__).parents[2] / "docs" / "options.md"


def test_the_documentation_is_the_table() -> None:
    assert DOC.read_text() == markdown(), (
        "make it anew: python -m umktls_fs.optionhelp > docs/options.md"
    )


def test_documentation_and_help_have_every_option() -> None:
    page = markdown().replace("\\|", "|")
    forms = ", ".join(form for _, rows in help_rows() for form, _ in rows)
    for option in OPTIONS.values():
        assert f"| `{option.form}` | {option.fate.value} | {option.help} |" in page
        assert option.form in forms


def test_names_are_completed_behind_the_last_comma() -> None:
    assert [text for text, _ in complete("ro,mtl")] == ["ro,mtls"]
    assert [text for text, _ in complete("acreg")] == ["acregmin=", "acregmax="]
    assert ("nocto", OPTIONS["nocto"].help) in complete("no")
    assert complete("nothing-like-that") == []


def test_what_is_refused_is_not_offered() -> None:
    assert "udp" not in [text for text, _ in complete("u")]
    assert "ro,x-*" not in [text for text, _ in complete("ro,")]


def test_words_are_completed_where_a_value_is_one_of_few() -> None:
    assert [text for text, _ in complete("ro,xprtsec=")] == [
        f"ro,xprtsec={word}" for word in ("none", "tls", "mtls")
    ]
    assert [text for text, _ in complete("lookupcache=p")] == [
        "lookupcache=pos",
        "lookupcache=positive",
    ]
    assert complete("certs=/t") == []
