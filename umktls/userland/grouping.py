"""Which system calls go to the kernel with one datagram (umktls_together)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from umktls.rpc.xdr import Struct
from umktls.upcall.datagrams import encode_request
from umktls.upcall.syscalls import MAX_PART, TogetherArgs, goes_alone, leads

__all__ = ["Group", "in_groups"]


class Group:
    """Calls that one datagram makes, and the request for each."""

    __slots__ = ("calls", "requests")

    def __init__(self) -> None:
        self.calls: list[Struct] = []
        self.requests: list[bytes] = []

    def datagram(self, sequence: int) -> bytes:
        if len(self.calls) == 1:
            return sequence.to_bytes(4, "big") + self.requests[0][4:]
        return encode_request(sequence, TogetherArgs(tuple(self.requests)))


def in_groups(calls: Sequence[Struct]) -> Iterator[Group]:
    """The calls in their order, with those in one group that can go with one datagram."""
    group = Group()
    for args in calls:
        request = encode_request(len(group.calls), args)
        alone = goes_alone(args) or len(request) > MAX_PART
        if group.calls and (alone or leads(args)):
            yield group
            group = Group()
        group.calls.append(args)
        group.requests.append(request)
        if alone:
            yield group
            group = Group()
    if group.calls:
        yield group
