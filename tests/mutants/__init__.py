"""Mutants: is there a test for each line that security and data hang on?

`make mutants` damages the code in one place at a time, as somebody might by mistake, and runs the
tests that reach that place. A mutant that lives is a hole in the tests, or makes no difference.

| file | what it does |
|---|---|
| `choose.py` | finds the places: refusals, limits, deadlines, clean-ups |
| `reach.py` | one run of the tests that notes which test reaches which line |
| `play.py` | one mutant in a copy of the project, and the tests that reach it |
| `__main__.py` | all of them, the results, the table |
| `accepted.toml` | the mutants that may live, each with the reason |

mutmut and cosmic-ray were tried on paper first: both mutate everything (names, texts, numbers),
neither takes a refusal or a clean-up away as a whole, and neither finds the tests of code that runs
in several processes, or is installed under another name than its folder has.
"""
