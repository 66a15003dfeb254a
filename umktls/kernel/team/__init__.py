"""Several processes that are one host to clients and to `umktls stat`.

Begin with team.py, then worker.py and lives.py (one worker, and how it is kept); sharedreplies.py
is the duplicate request cache that they share.
"""
