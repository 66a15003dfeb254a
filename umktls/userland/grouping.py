"""Which system calls go to the kernel with one datagram (umktls_together).

Of most calls a daemon wants to know no more than that they have worked. So what the kernel answers
then is known before it answers, and need not be taken apart (`Group.results`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from umktls.abi.rpctls import SYS_umktls_together
from umktls.rpc import xdr
from umktls.rpc.xdr import Struct
from umktls.upcall.datagrams import encode_request
from umktls.upcall.syscalls import (
    MAX_PART,
    PARTICULAR,
    SYSCALLS,
    SendmsgArgs,
    goes_alone,
    leads,
)

__all__ = ["Group", "in_groups"]

# Calls without a result.
VOID = frozenset(call.arguments for call in SYSCALLS.values() if call.result is xdr.VOID)
_two, _three, _four = (struct.Struct(f">{count}I").pack for count in (2, 3, 4))


class Group:
    """Calls that one datagram makes, and the request for each."""

    __slots__ = ("calls", "requests")

    def __init__(self) -> None:
        self.calls: list[Struct] = []
        self.requests: list[bytes] = []

    def datagram(self, sequence: int) -> bytes:
        requests = self.requests
        if len(requests) == 1:
            return sequence.to_bytes(4, "big") + requests[0][4:]
        pieces = [_three(sequence, SYS_umktls_together, len(requests))]
        for request in requests:  # whole words, as all of XDR
            pieces.append(len(request).to_bytes(4, "big"))
            pieces.append(request)
        return b"".join(pieces)

    def results(self, reply: bytes) -> list[int | None] | None:
        """What has come of calls that have all worked, if there is no more to be said of any than
        that, or that all of its bytes went; None where the reply has to be taken apart."""
        results: list[int | None] = []
        expected = [_two(0, len(self.calls))]
        for place, args in enumerate(self.calls):
            if type(args) in VOID:
                results.append(None)
                expected.append(_three(8, place, 0))
            elif isinstance(args, SendmsgArgs):
                count = len(args.data)
                results.append(count)
                expected.append(_four(12, place, 0, count))
            else:
                return None
        return results if reply[4:] == b"".join(expected) else None


def in_groups(calls: Sequence[Struct]) -> Iterator[Group]:
    """The calls in their order, with those in one group that can go with one datagram."""
    group = Group()
    for args in calls:
        request = encode_request(len(group.calls), args)
        particular = type(args) in PARTICULAR
        alone = len(request) > MAX_PART or (particular and goes_alone(args))
        if group.calls and (alone or (particular and leads(args))):
            yield group
            group = Group()
            request = encode_request(0, args)
        group.calls.append(args)
        group.requests.append(request)
        if alone:
            yield group
            group = Group()
    if group.calls:
        yield group
