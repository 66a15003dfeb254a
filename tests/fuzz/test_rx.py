"""The fuzz target without its fuzzer: any bytes from hypothesis, and inputs once found."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.rx import one_input


@settings(max_examples=200)
@given(st.binary(max_size=400))
def test_any_input(data: bytes) -> None:
    one_input(data)


@pytest.mark.parametrize("seed", range(20))
def test_long_inputs(seed: int) -> None:
    one_input(random.Random(seed).randbytes(3000))
