"""What tests of a daemon's side share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.daemons.fakekernel import FakeKernel
from umktls.userland.libc import Kernel


@pytest.fixture
def kernel(fake: FakeKernel) -> Iterator[Kernel]:
    kernel = Kernel(fake.rundir)
    yield kernel
    kernel.close()
