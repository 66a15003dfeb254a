"""Many tasks at the same time (manytasks.py): the same seeds in each run.

`make soak` tries others for as long as one likes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fs.manytasks import play


@pytest.mark.parametrize("seed", [1, 70, 278, 419, 526])
def test_each_answer_is_true_and_nothing_is_left(tmp_path: Path, seed: int) -> None:
    play(tmp_path, seed)
