"""Where a daemon's log goes: stderr, or syslog(3)."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from umktls.printable import PrintableFormatter

from ..tls.identity import ConfigurationError

__all__ = ["SYSLOG_SOCKET", "set_up_logging"]

SYSLOG_SOCKET = Path("/dev/log")


def set_up_logging(name: str, level: int, syslog: Path | None) -> None:
    """Log under the daemon's name: to the syslog daemon's socket, or to stderr if that is None.

    Raises `ConfigurationError` when no syslog daemon is there.
    """
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    form = f"%(asctime)s {name}[%(process)d]: %(message)s"
    if syslog is not None:
        handler = _syslog_handler(syslog)
        # The syslog daemon has a clock of its own.
        form = f"{name}[%(process)d]: %(message)s"
    handler.setFormatter(PrintableFormatter(form))
    # No line says where in the source it was written, nor by which thread: so that is not looked
    # for (Python's logging HOWTO, "Optimization"). It would be a third of what a line costs.
    logging._srcfile = None
    logging.logThreads = logging.logMultiprocessing = False
    logging.basicConfig(level=level, handlers=[handler], force=True)


def _syslog_handler(path: Path) -> logging.Handler:
    from logging.handlers import SysLogHandler  # which takes pickle along

    # The handler itself would say nothing, and try again with each line.
    if not path.is_socket():
        raise ConfigurationError(
            f"syslog: no syslog daemon listens at {path}; log to stderr with --log stderr"
        )
    handler = SysLogHandler(str(path), SysLogHandler.LOG_DAEMON)
    # Datagrams need no end; some syslog daemons would log the NUL.
    handler.append_nul = False
    return handler
