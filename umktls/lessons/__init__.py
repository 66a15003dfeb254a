"""`umktls lesson`: things that are better seen than read about, each shown live on this machine.

A lesson is data (lesson.py): texts, and for each step a function that does it and tells what was
seen. Begin with sequence.py, which needs two sockets and no more; player.py plays any of them to an
audience: a terminal or a reader of JSON (umktls/cli/lesson_player.py), or a page
(umktls/watch/lessons.py). stage.py has what most of them work with, two KTLS sockets; table.py
lists them. A lesson uses everything below the programs, and knows neither a terminal nor a browser.
"""
