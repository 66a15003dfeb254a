"""Captures of a host, for Wireshark: what passes its sockets, and what it does meanwhile.

`sinks` has where the blocks go (a file, by a thread; or memory), `line` one connection as its TCP
saw it, `tapped` the sockets whose bytes are seen, `capture` all of a host's. Touches files and
sockets. Begin with capture.py.
"""
