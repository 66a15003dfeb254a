"""Two clients and a local writer at random (twoclients.py): the same programs in each run.

`make soak` tries others for as long as one likes.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fs.twoclients import FILES, LOCAL, MOST_BYTES, WHATS, Step, play

steps = st.builds(
    Step,
    st.sampled_from(WHATS),
    st.integers(0, LOCAL),
    st.sampled_from(FILES),
    st.sampled_from(FILES),
    st.integers(1, MOST_BYTES),
)


@given(st.lists(steps, min_size=40, max_size=80))
@settings(max_examples=50, derandomize=True)
def test_nobody_sees_what_is_not_allowed(
    tmp_path_factory: pytest.TempPathFactory, program: list[Step]
) -> None:
    play(tmp_path_factory.mktemp("two"), program)


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(
            [
                Step("write", 1, "file7", "file7", 9521),
                Step("rename", 1, "file7", "file3", 1),
                Step("write", 1, "file0", "file4", 3214),
                Step("rename", 0, "file3", "file5", 1),
                Step("list", 1, "file1", "file6", 1),
                Step("unlink", 0, "file5", "file3", 1),
                Step("rename", 2, "file0", "file3", 1),
                Step("create", 1, "file3", "file4", 1),
            ],
            id="stale twice",
        ),
        pytest.param(
            [
                Step("write", 0, "file0", "file1", 15949),
                Step("create", 0, "file1", "file0", 1),
                Step("rename", 2, "file1", "file0", 1),
                Step("link", 0, "file0", "file1", 1),
            ],
            id="a link to what is gone",
        ),
        pytest.param(
            [
                Step("write", 0, "file0", "file0", 3),
                Step("hold", 1, "file0", "file1", 1),
                Step("create", 1, "file1", "file0", 1),
                Step("unlink", 2, "file0", "file0", 1),
                Step("rename", 1, "file1", "file0", 1),
            ],
            id="open here and removed elsewhere",
        ),
        pytest.param(
            [
                Step("write", 2, "file0", "file1", 3915),
                Step("stat_all", 1, "file0", "file0", 8),
                Step("unlink", 0, "file0", "file1", 7),
                Step("write", 1, "file0", "file1", 9),
                Step("create", 2, "file0", "file0", 3472),
                Step("read", 1, "file0", "file0", 9),
                Step("append", 1, "file0", "file0", 17191),
            ],
            id="made behind a stale one",
        ),
        pytest.param(
            [
                Step("write", 1, "file0", "file1", 3),
                Step("hold", 1, "file0", "file1", 7),
                Step("rename", 0, "file0", "file1", 2681),
                Step("link", 1, "file1", "file0", 5089),
                Step("read_behind_a_change", 1, "file0", "file0", 17417),
                Step("create_exclusively", 1, "file0", "file1", 6600),
                Step("create", 2, "file1", "file1", 4),
                Step("read_held", 1, "file0", "file1", 3),
                Step("stat_all", 1, "file1", "file1", 7443),
            ],
            id="read past an end that came nearer",
        ),
    ],
)
def test_what_was_found_like_that(tmp_path: Path, program: list[Step]) -> None:
    play(tmp_path, program)
