"""The files that are served: handles, and what they lead to on this machine.

Begin with handles.py and volume.py; index.py finds files again that were moved, hostcalls.py and
descriptor.py are the machine's own calls. It may touch exports.
"""
