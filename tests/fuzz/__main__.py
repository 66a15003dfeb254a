"""`python -m tests.fuzz [libFuzzer's arguments] [corpus directory]`: fuzz the receiving path.

It needs atheris, which is not among the project's dependencies (`pip install atheris`).
"""

from __future__ import annotations

import importlib
import sys

atheris = importlib.import_module("atheris")

with atheris.instrument_imports(include=["umktls"]):
    target = importlib.import_module("tests.fuzz.rx")

atheris.Setup(sys.argv, target.one_input)
atheris.Fuzz()
