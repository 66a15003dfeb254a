"""`python -m tests.mutants [PATH...]`: damage the code in one place at a time, and run the tests.

PATHs are files or folders of the project; without any, all that security and data hang on. A mutant
that was caught is not played again while its place looks the same (`--fresh`: it is), and which
test reaches which line is not measured again while no file has changed. Exits with 1 if a mutant
lives that `accepted.toml` does not know.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.mutants.choose import Mutant, mutants_of
from tests.mutants.play import CAUGHT, LIVED, UNREACHED, UNSOUND, Copy
from tests.mutants.reach import Reach, measure
from tests.mutants.worker import Job, Worker, played

TOP = Path(__file__).parents[2]
KEPT = TOP / "bench-results" / "mutants"
FOLDERS = (
    "umktls/rpc",
    "umktls/upcall",
    "umktls/ktls",
    "umktls/kernel",
    "umktls/nfsd",
    "daemons",
    "fs",
)
ACCEPTED = Path(__file__).with_name("accepted.toml")


def main() -> int:
    options = parsed()
    mutants = sampled(chosen(options.paths or FOLDERS), options.sample)
    if options.list:
        for mutant in mutants:
            print(f"{mutant.kind:9} {mutant.path}:{mutant.line} {mutant.name}")
        return 0
    if options.fresh:
        (KEPT / "results").unlink(missing_ok=True)
    copies = [Copy(TOP, KEPT / f"copy{number}") for number in range(options.workers)]
    reach = measure(copies[0].top, KEPT, options.tests, options.workers)
    known = dict(results())
    left = [one for one in mutants if known.get(one.name) != CAUGHT]
    print(f"{len(mutants)} mutants, {len(left)} to be played", flush=True)
    play(left, reach, copies, options.tests)
    known = dict(results())
    report(mutants, known)
    reasons = accepted()
    unknown = [one for one in mutants if known.get(one.name) != CAUGHT and one.name not in reasons]
    for mutant in unknown:
        print(f"{known.get(mutant.name)}: {mutant.path}:{mutant.line} {mutant.name}")
    for name in reasons.keys() - {one.name for one in chosen(FOLDERS)}:
        print(f"not there any more, but in {ACCEPTED.name}: {name}")
    return 1 if unknown else 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("paths", nargs="*")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--tests", nargs="*", default=["tests"], help="those to choose from")
    parser.add_argument(
        "--sample", type=int, help="of each folder at most so many, always the same"
    )
    parser.add_argument("--fresh", action="store_true", help="play again what was caught before")
    parser.add_argument("--list", action="store_true", help="only say which there are")
    return parser.parse_args()


def chosen(paths: Iterable[str]) -> Iterator[Mutant]:
    for path in paths:
        for file in sorted((TOP / path).rglob("*.py")) if (TOP / path).is_dir() else [TOP / path]:
            yield from mutants_of(str(file.relative_to(TOP)), file.read_text())


def sampled(mutants: Iterable[Mutant], most: int | None) -> list[Mutant]:
    """At most so many of each folder."""
    rows: dict[str, list[Mutant]] = {}
    for mutant in mutants:
        rows.setdefault(folder_of(mutant), []).append(mutant)
    if most is not None:
        for row, found in rows.items():
            rows[row] = random.Random(row).sample(found, min(most, len(found)))
    return [mutant for found in rows.values() for mutant in found]


def folder_of(mutant: Mutant) -> str:
    return mutant.path.rpartition("/")[0]


def play(mutants: list[Mutant], reach: Reach, copies: list[Copy], tests: list[str]) -> None:
    """Play them all, a process for each copy, and keep what was found."""
    KEPT.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(copy, tests, reach.seconds, KEPT / f"{copy.top.name}.log"))
            for copy in copies
        ]
        file = stack.enter_context((KEPT / "results").open("a"))
        for mutant, found in played(workers, (job(mutant, reach) for mutant in mutants)):
            hidden = found == LIVED and mutant.lines and not reach.of(mutant.path, mutant.lines)
            verdict = UNREACHED if hidden else found
            print(json.dumps([mutant.name, verdict]), file=file, flush=True)
            if verdict != CAUGHT:
                print(f"{verdict}: {mutant.path}:{mutant.line} {mutant.name}", flush=True)


def job(mutant: Mutant, reach: Reach) -> Job:
    """A place that no test reaches may be noticed all the same, by what a test reads of it; and one
    that is run by import by what import has made of it."""
    anew = reach.by_import(mutant.path, mutant.lines)
    tests = reach.of(mutant.path, mutant.lines)
    if anew or not tests:
        tests |= reach.near(mutant.path)
    return Job(mutant, reach.in_turn(mutant.path, tests), anew)


def results() -> Iterator[tuple[str, str]]:
    path = KEPT / "results"
    if path.exists():
        for line in path.read_text().splitlines():
            name, verdict = json.loads(line)
            yield name, verdict


def accepted() -> dict[str, str]:
    """The reason of each mutant that may live, by its name."""
    found = tomllib.loads(ACCEPTED.read_text()) if ACCEPTED.exists() else {}
    return {name: reason for reason, names in found.items() for name in names}


def report(mutants: list[Mutant], known: dict[str, str]) -> None:
    """A table: a row a folder, and one for all."""
    rows: dict[str, Counter[str]] = {}
    reasons = accepted()
    for mutant in mutants:
        verdict = known.get(mutant.name, "not played")
        for row in (folder_of(mutant), "all"):
            counts = rows.setdefault(row, Counter())
            counts["mutants"] += 1
            counts["accepted" if verdict != CAUGHT and mutant.name in reasons else verdict] += 1
    columns = ("mutants", CAUGHT, "accepted", LIVED, UNREACHED, UNSOUND, "not played")
    print("".join(f"{column:>12}" for column in ("", *columns)))
    for row, counts in sorted(rows.items(), key=lambda one: (one[0] == "all", one[0])):
        print(f"{row:>20}" + "".join(f"{counts[column]:>12}" for column in columns))


if __name__ == "__main__":
    sys.exit(main())
