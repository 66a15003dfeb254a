"""Ports that IANA has registered."""

from __future__ import annotations

NFS_PORT = 2049
