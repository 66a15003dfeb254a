"""A daemon's own files: the certificate it shows, its private key, the CAs it trusts."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from umktls.dataclass import dataclass
from umktls.errors import CallerError
from umktls.ktls.session.session import wipe

__all__ = [
    "ConfigurationError",
    "Identity",
    "PrivateKey",
    "Trust",
    "check_readable",
    "load_crls",
    "load_private_key",
]

# How OpenSSL finds a CA or a CRL in a directory: by the hash of its name (openssl-rehash(1)).
HASHED_NAME = re.compile(r"[0-9a-f]{8}\.r?\d+")
CHUNK = 65536
PEM_CRL = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)

PrivateKey: TypeAlias = (
    ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
    | rsa.RSAPrivateKey
)


class ConfigurationError(CallerError):
    """A certificate, key or CA file cannot be used. One line for the administrator."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate chain file and its key file, both PEM."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom to believe: the CAs of a PEM file, of a directory with hashed names, or of both; of the
    system if there is neither. `crl` is a PEM file of revocation lists, one for each of the CAs.
    """

    file: Path | None = None
    directory: Path | None = None
    crl: Path | None = None

    def __str__(self) -> str:
        named = [str(path) for path in (self.file, self.directory) if path is not None]
        return " and ".join(named) or "the system's certificate store"

    @property
    def is_system(self) -> bool:
        """Whether it is left to the system whom to believe."""
        return self.file is None and self.directory is None

    def check(self) -> None:
        """Raises `ConfigurationError` for a file or a directory from which nothing can come."""
        if self.file is not None:
            check_readable(self.file, "CA file")
        if self.directory is None:
            return
        try:
            names = [path.name for path in self.directory.iterdir()]
        except OSError as error:
            raise ConfigurationError(
                f"CA directory {self.directory}: {error.strerror}", error.errno or errno.EIO
            ) from error
        if not any(HASHED_NAME.fullmatch(name) for name in names):
            raise ConfigurationError(
                f"CA directory {self.directory}: no file in it has a hashed name, by which alone "
                f"CAs are found; run `openssl rehash {self.directory}`"
            )


def load_crls(path: Path) -> list[x509.CertificateRevocationList]:
    """The revocation lists of a PEM file; `ConfigurationError` unless there is at least one."""
    data = check_readable(path, "CRL file")
    try:
        lists = [x509.load_pem_x509_crl(block) for block in PEM_CRL.findall(data)]
    except ValueError as error:
        raise ConfigurationError(f"CRL file {path}: not a PEM revocation list ({error})") from error
    if not lists:
        raise ConfigurationError(f"CRL file {path}: there is no PEM revocation list in it")
    return lists


def check_readable(path: Path, what: str) -> bytes:
    """What is in `path`. Raises `ConfigurationError` with the reason why it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{what} {path}: {error.strerror}", error.errno or errno.EIO
        ) from error


def _read_secret(path: Path, what: str) -> bytearray:
    """The same as what can be wiped."""
    data, buffer = bytearray(), bytearray(CHUNK)
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                data += memoryview(buffer)[:count]
    except OSError as error:
        raise ConfigurationError(
            f"{what} {path}: {error.strerror}", error.errno or errno.EIO
        ) from error
    finally:
        wipe(buffer)
    return data


def load_private_key(path: Path, passphrase: Callable[[], bytes]) -> PrivateKey:
    """The key in a PEM file; `passphrase` is asked if it is encrypted.

    Raises `ConfigurationError`, also from `passphrase`.
    """
    data = _read_secret(path, "key")
    try:
        try:
            key = load_pem_private_key(data, None)
        except TypeError:
            # How cryptography says that the key is encrypted.
            return _decrypt(path, data, passphrase())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"key {path}: not a PEM private key ({error})") from error
    finally:
        wipe(data)
    return _checked(path, key)


def _decrypt(path: Path, data: bytearray, passphrase: bytes) -> PrivateKey:
    try:
        key = load_pem_private_key(data, passphrase)
    except ValueError as error:
        raise ConfigurationError(f"key {path}: wrong passphrase") from error
    return _checked(path, key)


def _checked(path: Path, key: object) -> PrivateKey:
    if not isinstance(key, PrivateKey):
        raise ConfigurationError(f"key {path}: TLS certificates do not have this kind of key")
    return key
