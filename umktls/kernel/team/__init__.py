"""Several processes that are one host to clients and to `umktls stat`.

Begin with team.py; sharedreplies.py is the duplicate request cache that they share.
"""
