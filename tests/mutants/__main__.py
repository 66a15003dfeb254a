"""`python -m tests.mutants [PATH...]`: damage the code in one place at a time, and run the tests.

PATHs are files or folders of the project; without any, all that security and data hang on. What was
found is kept, a line of JSON each, and not asked again until the place or the tests change
(`--fresh`: now). Exits with 1 if a mutant lives that `accepted.toml` does not know.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.mutants.choose import Mutant, mutants_of
from tests.mutants.play import CAUGHT, LIVED, UNREACHED, UNSOUND, Copy, passes, play
from tests.mutants.reach import Reach, measure

TOP = Path(__file__).parents[2]
KEPT = TOP / "bench-results" / "mutants"
FOLDERS: tuple[str, ...] = (
    "umktls/rpc",
    "umktls/upcall",
    "umktls/ktls",
    "umktls/kernel",
    "umktls/nfsd",
)
FOLDERS += ("daemons", "fs")
ACCEPTED = Path(__file__).with_name("accepted.toml")
# What every child imports, once for all of them.
PRELOADED = ("trio.testing", "hypothesis", "cryptography.x509", "pyfuse3", "OpenSSL.SSL", "rich")


def main() -> int:
    options = parsed()
    mutants = list(chosen(options.paths or list(FOLDERS)))
    if options.list:
        for mutant in mutants:
            print(f"{mutant.kind:9} {mutant.path}:{mutant.line} {mutant.name}")
        return 0
    if options.fresh:
        (KEPT / "results").unlink(missing_ok=True)
    reach = measure(TOP, KEPT, options.tests)
    known = dict(results())
    left = [one for one in mutants if one.name not in known]
    print(f"{len(mutants)} mutants, {len(left)} to be played", flush=True)
    played(left, reach, options.workers)
    known = dict(results())
    report(mutants, known)
    unknown = [
        one for one in mutants if known.get(one.name) != CAUGHT and one.name not in accepted()
    ]
    for mutant in unknown:
        print(f"{known.get(mutant.name)}: {mutant.path}:{mutant.line} {mutant.name}")
    return 1 if unknown else 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("paths", nargs="*")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--tests", nargs="*", default=["tests"], help="for the map of the tests")
    parser.add_argument("--fresh", action="store_true", help="ask again what was asked before")
    parser.add_argument("--list", action="store_true", help="only say which there are")
    return parser.parse_args()


def chosen(paths: Iterable[str]) -> Iterator[Mutant]:
    for path in paths:
        for file in sorted((TOP / path).rglob("*.py")) if (TOP / path).is_dir() else [TOP / path]:
            yield from mutants_of(str(file.relative_to(TOP)), file.read_text())


def played(mutants: list[Mutant], reach: Reach, workers: int) -> None:
    """Play them all, in so many processes, and keep what was found."""
    for name in PRELOADED:
        importlib.import_module(name)
    context = multiprocessing.get_context("fork")
    parts = [mutants[number::workers] for number in range(workers)]
    processes = [
        context.Process(target=work, args=(number, part, reach))
        for number, part in enumerate(parts)
        if part
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def work(number: int, mutants: list[Mutant], reach: Reach) -> None:
    copy = Copy(TOP, KEPT / f"copy{number}")
    sound: dict[tuple[str, ...], bool] = {}
    for mutant in mutants:
        tests = reach.quickest(mutant.path, mutant.lines)
        key = tuple(tests)
        if key not in sound:
            sound[key] = not tests or passes(copy.top, tests)
        verdict = play(copy, mutant, tests) if sound[key] else UNSOUND
        with (KEPT / "results").open("a") as file:
            print(json.dumps([mutant.name, verdict]), file=file)
        if verdict != CAUGHT:
            print(f"{verdict}: {mutant.path}:{mutant.line} {mutant.name}", flush=True)


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
        for row in (mutant.path.rpartition("/")[0], "all"):
            counts = rows.setdefault(row, Counter())
            counts["mutants"] += 1
            counts["accepted" if verdict != CAUGHT and mutant.name in reasons else verdict] += 1
    columns = ("mutants", CAUGHT, "accepted", LIVED, UNREACHED, UNSOUND, "not played")
    print("".join(f"{column:>12}" for column in ("", *columns)))
    for row, counts in sorted(rows.items(), key=lambda one: (one[0] == "all", one[0])):
        print(f"{row:>20}" + "".join(f"{counts[column]:>12}" for column in columns))


if __name__ == "__main__":
    sys.exit(main())
