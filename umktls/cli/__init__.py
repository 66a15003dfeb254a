"""The command `umktls`: one module per command."""
