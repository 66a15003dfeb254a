"""The certificates of both sides, good ones and wrong ones, as files here and as PEM for there."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.realkernel.guest import GUEST, HOST
from umktls.certs import layout
from umktls.certs.layout import Role
from umktls.certs.pki import CLIENT_USAGE, SERVER_USAGE, Authority, Credential, Leaf

__all__ = ["GUEST_NAME", "Pki"]

HOSTS = (HOST, GUEST, "127.0.0.1", "localhost")
"""This machine, as the guest sees it, and the guest, as this machine sees it."""
GUEST_NAME = "guest.example.org"
BEGAN, LASTED = datetime.timedelta(days=-9), datetime.timedelta(days=1)
"""Of the one that has expired."""


class Pki:
    """`files` is for `--certs`, of both sides; the rest is made when it is asked for."""

    def __init__(self, files: Path) -> None:
        self.files = files
        layout.create(files, HOSTS)
        self.authority = Authority.load(
            (files / "ca.pem").read_bytes(), (files / "cakey.pem").read_bytes()
        )
        self.stranger = Authority.create("somebody else's CA")
        usage = (*CLIENT_USAGE, *SERVER_USAGE)
        self.guest = self.authority.leaf(Leaf(GUEST_NAME, (GUEST_NAME, *HOSTS), usage))
        self.expired = self.authority.leaf(Leaf(GUEST_NAME, HOSTS, usage, BEGAN, LASTED))
        self.foreign = self.stranger.leaf(Leaf(GUEST_NAME, HOSTS, usage))

    def agent(self, own: Credential | None = None, **more: object) -> dict[str, Any]:
        """Settings for the agent in the guest: whom to trust, and with what certificate."""
        shown = {"own": text(own.certificate_pem()), "key": text(own.key_pem())} if own else {}
        return {"ca": text(self.authority.certificate_pem()), **shown, **more}

    def directory(self, place: Path, shown: Credential, role: Role = "server") -> Path:
        """For `--certs`, with another certificate of one side."""
        part = place / role
        part.mkdir(mode=0o700)
        (part / "cert.pem").write_bytes(shown.certificate_pem())
        (part / "certkey.pem").touch(0o600)
        (part / "certkey.pem").write_bytes(shown.key_pem())
        (place / "ca.pem").write_bytes(self.authority.certificate_pem())
        return place

    def crl(self, revoked: Sequence[Credential]) -> str:
        """A revocation list with these."""
        return text(self.authority.crl(revoked))


def text(pem: bytes) -> str:
    return pem.decode("ascii")
