"""A daemon's own files: the certificate it shows, its private key, the CAs it trusts."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from umktls.errors import CallerError

__all__ = ["ConfigurationError", "Identity", "PrivateKey", "check_readable", "load_private_key"]

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


def check_readable(path: Path, what: str) -> None:
    """Raises `ConfigurationError` with the reason why `path` cannot be read."""
    _read(path, what)


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{what} {path}: {error.strerror}", error.errno or errno.EIO
        ) from error


def load_private_key(path: Path, passphrase: Callable[[], bytes]) -> PrivateKey:
    """The key in a PEM file; `passphrase` is asked if it is encrypted.

    Raises `ConfigurationError`, also from `passphrase`.
    """
    data = _read(path, "key")
    try:
        try:
            key = load_pem_private_key(data, None)
        except TypeError:
            # How cryptography says that the key is encrypted.
            return _decrypt(path, data, passphrase())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"key {path}: not a PEM private key ({error})") from error
    return _checked(path, key)


def _decrypt(path: Path, data: bytes, passphrase: bytes) -> PrivateKey:
    try:
        key = load_pem_private_key(data, passphrase)
    except ValueError as error:
        raise ConfigurationError(f"key {path}: wrong passphrase") from error
    return _checked(path, key)


def _checked(path: Path, key: object) -> PrivateKey:
    if not isinstance(key, PrivateKey):
        raise ConfigurationError(f"key {path}: TLS certificates do not have this kind of key")
    return key
