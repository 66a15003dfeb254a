"""By which name clients can mount from a server: one that leads to it, and is in its certificate.

A server that listens on all addresses (0.0.0.0, ::) has no name in that, and one that listens on an
address need not have the address in its certificate (RFC 9289 section 5.2.1 has clients check it).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from pathlib import Path

from umktls.errors import CallerError

__all__ = ["is_wildcard", "reachable_name"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def reachable_name(hosts: Sequence[str], certificate: Path | None) -> tuple[str, str | None]:
    """The name for the mount command, and a warning if clients will not take it for the server's.

    hosts: names and addresses that the server listens on. certificate: PEM, None where there is
    none to be checked. Looks names up, which may take its time.
    """
    named = [host for host in hosts if not is_wildcard(host)]
    if certificate is None:
        local = (socket.gethostname(), "localhost")
        found = (*named, *(name for name in local if leads_to(name, hosts)), "localhost")
        return found[0], None
    names = names_in(certificate)
    for host in named:
        if same_name(host) in map(same_name, names):
            return host, None
    for name in sorted(names, key=is_of_this_machine_only):
        if "*" not in name and leads_to(name, hosts):
            return name, None
    host = next(iter(named), "localhost")
    return host, (
        f"no name in {certificate} leads to where this server listens, so clients will refuse it: "
        f"make one with `umktls certs DIR --host {host if named else 'NAME'}`"
    )


def names_in(certificate: Path) -> list[str]:
    """No names where it cannot be read: the daemon says that better."""
    from umktls.certs.names import names_of

    try:
        return names_of(certificate)
    except CallerError:
        return []


def same_name(name: str) -> str:
    """What names that mean the same have in common."""
    found = address_of(name)
    return name.lower().rstrip(".") if found is None else str(found)


def address_of(name: str) -> Address | None:
    try:
        return ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return None


def is_wildcard(host: str) -> bool:
    """Whether it stands for all addresses of a family or of both."""
    found = address_of(host)
    return found is not None and found.is_unspecified


def is_of_this_machine_only(name: str) -> bool:
    """Whether it leads other machines to themselves."""
    found = address_of(name)
    return name.lower() == "localhost" if found is None else found.is_loopback


def leads_to(name: str, hosts: Sequence[str]) -> bool:
    """Whether a connection to `name` gets to one who listens on `hosts`."""
    theirs = {address for host in hosts for address in looked_up(host)}
    families = {address.version for address in theirs if address.is_unspecified}
    if any(host == "::" for host in hosts):
        families = {4, 6}
    return any(
        address in theirs or (address.version in families and is_local(address))
        for address in looked_up(name)
    )


def looked_up(name: str) -> list[Address]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    addresses = (address_of(str(each[4][0])) for each in found)
    return [address for address in addresses if address is not None]


def is_local(address: Address) -> bool:
    """Whether it is one of this machine's: only those can be bound to."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((str(address), 0))
    except OSError:
        return False
    return True
