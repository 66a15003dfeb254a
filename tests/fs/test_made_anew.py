"""Real mounts of what is removed and made anew on the server, under its name.

The next open, or opendir, finds it at once, however long attributes are good for.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.fs.mounted import Mounted, mounted


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """With attributes that are good for longer than the tests take."""
    with mounted(tmp_path_factory.mktemp("anew"), "actimeo=600") as one:
        yield one


def test_a_file_that_was_made_anew_is_found_by_the_next_open(mount: Mounted) -> None:
    path, there = mount.path / "file", mount.export / "file"
    there.write_text("first")
    for text in ("second", "the third"):
        with path.open() as old:
            before = old.read()
            there.unlink()
            there.write_text(text)
            with path.open() as new:
                assert new.read() == text != before
            with path.open("a") as new:
                new.write("!")
            assert there.read_text() == f"{text}!"
    there.unlink()


def test_a_directory_that_was_made_anew_is_found_by_the_next_opendir(mount: Mounted) -> None:
    path, there = mount.path / "directory", mount.export / "directory"
    (there / "old").mkdir(parents=True)
    assert os.listdir(path) == ["old"]
    for name in ("new", "newer"):
        there.rename(mount.export / "away")
        shutil.rmtree(mount.export / "away")
        there.mkdir()
        (there / name).write_text(name)
        assert os.listdir(path) == [name]
        assert (path / name).read_text() == name
    shutil.rmtree(there)


@pytest.mark.parametrize("then", ["file", "directory"])
def test_what_became_another_kind_is_found_by_the_next_open(mount: Mounted, then: str) -> None:
    """Not by one with O_DIRECTORY of what was a file: the machine's kernel says ENOTDIR for as long
    as the attributes of that are good, and asks nobody."""
    path, there = mount.path / "either", mount.export / "either"
    if then == "file":
        there.mkdir()
        assert os.listdir(path) == []
        there.rmdir()
        there.write_text("a file")
        assert path.read_text() == "a file"
        there.unlink()
    else:
        there.touch()
        assert path.read_text() == ""
        there.unlink()
        (there / "below").mkdir(parents=True)
        os.close(os.open(path, os.O_RDONLY))
        assert os.listdir(path) == ["below"]
        shutil.rmtree(there)
