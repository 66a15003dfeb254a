"""`umktls`, of this source tree."""

from umktls.cli.main import main

main(prog_name="umktls")
