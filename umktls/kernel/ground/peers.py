"""Who is at the other end, for what is shared among clients: turns and places.

A client is told by its address and, because whoever has one address of a network has most often
more of them, by its network: IPv4 /24, and with IPv6 the /64 that one machine has (RFC 4291 section
2.5.4) in the place of the address, and the /48 of its site (RFC 6177). What is shared is shared
among networks first, then among the addresses of one.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from functools import lru_cache
from typing import Generic, NamedTuple, TypeVar

__all__ = ["Crowd", "FairQueue", "Who", "format_address", "who"]

T = TypeVar("T")

PREFIXES = {4: (24, 32), 6: (48, 64)}


class Who(NamedTuple):
    """A client's network, and its address."""

    network: str
    address: str


@lru_cache(maxsize=4096)
def who(host: str) -> Who:
    """The client at an address as sockets have it; what is none is a network of its own."""
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return Who(host, host)
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is not None:
        address = mapped
    prefixes = PREFIXES[address.version]
    return Who(*(str(ipaddress.ip_network((address, n), strict=False)) for n in prefixes))


def format_address(address: object) -> str:
    """`host:port`, IPv6 in brackets; anything else as text."""
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[0], address[1]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    return str(address) or "-"


class Crowd:
    """How many there are of each address and of each network."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, ...]] = Counter()

    def add(self, one: Who, number: int = 1) -> None:
        for key in ((one.network,), one):
            self._counts[key] += number
            if not self._counts[key]:
                del self._counts[key]

    def of(self, one: Who) -> tuple[int, int]:
        """How many are of its network, and of its address."""
        return self._counts[(one.network,)], self._counts[one]


class FairQueue(Generic[T]):
    """Things that wait for their turn, which goes round among networks, and in each among its
    addresses; among those of one address it is the oldest's."""

    def __init__(self) -> None:
        self._networks: OrderedDict[str, OrderedDict[str, deque[T]]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, one: Who, item: T) -> None:
        addresses = self._networks.setdefault(one.network, OrderedDict())
        addresses.setdefault(one.address, deque()).append(item)
        self._size += 1

    def turns(self) -> Iterator[tuple[Who, T]]:
        """The oldest of each address, in the order of their turns."""
        for network, addresses in list(self._networks.items()):
            for address, items in list(addresses.items()):
                yield Who(network, address), items[0]

    def remove(self, one: Who, item: T) -> None:
        """Take one out, without a turn; one that is not there is no error."""
        items = self._networks.get(one.network, OrderedDict()).get(one.address, deque())
        if item in items:
            items.remove(item)
            self._size -= 1
            self._tidy(one)

    def take(self, one: Who) -> T:
        """The oldest of an address has its turn: its address and its network come last now."""
        addresses = self._networks[one.network]
        item = addresses[one.address].popleft()
        self._size -= 1
        addresses.move_to_end(one.address)
        self._networks.move_to_end(one.network)
        self._tidy(one)
        return item

    def clear(self) -> Iterator[T]:
        """Take out all, in turn."""
        while self._networks:
            one, _ = next(self.turns())
            yield self.take(one)

    def _tidy(self, one: Who) -> None:
        """Forget an address, or network, of which nobody waits."""
        addresses = self._networks[one.network]
        if not addresses[one.address]:
            del addresses[one.address]
        if not addresses:
            del self._networks[one.network]
