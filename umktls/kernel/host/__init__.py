"""A host: its state, its doors, the daemons that it starts, the system calls that it answers.

Begin with boot.py, which brings everything up in order; state.py and host.py are what others are
given. It may touch all rooms but krpc and team.
"""
