"""Names of the other side: what DNS gives for its address, and what its certificate says."""

from __future__ import annotations

import ipaddress
import queue
import socket
from enum import Enum

from cryptography import x509

from umktls.errors import CallerError
from umktls.userland.streams import Deadline
from umktls.userland.threads import begun

from .certtexts import extension_of

__all__ = ["Wildcards", "dns_name", "has_name", "is_address", "reverse_name"]


class Wildcards(Enum):
    """What a ``*`` in place of a certificate's first label stands for."""

    NONE = "none"  # itself, which no host is called
    SINGLE = "single"  # one label
    MULTI = "multi"  # one label or more


def has_name(
    certificate: x509.Certificate, host: str, wildcards: Wildcards = Wildcards.NONE
) -> bool:
    """Whether the subjectAltName has `host` as a DNS name. The subject is not looked at."""
    extension = extension_of(certificate, x509.SubjectAlternativeName)
    names = [] if extension is None else extension.get_values_for_type(x509.DNSName)
    return any(_matches(name, host, wildcards) for name in names)


def _matches(name: str, host: str, wildcards: Wildcards) -> bool:
    pattern, wanted = _labels(name), _labels(host)
    if pattern[0] != "*" or wildcards is Wildcards.NONE:
        return pattern == wanted
    rest = pattern[1:]
    stands_for = len(wanted) - len(rest)
    if stands_for < 1 or (wildcards is Wildcards.SINGLE and stands_for > 1) or not all(wanted):
        return False
    # A wildcard for a whole top-level domain is nobody's to give.
    return len(rest) > 1 and wanted[stands_for:] == rest


def _labels(name: str) -> list[str]:
    return name.lower().removesuffix(".").split(".")


def is_address(name: str) -> bool:
    """Whether a server was named by an address, perhaps with the interface of a link."""
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def reverse_name(address: str, deadline: Deadline) -> str:
    """The name that DNS, or hosts(5), gives for an address; "" for none.

    Takes half of the time until `deadline` at most: the other half is for what comes of it.
    """
    answer: queue.SimpleQueue[str] = queue.SimpleQueue()

    def ask() -> None:
        try:
            name, _ = socket.getnameinfo((address.partition("%")[0], 0), socket.NI_NAMEREQD)
        except OSError:
            name = ""
        answer.put(name)

    # The resolver knows no deadline; the thread ends when it gives up.
    if not begun(ask, "reverse-dns"):
        return ""
    try:
        return answer.get(timeout=deadline.left() / 2)
    except queue.Empty:
        return ""


def dns_name(name: str) -> bytes:
    """`name` for SNI and certificates; CallerError for what is none. An empty one would switch
    OpenSSL's check off."""
    try:
        encoded = name.removesuffix(".").encode("idna")
    except UnicodeError as error:
        raise CallerError(f"{name!r} is neither a DNS name nor an address") from error
    if not 0 < len(encoded) < 254 or b"\0" in encoded:
        raise CallerError(f"{name!r} is neither a DNS name nor an address")
    return encoded
