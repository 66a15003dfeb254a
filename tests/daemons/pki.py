"""The certificates of the tests, good and bad, made once per run."""

from __future__ import annotations

import datetime
import functools
import tempfile
from dataclasses import replace
from pathlib import Path

from umktls.certs.pki import CLIENT_USAGE, Authority, Credential, Leaf, self_signed

DAY = datetime.timedelta(days=1)
PASSPHRASE = b"correct horse"


class Certificates:
    """A directory of PEM files: ``<name>.pem`` and ``<name>key.pem``, and CA files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority.create("good CA")
        self.other_authority = Authority.create("other CA")
        self.intermediate = self.authority.intermediate()
        self.credentials: dict[str, Credential] = {}
        (directory / "ca.pem").write_bytes(self.authority.certificate_pem())
        (directory / "otherca.pem").write_bytes(self.other_authority.certificate_pem())
        hosts = ("localhost", "127.0.0.1", "::1")
        good = self.authority
        self._write("server", good.leaf(Leaf("server", hosts)))
        self._write("client", good.leaf(Leaf("client", usage=CLIENT_USAGE)))
        self._write("foreign", self.other_authority.leaf(Leaf("foreign", hosts)))
        self._write("foreignclient", self.other_authority.leaf(Leaf("foreign", usage=CLIENT_USAGE)))
        self._write("expired", good.leaf(Leaf("old", hosts, starts=-9 * DAY, lasts=DAY)))
        self._write("future", good.leaf(Leaf("young", hosts, starts=DAY)))
        self._write("elsewhere", good.leaf(Leaf("elsewhere", ("nfs.example.org", "192.0.2.1"))))
        self._write("wildcard", good.leaf(Leaf("wildcard", ("*.example.org",))))
        self._write("nameless", good.leaf(Leaf("localhost")))
        self._write("purpose", good.leaf(Leaf("purpose", hosts, usage=CLIENT_USAGE)))
        self._write("selfsigned", self_signed(Leaf("selfsigned", hosts)))
        self._write("chained", self.intermediate.leaf(Leaf("chained", hosts)))
        self._write("chainedclient", self.intermediate.leaf(Leaf("chained", usage=CLIENT_USAGE)))
        self._write("otherclient", good.leaf(Leaf("other client", usage=CLIENT_USAGE)))
        self._write(
            "expiredclient",
            good.leaf(Leaf("old", usage=CLIENT_USAGE, starts=-9 * DAY, lasts=DAY)),
        )
        named = replace(Leaf("named", ("localhost",), CLIENT_USAGE), emails=("ann@example.org",))
        self._write("namedclient", good.leaf(named))
        self._write(
            "userclient", good.leaf(Leaf("user", (), CLIENT_USAGE, user="root@example.org"))
        )
        self._write("locked", good.leaf(Leaf("locked", hosts)), PASSPHRASE)

    def _write(self, name: str, credential: Credential, passphrase: bytes | None = None) -> None:
        self.credentials[name] = credential
        (self.directory / f"{name}.pem").write_bytes(credential.certificate_pem())
        (self.directory / f"{name}key.pem").write_bytes(credential.key_pem(passphrase))

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def other_ca(self) -> Path:
        return self.directory / "otherca.pem"

    def certificate(self, name: str) -> Path:
        return self.directory / f"{name}.pem"

    def key(self, name: str) -> Path:
        return self.directory / f"{name}key.pem"

    def certdir(self, name: str, target: Path) -> Path:
        """A daemon's -D directory with the certificate of that name."""
        target.mkdir(parents=True, exist_ok=True)
        (target / "cert.pem").write_bytes(self.certificate(name).read_bytes())
        (target / "certkey.pem").write_bytes(self.key(name).read_bytes())
        return target


@functools.cache
def _directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="umktls-pki-")


@functools.cache
def certificates() -> Certificates:
    """All of them; the directory goes when the interpreter does."""
    return Certificates(Path(_directory().name))
