"""Copying and comparing trees: each kind of difference is found, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umktls.cli import tree
from umktls.cli.tree import Entry


@pytest.fixture
def source(tmp_path: Path) -> Path:
    top = tmp_path / "source"
    (top / "sub" / "deep").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "sub" / "text").write_text("hello")
    (top / "sub" / "deep" / "big").write_bytes(os.urandom(3 << 20))
    (top / "nothing").touch()
    (top / "link").symlink_to("sub/text")
    (top / "broken").symlink_to("/no/such")
    (top / "sub" / "text").chmod(0o751)
    os.utime(top / "sub" / "text", ns=(1_000_000_001, 2_000_000_003))
    (top / "__pycache__").mkdir()
    (top / "__pycache__" / "x.pyc").touch()
    return top


def total(entries: list[Entry]) -> int:
    return sum(entry.size for entry in entries)


def test_survey_lists_parents_first_and_leaves_out(source: Path) -> None:
    entries = tree.survey(source, ["__pycache__"])
    names = [entry.name for entry in entries]
    assert names.index("sub") < names.index("sub/deep") < names.index("sub/deep/big")
    assert {(e.name, e.kind) for e in entries} == {
        ("sub", "directory"),
        ("sub/deep", "directory"),
        ("empty", "directory"),
        ("sub/text", "file"),
        ("sub/deep/big", "file"),
        ("nothing", "file"),
        ("link", "link"),
        ("broken", "link"),
    }
    assert total(entries) == 5 + (3 << 20)


def test_copy_is_the_same_with_modes_and_times(source: Path, tmp_path: Path) -> None:
    entries = tree.survey(source)
    done: list[int] = []
    tree.copy(entries, source, tmp_path / "target", done.append)
    assert sum(done) == total(entries)
    before = tree.digests(entries, source, done.append)
    after = tree.digests(entries, tmp_path / "target", done.append)
    assert tree.differences(before, after) == []
    assert after["link"] == "link to sub/text"
    status = (tmp_path / "target" / "sub" / "text").stat()
    assert (status.st_mode & 0o777, status.st_mtime_ns) == (0o751, 2_000_000_003)


def test_each_kind_of_difference_is_found(source: Path, tmp_path: Path) -> None:
    entries = tree.survey(source, ["__pycache__"])
    target = tmp_path / "target"
    tree.copy(entries, source, target, lambda done: None)
    with (target / "sub" / "deep" / "big").open("r+b") as file:
        byte = file.read(1)[0]
        file.seek(0)
        file.write(bytes([byte ^ 1]))
    (target / "nothing").unlink()
    (target / "link").unlink()
    (target / "link").symlink_to("sub/other")
    (target / "empty").rmdir()
    (target / "empty").touch()
    wrong = tree.differences(
        tree.digests(entries, source, lambda done: None),
        tree.digests(entries, target, lambda done: None),
    )
    assert wrong == ["empty", "link", "nothing", "sub/deep/big"]


def test_copy_stops_at_the_first_error(source: Path, tmp_path: Path) -> None:
    entries = [*tree.survey(source), Entry("gone", "file", 1)]
    with pytest.raises(FileNotFoundError, match="gone"):
        tree.copy(entries, source, tmp_path / "target", lambda done: None)


NAMES = st.dictionaries(st.sampled_from("abc"), st.sampled_from("123"))


@given(NAMES, NAMES)
def test_differences_are_the_names_that_differ(one: dict[str, str], two: dict[str, str]) -> None:
    wrong = tree.differences(one, two)
    assert wrong == tree.differences(two, one)
    assert (wrong == []) is (one == two)
