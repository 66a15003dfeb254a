"""A host: its state, its doors, the daemons that it starts, the system calls that it answers.

Begin with host.py, which brings everything up in order. It may touch all rooms but krpc and team.
"""
