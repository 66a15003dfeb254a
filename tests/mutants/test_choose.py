"""The places that are damaged, and the damages."""

from __future__ import annotations

import pytest

from tests.mutants.choose import mutants_of

FUNCTION = "def f(a, b):\n    "
REFUSALS = [
    ("if a and b:\n        raise ValueError", ["False", "True", "True"]),
    ("if a:\n        a()\n        raise ValueError", ["False", "pass"]),
    ("if a:\n        return errno.EPERM", ["False"]),
    ("if a:\n        return b", []),
    ("raise ValueError", ["pass"]),
    ("raise NotImplementedError", []),
    ("raise AssertionError('it cannot be')", []),
    ("try:\n        a()\n    except OSError:\n        raise", []),
]
OTHERS = [
    ("limit", "return a > self.limit", ["(a >= self.limit)"]),
    ("limit", "return a > b", []),
    ("deadline", "with trio.move_on_after(5):\n        a()", ["float('inf')"]),
    ("clean-up", "try:\n        a()\n    finally:\n        b()", ["pass"]),
    ("clean-up", "await a.aclose()", ["pass"]),
    ("clean-up", "a.open()", []),
]


@pytest.mark.parametrize(
    ("kind", "body", "texts"), [("refusal", *row) for row in REFUSALS] + OTHERS
)
def test_damages(kind: str, body: str, texts: list[str]) -> None:
    source = FUNCTION + body + "\n"
    found = mutants_of("x.py", source)
    assert [one.text for one in found] == texts
    for one in found:
        assert (one.kind, one.function) == (kind, "f")
        compile(one.applied(source), "x.py", "exec")


def test_a_constant_is_reached_where_it_is_used() -> None:
    source = (
        "import a\n\nMAX_SIZE = 4 << 10\nFOO_MAGIC = 3\n\n\ndef f(x):\n    return x > MAX_SIZE\n"
    )
    constant, edge = mutants_of("x.py", source)
    assert (constant.text, constant.lines) == ("(4 << 10) * 1000", (8,))
    assert edge.text == "(x >= MAX_SIZE)"


def test_a_refusal_that_is_missing_is_noticed_by_who_was_refused() -> None:
    source = "def f(a, b):\n    if (a and\n        b):\n        a()\n        raise ValueError\n"
    found = [(one.text, one.lines) for one in mutants_of("x.py", source)]
    assert found == [("False", (4, 5)), ("True", (2,)), ("True", (3,)), ("pass", (5,))]


def test_characters_of_several_bytes_in_front_of_a_place() -> None:
    source = 'def f(a):\n    if "é" in a and not a:\n        raise ValueError("ü")\n'
    assert mutants_of("x.py", source)[1].applied(source).count("if True and not a:") == 1


def test_places_that_look_the_same_have_names_of_their_own() -> None:
    """Else what was found of one would count for the other."""
    source = "def f(a, b):\n    if a:\n        a.close()\n    else:\n        a.close()\n"
    first, second = mutants_of("x.py", source)
    assert (first.line, second.line) == (3, 5)
    assert first.name == "x.py:f: a.close() -> pass"
    assert second.name == f"{first.name} (2)"
