"""The other side of a handshake daemon, played to try the daemon: `umktls run-daemon`."""
