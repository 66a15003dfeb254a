"""Captures that Wireshark reads, as bytes: the blocks of the file, and the packets in it.

`pcapng` is the file format, `packets` makes IP and TCP headers for what passes a socket, `pdus` the
decrypted messages and what a host does, `umktls.lua` shows the last of these in Wireshark. Nothing
here does I/O: `umktls.kernel.captures` collects and writes. Begin with pcapng.py.
"""
