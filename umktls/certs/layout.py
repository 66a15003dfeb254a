"""The certificates directory: where each PEM file is, making it, and finding its parts.

    DIR/ca.pem            the certificate both sides trust
    DIR/cakey.pem         the CA's key (only `umktls certs` needs it)
    DIR/crl.pem           what the CA has revoked, if `umktls.certs.revocation` was asked for it
    DIR/server/cert.pem   the server's certificate, and certkey.pem its key
    DIR/client/cert.pem   the client's certificate, and certkey.pem its key

A part's directory has the names FreeBSD's daemons expect below `-D`, and `ca.pem` is what they
take for `-l`.
"""

from __future__ import annotations

import datetime
import errno
import ipaddress
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from umktls.dataclass import dataclass
from umktls.errors import CallerError, WorldError
from umktls.private import exposure, lock_directory, own_directory

if TYPE_CHECKING:
    from umktls.certs.pki import Credential

__all__ = [
    "LOCAL_HOSTS",
    "Part",
    "Role",
    "alone_in",
    "create",
    "exposed_keys",
    "find",
    "write_file",
]

Role = Literal["server", "client"]
File = tuple[Path, bytes, int]  # what is in it, and its mode

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
_PUBLIC, _PRIVATE = 0o644, 0o600
WHAT = ("certificates directory", "name another one")
LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?"
HOST = re.compile(rf"(\*\.)?{LABEL}(\.{LABEL})*\.?")
USER = re.compile(r"[!-?A-~]+@[!-?A-~]+")


@dataclass(frozen=True, slots=True)
class Part:
    """One role's files: `directory` has cert.pem and certkey.pem, `ca` is whom it trusts."""

    directory: Path
    ca: Path

    @property
    def certificate(self) -> Path:
        """PEM: the certificate, then the intermediates."""
        return self.directory / "cert.pem"

    @property
    def key(self) -> Path:
        """PEM: the private key."""
        return self.directory / "certkey.pem"


def create(
    directory: Path,
    hosts: Sequence[str] = LOCAL_HOSTS,
    days: int = 365,
    user: str | None = None,
    force: bool = False,
) -> list[Path]:
    """Make a CA, a server and a client certificate below `directory`; the paths written.

    `hosts` are the server's names and addresses, `user` (`name@domain`) goes into the client's
    certificate. Raises CallerError with EINVAL for what can be neither, with EEXIST where a file is
    there already, unless `force`, and with EPERM for a directory to which others can write.
    """
    for host in hosts:
        _check_host(host)
    if user is not None and not USER.fullmatch(user):
        raise CallerError(f"user {user!r} is not NAME@DOMAIN", errno.EINVAL)
    files = list(_files(directory, hosts, days, user))
    paths = [path for path, _, _ in files]
    with alone_in(directory):
        if not force:
            _refuse_existing(paths)
        _write_files(files)
    return paths


@contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """The directory is there, this user's own, and nobody else makes certificates in it or revokes
    some meanwhile. Raises CallerError as `own_directory`, WorldError."""
    try:
        own_directory(directory, *WHAT)
        descriptor = lock_directory(directory)
    except OSError as error:
        raise WorldError(f"cannot write {directory}: {error.strerror}", error.errno) from error
    try:
        yield
    finally:
        os.close(descriptor)


def _check_host(host: str) -> None:
    """What can be in a certificate, and be looked up in DNS (RFC 5280 section 4.2.1.6)."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not HOST.fullmatch(host):
            raise CallerError(
                f"host {host!r} is neither an address nor a name of letters, digits, hyphens and "
                "dots (what is not ASCII is written xn--...)",
                errno.EINVAL,
            ) from None


def find(directory: Path, role: Role, own: bool = True) -> Part:
    """The files of `role` below `directory`, all of them there and readable.

    With `own` false only the CA is needed: a client that shows no certificate of its own.
    Raises CallerError (ENOENT, EACCES, ...) that names the file.
    """
    part = Part(directory / role, directory / "ca.pem")
    for path in (part.ca, part.certificate, part.key) if own else (part.ca,):
        _require_readable(path, directory)
    return part


def exposed_keys(part: Part) -> list[str]:
    """Warnings about private keys that others can read: the part's, and the CA's beside it."""
    keys = (part.key, part.ca.with_name("cakey.pem"))
    return [f"key {text}" for text in map(exposure, keys) if text is not None]


def _files(directory: Path, hosts: Sequence[str], days: int, user: str | None) -> Iterator[File]:
    # Those who only look for files start faster without the X.509 of `cryptography`.
    from umktls.certs.pki import CLIENT_USAGE, SERVER_USAGE, Authority, Leaf

    authority = Authority.create(days=max(days, 3650))
    lasts = datetime.timedelta(days=days)
    server = Leaf(hosts[0], hosts, SERVER_USAGE, lasts=lasts)
    client = Leaf("umktls client", LOCAL_HOSTS[:1], CLIENT_USAGE, lasts=lasts, user=user)
    yield directory / "ca.pem", authority.certificate_pem(), _PUBLIC
    yield directory / "cakey.pem", authority.credential.key_pem(), _PRIVATE
    yield from _part_files(directory / "server", authority.leaf(server))
    yield from _part_files(directory / "client", authority.leaf(client))


def _part_files(directory: Path, credential: Credential) -> Iterator[File]:
    yield directory / "cert.pem", credential.certificate_pem(), _PUBLIC
    yield directory / "certkey.pem", credential.key_pem(), _PRIVATE


def _refuse_existing(paths: Iterable[Path]) -> None:
    for path in paths:
        if os.path.lexists(path):
            raise CallerError(
                f"{path} exists already: name another directory, or replace it with --force",
                errno.EEXIST,
            )


def _write_files(files: Iterable[File]) -> None:
    """All of them, or none where the disk is full: they belong together. Raises CallerError,
    WorldError."""
    with ExitStack() as made:
        written = []
        for path, content, mode in files:
            try:
                own_directory(path.parent, *WHAT)
                temporary = _write_beside(path, content, mode)
            except OSError as error:
                raise WorldError(f"cannot write {path}: {error.strerror}", error.errno) from error
            made.callback(temporary.unlink, missing_ok=True)
            written.append((temporary, path))
        for temporary, path in written:
            try:
                temporary.replace(path)
            except OSError as error:
                raise WorldError(f"cannot write {path}: {error.strerror}", error.errno) from error


def write_file(path: Path, content: bytes, mode: int = _PUBLIC) -> None:
    """A new file, whole or not at all, in the place of one that is there. It has its mode from the
    start: a key is never readable for others, not even briefly. Raises OSError."""
    temporary = _write_beside(path, content, mode)
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_beside(path: Path, content: bytes, mode: int) -> Path:
    """A new file that is to get the name `path`."""
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _require_readable(path: Path, directory: Path) -> None:
    try:
        with path.open("rb"):
            return
    except FileNotFoundError as error:
        raise CallerError(
            f"{path} is missing: `umktls certs {directory}` makes a set for trying things out",
            errno.ENOENT,
        ) from error
    except OSError as error:
        raise CallerError(f"cannot read {path}: {error.strerror}", error.errno) from error
