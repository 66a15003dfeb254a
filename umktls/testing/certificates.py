"""Certificate directories for tests, each part made to measure."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

from umktls.certs.layout import LOCAL_HOSTS, write_file
from umktls.certs.pki import CLIENT_USAGE, Authority, Credential, Leaf

__all__ = ["CLIENT", "EXPIRED", "SERVER", "directory"]

SERVER = Leaf("localhost", LOCAL_HOSTS)
CLIENT = Leaf("umktls client", usage=CLIENT_USAGE)
EXPIRED = {
    "starts": datetime.timedelta(days=-9),
    "lasts": datetime.timedelta(days=1),
}


def expired(leaf: Leaf) -> Leaf:
    """`leaf`, but its time is over."""
    return replace(leaf, starts=EXPIRED["starts"], lasts=EXPIRED["lasts"])


def directory(
    path: Path,
    authority: Authority,
    *,
    trusted: Authority | None = None,
    server: Leaf = SERVER,
    client: Leaf = CLIENT,
    passphrase: bytes | None = None,
) -> Path:
    """A directory as `umktls certs` makes it, signed by `authority`, that trusts `trusted` (the
    same unless given). `passphrase` encrypts the keys."""
    parts: dict[str, Credential] = {
        "server": authority.leaf(server),
        "client": authority.leaf(client),
    }
    for name, credential in parts.items():
        (path / name).mkdir(parents=True)
        (path / name / "cert.pem").write_bytes(credential.certificate_pem())
        write_file(path / name / "certkey.pem", credential.key_pem(passphrase), 0o600)
    (path / "ca.pem").write_bytes((trusted or authority).certificate_pem())
    return path
