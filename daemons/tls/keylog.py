"""The key log file that Wireshark reads (SSLKEYLOGFILE), written only when asked for."""

from __future__ import annotations

import os
from pathlib import Path

from umktls.errors import CallerError
from umktls.private import open_file

from .identity import ConfigurationError

__all__ = ["KeyLogFile", "is_known"]

# The labels that the format knows; keys after a KeyUpdate follow from them.
LABELS = {
    b"CLIENT_RANDOM",  # of TLS 1.2
    b"CLIENT_HANDSHAKE_TRAFFIC_SECRET",
    b"SERVER_HANDSHAKE_TRAFFIC_SECRET",
    b"CLIENT_TRAFFIC_SECRET_0",
    b"SERVER_TRAFFIC_SECRET_0",
    b"EXPORTER_SECRET",
}


def is_known(line: bytes) -> bool:
    """Whether the format has such a line."""
    return line.split(b" ", 1)[0] in LABELS


class KeyLogFile:
    """Appends to `path`, mode 0600, also where it is there already. Raises `ConfigurationError`
    when it cannot be opened, or when others could read or exchange it."""

    def __init__(self, path: Path) -> None:
        try:
            self._fd = open_file(path, os.O_WRONLY | os.O_APPEND, "key log")
            os.fchmod(self._fd, 0o600)
        except CallerError as error:
            raise ConfigurationError(str(error), error.errno) from error
        except OSError as error:
            raise ConfigurationError(f"key log {path}: {error.strerror}", error.errno) from error

    def __call__(self, line: bytes) -> None:
        """One line of the key log, without its end; other labels than the format's are left out.

        One write per line: several processes may append to one file.
        """
        if is_known(line):
            os.write(self._fd, line + b"\n")

    def close(self) -> None:
        os.close(self._fd)
