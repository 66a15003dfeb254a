"""Which system calls are notified: the filter, interpreted."""

from __future__ import annotations

import errno
import socket

import pytest

from tests.run.bpf import verdict
from umktls.abi import linux
from umktls.run.calls import AGENT_RULES, NO_TLS_RULES, TLS_RULES, handlers_of
from umktls.run.seccomp import RET_ALLOW, RET_ERRNO, RET_USER_NOTIF, Bits, In, Rule, assemble
from umktls.run.system import NUMBERS_OF

NUMBERS = NUMBERS_OF["x86_64"]
READ, WRITE, OPENAT, SENDFILE = 0, 1, 257, 40

pytestmark = pytest.mark.skipif(
    not assemble.__defaults__ or assemble.__defaults__[0] != "x86_64",
    reason="the numbers are x86_64's",
)


def passes(program: bytes, name: str | int, *arguments: int) -> bool:
    number = NUMBERS[name] if isinstance(name, str) else name
    return verdict(program, number, arguments) == RET_ALLOW


@pytest.mark.parametrize("number", [READ, WRITE, OPENAT, SENDFILE, 9999])
def test_what_has_nothing_to_do_with_it_passes(number: int) -> None:
    assert passes(assemble(TLS_RULES), number, 3)


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("setsockopt", (3, linux.SOL_TLS, linux.TLS_TX)),
        ("setsockopt", (3, linux.SOL_TCP, linux.TCP_ULP)),
        ("setsockopt", (3, socket.SOL_SOCKET, socket.SO_LINGER)),
        ("getsockopt", (3, linux.SOL_TLS, linux.TLS_RX)),
        ("getsockopt", (3, socket.IPPROTO_IPV6, 1)),
        ("getsockopt", (3, socket.SOL_SOCKET, socket.SO_DOMAIN)),
        ("sendmsg", (3,)),
        ("recvmsg", (3,)),
        ("recvfrom", (3, 0, 10, socket.MSG_PEEK)),
        ("recvfrom", (3, 0, 10, socket.MSG_PEEK | socket.MSG_DONTWAIT)),
        ("sendto", (3, 0, 10, socket.MSG_OOB)),
        ("sendto", (3, 0, 10, socket.MSG_MORE | socket.MSG_DONTWAIT)),
        ("getpeername", (3,)),
        ("ioctl", (3, 0x541B)),
    ],
)
def test_these_are_notified(call: str, arguments: tuple[int, ...]) -> None:
    assert verdict(assemble(TLS_RULES), NUMBERS[call], arguments) == RET_USER_NOTIF


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("setsockopt", (3, socket.SOL_SOCKET, socket.SO_REUSEADDR)),
        ("getsockopt", (3, socket.SOL_SOCKET, socket.SO_ERROR)),
        ("recvfrom", (3, 0, 10, 0)),
        ("recvfrom", (3, 0, 10, socket.MSG_DONTWAIT)),
        ("sendto", (3, 0, 10, socket.MSG_NOSIGNAL | socket.MSG_EOR)),
        ("ioctl", (3, 0x5401)),
    ],
)
def test_the_same_calls_pass_where_a_pair_does_as_well(
    call: str, arguments: tuple[int, ...]
) -> None:
    assert passes(assemble(TLS_RULES), call, *arguments)


@pytest.mark.parametrize("number", [248, 249, 250])
def test_keyrings_are_the_machines(number: int) -> None:
    """add_key(2), request_key(2), keyctl(2)."""
    assert passes(assemble(AGENT_RULES), number)


def test_a_handshake_agents_filter_has_one_rule_for_each_call() -> None:
    """The first rule for a call decides."""
    names = [rule.call for rule in AGENT_RULES]
    assert len(names) == len(set(names))
    assert {rule.call for rule in TLS_RULES} <= set(names)


@pytest.mark.parametrize(
    ("call", "arguments", "notified"),
    [
        ("socket", (socket.AF_NETLINK, socket.SOCK_RAW, 16), True),
        ("socket", (socket.AF_NETLINK, socket.SOCK_RAW, 0), False),  # NETLINK_ROUTE
        ("socket", (socket.AF_INET, socket.SOCK_STREAM, 0), False),
        ("setsockopt", (3, 270, 1), True),
        ("setsockopt", (3, linux.SOL_TLS, linux.TLS_TX), True),
        ("setsockopt", (3, socket.SOL_SOCKET, socket.SO_RCVBUF), False),
        ("getsockopt", (3, socket.SOL_SOCKET, socket.SO_TYPE), True),
        ("recvfrom", (3, 0, 10, 0), True),
        ("sendto", (3, 0, 10, 0), True),
        ("bind", (3,), True),
    ],
)
def test_generic_netlink_is_notified_for_an_agent(
    call: str, arguments: tuple[int, ...], notified: bool
) -> None:
    wanted = RET_USER_NOTIF if notified else RET_ALLOW
    assert verdict(assemble(AGENT_RULES), NUMBERS[call], arguments) == wanted


def test_another_architecture_is_not_looked_at() -> None:
    program = assemble(TLS_RULES)
    assert verdict(program, NUMBERS["sendmsg"], (3,), arch=0x40000003) == RET_ALLOW
    assert verdict(program, NUMBERS["sendmsg"] | 0x40000000, (3,)) == RET_ALLOW  # x32


def test_rings_are_not_there() -> None:
    found = verdict(assemble(TLS_RULES), NUMBERS["io_uring_setup"])
    assert found == RET_ERRNO | errno.ENOSYS


def test_without_the_module_a_ulp_is_refused_and_nothing_is_notified() -> None:
    program = assemble(NO_TLS_RULES)
    ulp = (3, linux.SOL_TCP, linux.TCP_ULP)
    assert verdict(program, NUMBERS["setsockopt"], ulp) == RET_ERRNO | errno.ENOENT
    assert passes(program, "setsockopt", 3, linux.SOL_TCP, socket.TCP_NODELAY)
    assert passes(program, "sendmsg", 3)


def test_clauses_are_alternatives_and_their_tests_go_together() -> None:
    rule = Rule("ioctl", ((In(1, (7, 8)), Bits(2, 6)), (In(1, (9,)),)))
    program = assemble([rule])
    found = {
        (name, bits): passes(program, "ioctl", 3, name, bits)
        for name in (7, 8, 9)
        for bits in (1, 2)
    }
    assert found == {
        (7, 1): True,
        (8, 1): True,
        (9, 1): False,
        (7, 2): False,
        (8, 2): False,
        (9, 2): False,
    }


def test_what_is_notified_has_a_handler() -> None:
    notified = {rule.call for rule in TLS_RULES if not rule.refuse}
    assert notified == set(handlers_of(None))  # type: ignore[arg-type]
