"""Making names that others have made meanwhile, on real mounts: two clients and a local writer.

Both clients believe what they know for ten minutes, and the first one knows that its directory is
empty: it has made it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fs.mounted import Mounted, mounted

OURS, THEIRS = b"ours", b"theirs, and longer"
Others = Callable[[Path], object]


@pytest.fixture(scope="module")
def mounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mounted, Mounted]]:
    top = tmp_path_factory.mktemp("making")
    (top / "other").mkdir()
    (top / "other" / "export").symlink_to(top / "export")
    with mounted(top, "actimeo=600") as first, mounted(top / "other", "actimeo=600") as second:
        yield first, second


class Places:
    """A directory as the first client made it, and as the two others see it."""

    def __init__(self, mounts: tuple[Mounted, Mounted], name: str) -> None:
        self.ours = mounts[0].path / name
        self.ours.mkdir()
        self.others = (mounts[1].path / name, mounts[0].export / name)


@pytest.fixture
def places(mounts: tuple[Mounted, Mounted], request: pytest.FixtureRequest) -> Places:
    return Places(mounts, f"d{abs(hash(request.node.name))}")


def put(path: Path) -> None:
    path.write_bytes(THEIRS)


def lock(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))


def test_open_with_o_creat_opens_what_is_there(places: Places) -> None:
    for other in places.others:
        put(other / "file")
        with (places.ours / "file").open("a+b", buffering=0) as file:
            assert file.write(OURS) == len(OURS)
            file.seek(0)
            assert file.read() == THEIRS + OURS
        assert (other / "file").read_bytes() == THEIRS + OURS
        (places.ours / "file").unlink()
        os.listdir(places.ours)  # known again


def test_open_with_o_creat_and_o_trunc(places: Places) -> None:
    for number, other in enumerate(places.others):
        name = f"file{number}"
        put(other / name)
        (other / name).chmod(0o640)
        (places.ours / name).write_bytes(OURS)
        assert (other / name).read_bytes() == OURS
        assert (other / name).stat().st_mode & 0o777 == 0o640


def test_open_with_o_creat_follows_a_symbolic_link(places: Places) -> None:
    (places.others[1] / "link").symlink_to("target")
    (places.ours / "link").write_bytes(OURS)
    assert (places.others[1] / "target").read_bytes() == OURS
    assert (places.others[1] / "link").is_symlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_open_with_o_creat_of_what_is_not_ours_to_open(mounts: tuple[Mounted, Mounted]) -> None:
    places = Places(mounts, "refused")
    places.ours.chmod(0o777)
    for directory in (places.ours, *places.ours.parents):
        if not directory.stat().st_mode & 1:
            directory.chmod(directory.stat().st_mode | 0o011)
    put(places.others[1] / "secret")
    (places.others[1] / "secret").chmod(0o600)
    command = ["sh", "-c", f"exec 2>&1; echo x >> '{places.ours}/secret'"]
    done = subprocess.run(command, user=12345, group=12345, capture_output=True, check=False)
    assert b"denied" in done.stdout
    assert (places.others[1] / "secret").read_bytes() == THEIRS


def test_open_with_o_excl_is_a_lock(places: Places) -> None:
    for number in range(5):
        for other in places.others:
            name = f"lock{number}"
            lock(other / name)
            with pytest.raises(FileExistsError):
                lock(places.ours / name)
            (other / name).unlink()
            lock(places.ours / name)
            with pytest.raises(FileExistsError):
                lock(other / name)
            (places.ours / name).unlink()


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("to", path)])
def test_what_is_made_is_there_already(places: Places, make: Others) -> None:
    for number, other in enumerate(places.others):
        put(other / f"name{number}")
        with pytest.raises(FileExistsError):
            make(places.ours / f"name{number}")
        assert (other / f"name{number}").read_bytes() == THEIRS


def test_a_link_and_a_renamed_file(places: Places) -> None:
    (places.ours / "mine").write_bytes(OURS)
    for number, other in enumerate(places.others):
        name = f"name{number}"
        put(other / name)
        with pytest.raises(FileExistsError):
            os.link(places.ours / "mine", places.ours / name)
        os.rename(places.ours / "mine", places.ours / name)
        assert (other / name).read_bytes() == OURS
        assert not (other / "mine").exists()
        os.rename(places.ours / name, places.ours / "mine")


def test_a_path_through_a_link_with_the_same_name_in_it(places: Places) -> None:
    """`current` leads to name/below: looking for `name` in between is not making it."""
    other = places.others[1]
    os.symlink("name/below", places.ours / "current")
    (other / "name" / "below").mkdir(parents=True)
    (places.ours / "current" / "name").write_bytes(OURS)
    assert (other / "name" / "below" / "name").read_bytes() == OURS


def test_stat_and_access_are_told_the_truth(places: Places) -> None:
    for number, other in enumerate(places.others):
        path = places.ours / f"file{number}"
        assert not path.exists()
        put(other / path.name)
        assert path.stat().st_size == len(THEIRS)
        assert os.access(path, os.R_OK)


def test_errno_of_what_cannot_be_made(places: Places) -> None:
    (places.others[1] / "file").mkdir()
    with pytest.raises(IsADirectoryError):
        (places.ours / "file").write_bytes(OURS)
    with pytest.raises(OSError, match="too long"):
        (places.ours / ("x" * 300)).touch()


def test_what_was_fetched_ahead_is_not_opened_as_it_was(places: Places) -> None:
    """Look-ups of some names bring the others, and these are changed then."""
    for number, other in enumerate(places.others):
        names = [f"file{number}-{count}" for count in range(40)]
        for name in names:
            (other / name).write_bytes(OURS)
        for name in names[:8]:
            (places.ours / name).stat()
        changed, replaced, gone, moved = names[30:34]
        put(other / changed)
        (other / replaced).unlink()
        put(other / replaced)
        (other / gone).unlink()
        (other / moved).rename(other / f"moved{number}")
        for name in (changed, replaced, f"moved{number}"):
            expected = OURS if name.startswith("moved") else THEIRS
            assert (places.ours / name).read_bytes() == expected
        for name in (gone, moved):
            lock(places.ours / name)
            (places.ours / name).unlink()
