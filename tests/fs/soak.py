"""Two clients and a local writer (twoclients.py) with one program after another, many tasks at the
same time (manytasks.py), and two hosts whose daemons and wire do anything
(tests/kernel/upcalls/disorder.py), for so many seconds from a seed on.

A program that sees what it may not is made as short as it can be, and told. Of many tasks and of
hosts their seed is told: they do the same again with it."""

from __future__ import annotations

import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from tests.fs import manytasks
from tests.fs.twoclients import FILES, LOCAL, MOST_BYTES, WHATS, Step, play
from tests.kernel.upcalls import disorder

T = TypeVar("T")


def some_program(seed: int) -> list[Step]:
    """The programs of a seed are always the same."""
    chance = random.Random(seed)
    files = FILES[: chance.choice((2, 4, 8))]

    def one() -> Step:
        number = chance.choice((chance.randint(1, MOST_BYTES), chance.randint(1, 9)))
        who, names = chance.randint(0, LOCAL), chance.choices(files, k=2)
        return Step(chance.choice(WHATS), who, names[0], names[1], number)

    return [one() for _ in range(chance.choice((40, 80, 120)))]


def failure_of(play: Callable[[Path, T], None], what: T) -> Exception | None:
    with tempfile.TemporaryDirectory() as top:
        try:
            play(Path(top), what)
        except Exception as error:
            return error
    return None


def failure(program: Sequence[Step]) -> Exception | None:
    return failure_of(play, program)


def shortened(program: list[Step]) -> list[Step]:
    """One that fails too, and of which no step can be left out."""
    place = len(program)
    while place:
        place -= 1
        without = program[:place] + program[place + 1 :]
        if failure(without) is not None:
            program, place = without, len(without)
    return program


def main(seconds: float, seed: int) -> int:
    """Try the programs and tasks of all seeds from this one on. Returns an exit code."""
    end, first = time.monotonic() + seconds, seed
    while time.monotonic() < end:
        program = some_program(seed)
        if failure(program) is not None:
            program = shortened(program)
            print(f"seed {seed}: {failure(program)!r}", *program, sep="\n  ")
            return 1
        for what, game in (("many tasks", manytasks.play), ("two hosts", disorder.play)):
            error = failure_of(game, seed)
            if error is not None:
                traceback.print_exception(error)
                print(f"seed {seed}, {what}; again: make soak SECONDS=1 SEED={seed}")
                return 1
        seed += 1
    print(f"seeds {first} to {seed - 1}: nobody saw what is not allowed")
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), int(sys.argv[2])))
