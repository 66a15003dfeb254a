"""The system calls of a program that come here: one table of which, and what becomes of each.

The tables have the filter's rules, each with a handler. A handler gets the call and
returns its result, or raises OSError or `UmktlsError`; or it says that the call goes on as it is
(`Answer.GO_ON`), or that it will be answered later (`Answer.LATER`). What is not in the table never
comes here. Who adds a family of calls adds a table beside this one: the handlers of `AGENT_TABLES`
come first, and say None for what is not theirs.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from umktls.abi import linux
from umktls.run.agency import Agency
from umktls.run.call import Answer, Call, Handler, Result
from umktls.run.messages import ALLOWED_IN_SEND, MSG_CMSG_CLOEXEC, MessageCalls
from umktls.run.netlink_calls import NETLINK_TABLE, NetlinkCalls
from umktls.run.netlink_messages import NETLINK_MESSAGE_TABLE, NetlinkMessages
from umktls.run.netlink_names import NetlinkNames
from umktls.run.options import OptionCalls
from umktls.run.registry import Registry
from umktls.run.seccomp import Bits, In, Rule
from umktls.run.taken_calls import TAKEN_TABLE, TakenCalls

__all__ = ["AGENT_RULES", "NO_TLS_RULES", "TLS_RULES", "agent_handlers", "handlers_of"]

ALL_BITS = 0xFFFFFFFF
SIOCINQ = 0x541B
# The levels whose options a pair does not have.
BELOW = (socket.IPPROTO_IP, socket.IPPROTO_TCP, socket.IPPROTO_IPV6)
# Of SOL_SOCKET: those that are TCP's to have, and those that tell a pair from TCP.
OF_TCP = (socket.SO_KEEPALIVE, socket.SO_LINGER)
ABOUT_ITSELF = (*OF_TCP, socket.SO_DOMAIN, socket.SO_PROTOCOL)
# Flags that mean the same to a pair.
SAME_IN_PAIR = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) | MSG_CMSG_CLOEXEC


def of_socket(*names: int) -> tuple[In, In]:
    return In(1, (socket.SOL_SOCKET,)), In(2, names)


def about(level: int, name: int) -> tuple[In, In]:
    return In(1, (level,)), In(2, (name,))


BELOW_AND_TLS = (In(1, (*BELOW, linux.SOL_TLS)),)

# Narrow on purpose: each call that comes here costs the program two switches to the supervisor.
OPTION_TABLE: Mapping[Rule, Callable[[OptionCalls, Call], Result]] = {
    Rule("setsockopt", (BELOW_AND_TLS, of_socket(*OF_TCP))): OptionCalls.setsockopt,
    Rule("getsockopt", (BELOW_AND_TLS, of_socket(*ABOUT_ITSELF))): OptionCalls.getsockopt,
    Rule("getsockname"): OptionCalls.name,
    Rule("getpeername"): OptionCalls.name,
    Rule("ioctl", ((In(1, (SIOCINQ,)),),)): OptionCalls.ioctl,
}
MESSAGE_TABLE: Mapping[Rule, Callable[[MessageCalls, Call], Result]] = {
    Rule("sendmsg"): MessageCalls.sendmsg,
    Rule("sendmmsg"): MessageCalls.sendmmsg,
    Rule("sendto", ((Bits(3, ALL_BITS & ~ALLOWED_IN_SEND),),)): MessageCalls.sendto,
    Rule("recvmsg"): MessageCalls.recvmsg,
    Rule("recvmmsg"): MessageCalls.recvmmsg,
    Rule("recvfrom", ((Bits(3, ALL_BITS & ~SAME_IN_PAIR),),)): MessageCalls.recvfrom,
}
# Rings would go past all of this: programs that have them do without where they are not there.
RINGS = Rule("io_uring_setup", refuse=errno.ENOSYS)
TLS_RULES = (*OPTION_TABLE, *MESSAGE_TABLE, RINGS)
# A kernel without net/tls, on a machine whose kernel may have it.
NO_TLS_RULES = (Rule("setsockopt", (about(linux.SOL_TCP, linux.TCP_ULP),), refuse=errno.ENOENT),)


def merged(*tables: Iterable[Rule]) -> tuple[Rule, ...]:
    """One rule for each call: it is notified where any of the tables has it so."""
    found: dict[str, Rule] = {}
    for rule in (rule for table in tables for rule in table):
        other = found.setdefault(rule.call, rule)
        if other is not rule:
            always = not (other.clauses and rule.clauses)
            clauses = () if always else other.clauses + rule.clauses
            found[rule.call] = Rule(rule.call, clauses, rule.refuse)
    return tuple(found.values())


# For the programs that are a host's handshake agent.
AGENT_RULES = merged(TLS_RULES, NETLINK_TABLE, NETLINK_MESSAGE_TABLE, TAKEN_TABLE)


def handlers_of(registry: Registry) -> dict[str, Handler]:
    """By the name of the system call."""
    options, messages = OptionCalls(registry), MessageCalls(registry)
    return {
        **{rule.call: partial(handler, options) for rule, handler in OPTION_TABLE.items()},
        **{rule.call: partial(handler, messages) for rule, handler in MESSAGE_TABLE.items()},
    }


def agent_handlers(
    agency: Agency, later: Callable[..., None], others: Mapping[str, Handler]
) -> dict[str, Handler]:
    """Those of a handshake agent's calls, in front of the others."""
    names, taken = NetlinkNames(), TakenCalls(agency, later)
    netlink, messages = NetlinkCalls(agency, names, later), NetlinkMessages(names, later)
    found = dict(others)
    for call, handler in (
        *((rule.call, partial(each, taken)) for rule, each in TAKEN_TABLE.items()),
        *((rule.call, partial(each, messages)) for rule, each in NETLINK_MESSAGE_TABLE.items()),
        *((rule.call, partial(each, netlink)) for rule, each in NETLINK_TABLE.items()),
    ):
        found[call] = in_front(handler, found.get(call, go_on))
    return found


def in_front(first: Callable[[Call], Result | None], others: Handler) -> Handler:
    """Ask `first`, and the others where it says None."""

    def ask(call: Call) -> Result:
        result = first(call)
        return others(call) if result is None else result

    return ask


def go_on(call: Call) -> Result:
    return Answer.GO_ON
