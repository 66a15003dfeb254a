"""The other side of a handshake daemon, played to try the daemon: `umktls run-daemon`.

Begin with table.py, where scenarios are listed, and bench.py, on which they are played;
handshakes.py, sessions.py, updates.py and troubles.py are their scripts. The peer is Python's `ssl`
(tlspeer.py), so that no daemon is judged by its own library's habits.
"""
