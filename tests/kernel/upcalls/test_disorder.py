"""Two hosts whose daemons and wire do anything (disorder.py): the same seeds in each run.

`make soak` tries others for as long as one likes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernel.upcalls.disorder import play


@pytest.mark.parametrize("seed", [1, 9, 11, 14, 56])
def test_each_call_has_its_answer_and_nothing_is_left(umktls_rundir: Path, seed: int) -> None:
    play(umktls_rundir, seed)
