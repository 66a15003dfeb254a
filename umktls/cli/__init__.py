"""The command `umktls`: one module per command.

Begin with main.py, which finds a command's module and imports it when it is called. What a command
does is in a module of its own behind it (demo_run.py, probe_run.py, serving.py), so that help and
mistakes in typing cost no import of the kernel. control.py finds hosts that run and asks them.
"""
