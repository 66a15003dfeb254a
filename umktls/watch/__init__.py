"""What `umktls watch` shows: hosts that run, live in a browser, or recorded in one page.

It talks to hosts by their control sockets alone, as `umktls trace` does. `feed.py` has their events
in one order, with causes (`causes.py`); `dissect.py` and `handshakes.py` take records and messages
apart; `stepping.py` has hosts go step by step; `lessons.py` has lessons as guided tours, played by
processes of their own (`tours.py`); `page.py` makes the page, live or recorded; `app.py` serves it.
What the page does is in `static/`, as ECMAScript modules that browsers take as they are. Begin with
`command.py`.
"""
