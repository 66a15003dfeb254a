"""The revocation list of a certificates directory: DIR/crl.pem, made with DIR/cakey.pem.

Apart from `umktls.certs.layout`, so that whoever only looks for files need not load X.509.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cryptography import x509

from umktls.certs.layout import Role, alone_in, write_file
from umktls.certs.pki import Authority
from umktls.errors import CallerError, WorldError

__all__ = ["revoke", "revoked_serials"]


def revoke(directory: Path, roles: Iterable[Role] = ()) -> Path:
    """Write the list: the certificates of `roles`, and those that are in it already; its path.

    Raises CallerError where `umktls.certs.layout.create` has not made the directory.
    """
    authority = Authority.load(_read(directory / "ca.pem"), _read(directory / "cakey.pem"))
    path = directory / "crl.pem"
    with alone_in(directory):
        serials = revoked_serials(path) if path.exists() else set()
        serials |= {_serial(directory / role / "cert.pem") for role in roles}
        try:
            write_file(path, authority.crl_of(sorted(serials)))
        except OSError as error:
            raise WorldError(f"cannot write {path}: {error.strerror}", error.errno) from error
    return path


def revoked_serials(path: Path) -> set[int]:
    """The serial numbers in a PEM revocation list. Raises CallerError."""
    try:
        return {each.serial_number for each in x509.load_pem_x509_crl(_read(path))}
    except ValueError as error:
        raise CallerError(f"{path}: no PEM revocation list ({error})") from error


def _serial(path: Path) -> int:
    try:
        return x509.load_pem_x509_certificate(_read(path)).serial_number
    except ValueError as error:
        raise CallerError(f"{path}: no PEM certificate ({error})") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CallerError(f"cannot read {path}: {error.strerror}", error.errno) from error
