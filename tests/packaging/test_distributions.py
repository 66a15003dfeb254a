"""The source distribution has everything, the wheel what people look for, and both install."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.archives import unpack

TOP = Path(__file__).parents[2]
BUILD = "from setuptools.build_meta import build_{kind} as build; build({out!r})"
# What the build itself adds.
METADATA = {"PKG-INFO", "setup.cfg"}


def run(command: list[str], where: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=where,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def build(kind: str, where: Path, out: Path, **environment: str) -> Path:
    program = BUILD.format(kind=kind, out=str(out))
    done = run([sys.executable, "-c", program], where, **environment)
    assert done.returncode == 0, done.stderr
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def files() -> list[str]:
    """What the repository has."""
    if not (TOP / ".git").exists():
        pytest.skip("not a clone: nothing says which files there should be")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.splitlines() if (TOP / name).exists()]


@pytest.fixture(scope="module")
def sdist(files: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the clone stays as it is."""
    copy = tmp_path_factory.mktemp("clone")
    for name in files:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(TOP / name, copy / name)
    return build("sdist", copy, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def tree(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("tree")
    with tarfile.open(sdist) as archive:
        unpack(archive, where)
    (top,) = where.iterdir()
    return top


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From the source distribution, as pip does it."""
    return build("wheel", tree, tmp_path_factory.mktemp("wheel"))


def test_the_source_distribution_has_all_files(sdist: Path, files: list[str]) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if "/" in name}
        inside = {name for name in names if (TOP / name).is_file() or name in METADATA}
    assert set(files) - names == set()
    assert {name for name in inside if ".egg-info" not in name} - METADATA == set(files)


def test_the_wheel_has_what_people_look_for(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    data = {name.split(".data/data/")[1] for name in names if ".data/data/" in name}
    expected = {f"share/man/man{path.suffix[1]}/{path.name}" for path in man_pages()}
    expected |= {
        "share/doc/umktls/CHANGELOG.md",
        "share/doc/umktls/wire.md",
        "share/doc/umktls/demo.html",
        "share/doc/umktls/watch.png",
        "share/doc/umktls/examples/mydaemon.py",
        "share/doc/umktls/systemd/umktls-serve@.service",
        "share/bash-completion/completions/umktls",
        "share/zsh/site-functions/_umktls",
        "share/fish/vendor_completions.d/umktls.fish",
    }
    assert expected <= data
    assert {"umktls/py.typed", "umktls/cli/system_packages.txt", "umktls_fs/mount.py"} <= names
    assert not {name for name in names if name.startswith(("tests/", "fs/", "daemons/"))}


def man_pages() -> list[Path]:
    return list((TOP / "docs" / "man").iterdir())


def test_every_package_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for top, name in (("umktls", "umktls"), ("fs", "umktls_fs"), ("daemons", "umktls_daemons")):
        for path in (TOP / top).rglob("*.py"):
            assert f"{name}/{path.relative_to(TOP / top)}" in names


def test_what_was_installed_works_elsewhere(wheel: Path, tmp_path: Path) -> None:
    """The wheel alone, in front of everything else; its dependencies are this environment's."""
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    done = run([*pip, "--target", str(target), str(wheel)], tmp_path)
    assert done.returncode == 0, done.stderr
    there = {"PYTHONPATH": str(target)}
    program = "import umktls, umktls_fs, umktls_daemons as d; print(umktls.__file__, d.__file__)"
    said = run([sys.executable, "-c", program], tmp_path, **there).stdout.split()
    assert all(Path(path).is_relative_to(target) for path in said)
    umktls = [sys.executable, "-c", "from umktls.cli.main import main; main()"]
    done = run([*umktls, "doctor", "--json"], tmp_path, **there)
    assert '"schema": 1' in done.stdout, done.stderr
    example = target / "share" / "doc" / "umktls" / "examples" / "mydaemon.py"
    assert example.read_text() == (TOP / "docs" / "examples" / "mydaemon.py").read_text()


@pytest.fixture
def without_pyfuse3(tmp_path: Path) -> dict[str, str]:
    """An environment in which neither pyfuse3 nor libfuse3's headers are found."""
    bin, site = tmp_path / "bin", tmp_path / "site"
    bin.mkdir()
    site.mkdir()
    (bin / "pkg-config").write_text("#!/bin/sh\nexit 1\n")
    (bin / "pkg-config").chmod(0o755)
    (site / "sitecustomize.py").write_text(
        "import sysconfig\nsysconfig.get_path = lambda name, *more: '/no/such/place'\n"
    )
    return {"PATH": f"{bin}:{os.environ['PATH']}", "PYTHONPATH": str(site)}


METADATA_OF = "from setuptools.build_meta import prepare_metadata_for_build_wheel as p; p({!r})"


def test_missing_headers_are_named_before_pyfuse3_is_tried(
    tree: Path, tmp_path: Path, without_pyfuse3: dict[str, str]
) -> None:
    """pip asks for the metadata first, and shows what is said when that fails."""
    out = tmp_path / "out"
    out.mkdir()
    ask = [sys.executable, "-c", METADATA_OF.format(str(out))]
    done = run(ask, tree, **without_pyfuse3)
    assert done.returncode != 0
    assert "umktls needs pyfuse3" in done.stderr
    assert any(name in done.stderr for name in ("libfuse3-dev", "fuse3-devel", "fuse3-dev"))
    done = run(ask, tree, **without_pyfuse3, UMKTLS_BUILD_ANYWAY="1")
    assert done.returncode == 0, done.stderr


def test_a_source_distribution_is_made_without_them(
    tree: Path, tmp_path: Path, without_pyfuse3: dict[str, str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tree, copy)
    out = tmp_path / "out"
    out.mkdir()
    assert build("sdist", copy, out, **without_pyfuse3).name.endswith(".tar.gz")
