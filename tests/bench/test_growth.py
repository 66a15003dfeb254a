"""Series, their pictures, and the tree that is measured; what it comes to is not tested here."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from tests.archives import unpack
from tests.bench.figures import Median
from tests.bench.growth import Series, draw
from tests.bench.trees import DIRECTORIES, FILES, archive, plant, tree


def series() -> Series:
    values = {1000: Median([10.0, 10.0]), 10_000: Median([15.0, 15.0])}
    return Series("create, each", "names", "us", values)


def test_each_stands_beside_the_first() -> None:
    first, second = series().figures()
    assert (first.name, first.ratio) == ("create, each, 1,000 names", 1.0)
    assert (second.name, second.ratio, second.baseline) == (
        "create, each, 10,000 names",
        1.5,
        "1,000",
    )


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "new" / "growth.png"
    draw(path, [series(), series()])
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_tree_is_the_same_each_time_and_in_each_way(tmp_path: Path) -> None:
    planted = dict(tree())
    assert planted == dict(tree())
    assert sum(content is not None for content in planted.values()) == FILES
    assert len(planted) == FILES + DIRECTORIES + 1
    plant(tmp_path / "planted")
    with tarfile.open(fileobj=io.BytesIO(archive())) as packed:
        unpack(packed, tmp_path / "unpacked")
    for name, content in planted.items():
        for top in ("planted", "unpacked"):
            path = tmp_path / top / name
            assert path.is_dir() if content is None else path.read_bytes() == content
