"""Ordinary programs on a mutual-TLS mount: what they expect of a file system, it has to do.

What a file system has to do for them one by one is in test_promises.py.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import patience
from tests.system.conftest import tool
from tests.system.live import Live, all_succeed, on_server, run

pytestmark = pytest.mark.long


def grow_tree(top: Path) -> Path:
    """A tree with what a tree may have."""
    chance = random.Random(7)
    sizes = (0, 1, 511, 4095, 4096, 4097, 65_537, 131_072, 1_048_575, 1_048_579)
    for number, size in enumerate(sizes):
        directory = top / f"directory {number % 3}" / "deep" / "er"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"file-{size}").write_bytes(chance.randbytes(size))
    for number in range(60):
        path = top / "many" / f"{number % 4}" / f"n{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}\n" * number)
        path.chmod(0o600 | number)
        os.utime(path, ns=(10**18 + number, 10**18 + 987_654_321 * number))
    (top / "привет, 世界").write_text("UTF-8")
    (top / "relative").symlink_to("many/0/n0")
    (top / "dangling").symlink_to("/nowhere/at all")
    os.link(top / "many" / "1" / "n1", top / "second name")
    (top / "empty").mkdir()
    return top


def facts(top: Path) -> dict[str, tuple[object, ...]]:
    """What lstat(2) says of everything in a tree, and the content of files."""
    found: dict[str, tuple[object, ...]] = {}
    for directory, names, files in os.walk(top):
        for name in (*names, *files):
            path = Path(directory, name)
            status = path.lstat()
            size = None if path.is_dir() else status.st_size
            links = None if path.is_dir() else status.st_nlink
            content = path.read_bytes() if path.is_file() else b""
            key = str(path.relative_to(top))
            found[key] = (
                status.st_mode,
                status.st_uid,
                status.st_gid,
                status.st_mtime_ns,
                size,
                links,
                content,
                path.readlink() if path.is_symlink() else None,
            )
    return found


# ---- whole trees


def test_cp_there_and_back(mount: Live, place: Path, tmp_path: Path) -> None:
    source = grow_tree(tmp_path / "source")
    run("cp", "-a", source, place / "copy")
    run("cp", "-a", place / "copy", tmp_path / "back")
    expected = facts(source)
    assert facts(tmp_path / "back") == expected
    assert facts(on_server(mount, place) / "copy") == expected
    run("diff", "-r", "--no-dereference", source, place / "copy")


def test_tar_creates_and_extracts(place: Path, tmp_path: Path) -> None:
    source = grow_tree(tmp_path / "source")
    # The format that keeps nanoseconds.
    run("tar", "-C", source, "--format=pax", "-cf", place / "made-there.tar", ".")
    (place / "out").mkdir()
    run("tar", "-C", place / "out", "-xpf", place / "made-there.tar")
    run("tar", "-C", place / "out", "-df", place / "made-there.tar")
    assert facts(place / "out") == facts(source)
    run("tar", "-C", place / "out", "-cf", tmp_path / "back.tar", ".")
    run("tar", "-C", source, "-df", tmp_path / "back.tar")


def test_find_and_du_see_the_tree(place: Path, tmp_path: Path) -> None:
    source = grow_tree(tmp_path / "source")
    run("cp", "-a", source, place / "copy")
    for arguments in (
        ("-type", "f", "-size", "+4k"),
        ("-perm", "-020"),
        ("-newermt", "2001-09-09 03:00", "-links", "+1"),
        ("-type", "l", "-printf", "%f %l\n"),
    ):
        there = run("find", ".", *arguments, cwd=place / "copy")
        assert sorted(there.split("\n")) == sorted(
            run("find", ".", *arguments, cwd=source).split("\n")
        )
    files = sum(path.lstat().st_size for path in source.rglob("*") if not path.is_dir())
    linked = (source / "second name").stat().st_size
    du = run("du", "-sb", "--exclude=.", place / "copy")
    directories = sum(path.lstat().st_size for path in (place / "copy").rglob("*") if path.is_dir())
    directories += (place / "copy").stat().st_size
    assert int(du.split()[0]) == files - linked + directories


def test_git_works_there(place: Path, tmp_path: Path) -> None:
    tool("git")
    environment = os.environ | {
        "HOME": str(tmp_path),
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_NAME": "Somebody" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_EMAIL": "somebody@example.org" for who in ("AUTHOR", "COMMITTER")},
    }

    def git(where: Path, *words: object) -> str:
        return run("git", *words, cwd=where, env=environment)

    origin = grow_tree(tmp_path / "origin")
    git(origin, "init", "-q", "-b", "trunk")
    for number in range(3):
        (origin / "many" / f"commit{number}").write_text("x" * number)
        git(origin, "add", "-A")
        git(origin, "commit", "-q", "-m", f"number {number}")
    git(tmp_path, "clone", "-q", "--no-local", origin, place / "clone")
    clone = place / "clone"
    git(clone, "fsck", "--full", "--strict")
    assert git(clone, "status", "--porcelain") == ""
    git(clone, "checkout", "-q", "-b", "work")
    (clone / "second name").write_text("changed there")
    (clone / "new").write_bytes(bytes(200_000))
    (clone / "dangling").unlink()
    assert len(git(clone, "status", "--porcelain").splitlines()) == 3
    git(clone, "add", "-A")
    git(clone, "commit", "-q", "-m", "there")
    git(clone, "gc", "-q")
    git(clone, "fsck", "--full", "--strict")
    assert git(clone, "status", "--porcelain") == ""
    git(clone, "push", "-q", "origin", "work")
    assert git(origin, "rev-parse", "work") == git(clone, "rev-parse", "HEAD")


# ---- data bases and checked data


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_sqlite(place: Path, journal: str) -> None:
    sqlite = tool("sqlite3")
    script = [f"PRAGMA journal_mode={journal};", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT);"]
    for start in range(0, 4000, 1000):
        script.append("BEGIN;")
        script += [f"INSERT INTO t VALUES ({n}, 'value {n}');" for n in range(start, start + 1000)]
        script.append("COMMIT;")
    script += [
        "CREATE INDEX i ON t (v);",
        "BEGIN; DELETE FROM t WHERE id % 3 = 0; ROLLBACK;",
        "DELETE FROM t WHERE id % 4 = 0;",
        "PRAGMA integrity_check;",
        "SELECT count(*), sum(id) FROM t;",
    ]
    (place / "script").write_text("\n".join(script))
    with (place / "script").open() as lines:
        said = subprocess.run(
            [sqlite, "-bail", place / "db"],
            stdin=lines,
            capture_output=True,
            text=True,
            timeout=patience(40),
            check=True,
        ).stdout.split("\n")
    kept = [n for n in range(4000) if n % 4]
    assert said[0] == journal
    assert said[1:3] == ["ok", f"{len(kept)}|{sum(kept)}"]


COUNTING = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
for _ in range(25):
    db.execute("BEGIN IMMEDIATE")
    (n,) = db.execute("SELECT n FROM counter").fetchone()
    db.execute("UPDATE counter SET n = ?", (n + 1,))
    db.execute("COMMIT")
"""


def test_two_processes_lock_a_data_base(place: Path) -> None:
    path = place / "db"
    db = sqlite3.connect(path)
    with db:
        db.execute("CREATE TABLE counter (n INTEGER)")
        db.execute("INSERT INTO counter VALUES (0)")
    all_succeed(*[(sys.executable, "-c", COUNTING, path)] * 2)
    assert db.execute("SELECT n FROM counter").fetchone() == (50,)
    db.close()


@pytest.mark.parametrize("direct", [0, 1])
@pytest.mark.parametrize("how", ["randwrite", "randrw"])
def test_fio_verifies(place: Path, how: str, direct: int) -> None:
    said = run(
        tool("fio"),
        f"--directory={place}",
        "--name=check",
        f"--rw={how}",
        f"--direct={direct}",
        "--size=8M",
        "--numjobs=2",
        "--bsrange=4k-256k",
        "--ioengine=psync",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--fsync=64",
        "--end_fsync=1",
        "--randseed=5",
        "--output-format=json",
        cwd=place,
    )
    jobs = json.loads(said[said.index("{") :])["jobs"]
    assert [job["error"] for job in jobs] == [0, 0]
    # Verifying has read everything that was written, and that was what was asked for.
    written = sum(job["write"]["io_bytes"] for job in jobs)
    assert written >= (16 << 20 if how == "randwrite" else 4 << 20)
    assert sum(job["read"]["io_bytes"] for job in jobs) >= written
