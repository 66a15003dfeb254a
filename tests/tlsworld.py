"""Who signs for the daemons of these tests, and what a connection with two certificates is."""

from __future__ import annotations

from umktls.certs.pki import Authority

AUTHORITY = Authority.create()
MTLS = {"security": "mtls"}
