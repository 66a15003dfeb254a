"""Mutants: is there a test for each line that security and data hang on?

`make mutants` damages the code in one place at a time, as somebody might by mistake, and runs the
tests that reach that place. A mutant that lives is a hole in the tests, or makes no difference.

The first run measures which test reaches which line: all tests but the long ones, twenty minutes or
so on two cores. Then each mutant is played against the tests that are likeliest to notice it, about
half a minute of them, the quick ones first. The tests are collected once for this, and the damage
is put into the functions in memory; where it is in code that is run by import, all is imported
anew. Say which mutants (`make mutants ARGS="umktls/rpc daemons/sessions/handshake.py"`), or have a
sample (`ARGS="--sample 30"`: of each folder so many, always the same). `ARGS=--list` says which
there are. What was found is in bench-results/mutants; stopped and started again it goes on.

| it says | which means |
|---|---|
| caught | a test fails, fails again, and passes without the damage (one that hangs has failed) |
| lived | the likeliest tests pass: write one that fails, or tell in `accepted.toml` why not |
| unreached | the same, and no test comes by: what refuses has refused nobody yet |
| unsound | the tests fail without the damage too; on a busy machine, try again |

| file | what it does |
|---|---|
| `choose.py` | finds the places: refusals, limits, deadlines, clean-ups |
| `reach.py` | one run of the tests that notes which test reaches which line |
| `worker.py` | a process that has collected the tests, and what a run is: in memory, or anew |
| `swap.py` | a damage in memory: which functions get which code, or that it cannot be done so |
| `play.py` | one mutant in a copy of the project: do the tests notice, is nothing left of them? |
| `__main__.py` | all of them, the results, the table |
| `accepted.toml` | the mutants that may live, each with the reason |

mutmut and cosmic-ray were read about, not run: both mutate everything (names, texts, numbers), and
neither takes a refusal or a clean-up away as a whole.
"""
