"""What holds for all lessons: their texts, what they name, and how they are shown."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.lessons.played import played
from umktls.cli.main import main
from umktls.lessons.lesson import Question
from umktls.lessons.table import LESSONS, load

TOP = Path(__file__).parents[2]


def names_in(path: Path) -> set[str]:
    """Functions, classes, constants; methods and attributes of classes as Class.name."""
    found = set()

    def names(nodes: list[ast.stmt], prefix: str) -> None:
        for node in nodes:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                names(node.body, f"{node.name}.")
            targets = node.targets if isinstance(node, ast.Assign) else []
            if isinstance(node, ast.AnnAssign):
                targets = [node.target]
            found.update(prefix + t.id for t in targets if isinstance(t, ast.Name))

    names(ast.parse(path.read_text()).body, "")
    return found


@pytest.mark.parametrize("name", LESSONS)
def test_what_is_to_be_read_is_there(name: str) -> None:
    lesson = load(name)
    assert lesson.code
    assert lesson.rfcs
    for code in lesson.code:
        assert code.name in names_in(TOP / code.file), code


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_has_what_a_lesson_has(name: str) -> None:
    lesson = load(name)
    assert len(lesson.steps) >= 3
    assert 2 <= len(lesson.exercises) <= 3
    assert all(exercise.text and exercise.solution for exercise in lesson.exercises)
    assert all(step.text and step.means and step.question.text for step in lesson.steps)


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_is_one_file_that_can_be_read_in_one_go(name: str) -> None:
    path = TOP / "umktls" / "lessons" / f"{LESSONS[name].module}.py"
    assert len(path.read_text().splitlines()) <= 260


def test_the_lessons_are_listed() -> None:
    done = CliRunner().invoke(main, ["lesson"])
    assert done.exit_code == 0
    assert [line.split()[0] for line in done.output.splitlines()] == list(LESSONS)
    rows = CliRunner().invoke(main, ["lesson", "--json"]).output.splitlines()
    assert [json.loads(row)["name"] for row in rows] == list(LESSONS)
    assert CliRunner().invoke(main, ["lesson", "479"]).exit_code == 2


def test_a_lesson_in_a_terminal_asks_and_checks() -> None:
    typed = "zz\nb\nb\n1\n"
    done = CliRunner().invoke(main, ["lesson", "sequence", "--pause"], input=typed)
    assert done.exit_code == 0
    said = " ".join(done.output.split())
    assert "(You said: zz.)" in said
    assert "Answer: the header Right!" in said
    assert "Solution" not in said
    assert "umktls/ktls/engines/tls13.py: Tls13Sealer" in said
    assert "RFC 8446 section 5.3: per-record nonce" in said
    assert "\x1b" not in done.output
    assert max(map(len, done.output.splitlines())) <= 96


def test_solutions_are_behind_a_switch() -> None:
    end = played("sequence").all("end")[0]
    assert not any("solution" in exercise for exercise in end["exercises"])
    end = played("sequence", solutions=True).all("end")[0]
    assert all(exercise["solution"] for exercise in end["exercises"])
    done = CliRunner().invoke(main, ["lesson", "sequence", "--solutions"])
    assert "Solution: fe for record 1" in " ".join(done.output.split())


@pytest.mark.parametrize("name", [name for name in LESSONS if load(name).captured is None])
def test_what_has_no_sockets_cannot_be_captured(name: str, tmp_path: Path) -> None:
    words = ["lesson", name, "--capture", str(tmp_path / "x.pcapng")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1
    assert "take one of bounce, toe, null, tickets, identity" in done.output
    assert not any(tmp_path.iterdir())


def test_json_has_every_part_on_a_line_of_its_own() -> None:
    done = CliRunner().invoke(main, ["lesson", "sequence", "--json"])
    parts = [json.loads(line)["part"] for line in done.output.splitlines()]
    steps = len(load("sequence").steps)
    assert parts == ["lesson", *["step", "question", "seen", "check", "means"] * steps, "end"]


def test_an_answer_may_be_a_letter_a_word_or_a_number() -> None:
    question = Question("?", ("EINVAL", "nothing at all"))
    assert question.right("b", "nothing at all")
    assert question.right(" Nothing  at all. ", "nothing at all")
    assert question.right("einval", "EINVAL")
    assert not question.right("a", "nothing at all")
    assert not question.right("c", "EINVAL")
    assert Question("?").right("17", "17")


def test_the_page_lists_them_all() -> None:
    page = (TOP / "docs" / "lessons.md").read_text()
    for name, entry in LESSONS.items():
        assert f"| `{name}` | {entry.minutes} | {entry.about} |\n" in page
    assert page.count("\n| `") == len(LESSONS)
