"""What every room of the kernel stands on: the trace and its events, turns, deadlines and budgets,
who a peer is, what the world may refuse.

Begin with events.py. It touches no other room.
"""
