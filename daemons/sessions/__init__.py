"""A session of a daemon: its handshake, what becomes of it afterwards, how it is left and adopted.

Begin with handshake.py, then established.py; ways.py is how its records come and go. It may touch
tls.
"""
