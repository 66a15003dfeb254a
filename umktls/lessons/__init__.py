"""`umktls lesson`: things that are better seen than read about, each shown live on this machine.

A lesson is data (lesson.py): texts, and for each step a function that does it and tells what was
seen. Begin with sequence.py, the shortest; player.py plays any of them to an audience, which is the
terminal's (umktls/cli/lesson_player.py) or whoever reads JSON. stage.py has what most of them
work with, two KTLS sockets; table.py lists them. A lesson uses everything below the programs, and
knows neither a terminal nor a browser.
"""
