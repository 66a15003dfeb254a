"""`umktls lesson sides`: a kernel that seals only, opens only, does both or neither."""

from __future__ import annotations

from contextlib import nullcontext

from umktls.abi.freebsd import IPPROTO_TCP, TCP_RXTLS_MODE, TCP_TLS_MODE_NAMES, TCP_TXTLS_MODE
from umktls.errors import UmktlsError
from umktls.ktls.session import Direction
from umktls.lessons.lesson import Code, Exercise, Lesson, Question, Rfc, Seen, Step
from umktls.lessons.stage import End, Link, hexed, words

__all__ = ["LESSON"]

CALL, REPLY = b"a call", b"a reply"
KERNELS = ("freebsd13.0", "freebsd14", "linux", "umktls")
MODES: dict[Direction, int] = {"tx": TCP_TXTLS_MODE, "rx": TCP_RXTLS_MODE}


def exchanged(*directions: Direction) -> tuple[tuple[str, ...], dict[str, object]]:
    """A call and a reply, where the client's kernel has these directions and the server both."""
    link = Link()
    for direction in directions:
        link.client.set_key(direction, link.session("client" if direction == "tx" else "server"))
    link.server.set_key("tx", link.session("server"))
    link.server.set_key("rx", link.session("client"))
    call, reply = link.client.send(CALL), link.server.send(REPLY)
    link.server.arrive(call)
    heard = link.server.outcome()
    link.client.arrive(reply)
    kind, got = link.client.receive()
    modes = {direction: mode_of(link.client, direction) for direction in MODES}
    lines = (
        f"TCP_TXTLS_MODE {modes['tx']}, TCP_RXTLS_MODE {modes['rx']}",
        f"to the server:   {len(call):>2} bytes: {hexed(call)}",
        f"the server's recvmsg: {heard}",
        f"to the client:   {len(reply):>2} bytes: {hexed(reply)}",
        f"the client's recvmsg: {len(got)} bytes, type {kind or 'not told'}: "
        + (words(got) if got == REPLY else hexed(got)),
    )
    facts = {
        "modes": modes,
        "call": len(call),
        "call_in_clear": CALL in call,
        "heard": heard,
        "got": len(got),
        "first": f"{got[0]:02x}",
        "type": kind,
    }
    return lines, facts


def mode_of(end: End, direction: Direction) -> str:
    value = end.socket.getsockopt(IPPROTO_TCP, MODES[direction], 4)
    return TCP_TLS_MODE_NAMES[int.from_bytes(value, "little")]


async def tx_only(stage: None) -> Seen:
    lines, facts = exchanged("tx")
    return Seen(lines, str(facts["got"]), facts)


async def rx_only(stage: None) -> Seen:
    lines, facts = exchanged("rx")
    return Seen(lines, str(facts["heard"]), facts)


async def neither(stage: None) -> Seen:
    lines, facts = exchanged()
    return Seen(lines, "yes" if facts["call_in_clear"] else "no", facts)


async def both(stage: None) -> Seen:
    lines, facts = exchanged("tx", "rx")
    return Seen(lines, str(facts["type"]), facts)


async def who_can(stage: None) -> Seen:
    said = {}
    for kernel in KERNELS:
        link = Link(End(kernel), End(kernel, "server"))
        for direction in MODES:
            said[f"{kernel} {direction}"] = key_set(link, direction)
    refusing = sorted({case.split()[0] for case, word in said.items() if word != "ok"})
    lines = tuple(
        f"{kernel:<12} sending: {said[f'{kernel} tx']:<8} receiving: {said[f'{kernel} rx']}"
        for kernel in KERNELS
    )
    return Seen(lines, " ".join(refusing) or "none", {"said": said})


def key_set(link: Link, direction: Direction) -> str:
    try:
        link.client.set_key(direction, link.session())
    except UmktlsError as error:
        return error.errno_name
    return "ok"


LESSON = Lesson(
    "Two directions, two keys",
    """
    Kernel TLS is not on or off: each direction of a socket has a key of its own and is enabled by a
    system call of its own. One of them may work and the other not, because the kernel is too old,
    the card cannot, or an administrator has said so. The two options look alike, and so this is the
    mistake that a daemon makes most easily: to look at one answer and take it for both.

    The server has both keys in all steps. The client sends a call of 6 bytes and is sent a reply of
    7; what its kernel has is another thing in each step.
    """,
    nullcontext,
    (
        Step(
            "TX only",
            "The client's kernel has the key for sending, and none for receiving.",
            Question("The reply has 7 bytes. How many does the client's recvmsg give?"),
            tx_only,
            """
            The call went sealed and was understood. The reply came as it is on the wire: header,
            ciphertext, tag. No error is told: to this socket, what it receives is just bytes. An
            RPC layer that reads them takes 17 03 03 00 for a record mark.
            """,
        ),
        Step(
            "RX only",
            "The other way round: the client's kernel opens what comes, and seals nothing.",
            Question(
                "What does the server, which has its key, get of the call?",
                ("a call", "EINVAL", "EBADMSG", "waits"),
            ),
            rx_only,
            """
            The call went over the wire IN CLEAR, behind a handshake that succeeded, and anybody
            could read it. The server saw that this is no record (a type of 0x61 cannot be) and
            stopped. The harm was done by then. So a kernel has to refuse to send until it knows
            that sending is sealed; umktls asks for TCP_TXTLS_MODE itself.
            """,
        ),
        Step(
            "None",
            "Both system calls have failed, and nobody looked.",
            Question("Does the call go over the wire in clear?", ("yes", "no")),
            neither,
            """
            It does, and what comes back is not understood. A kernel without KERN_TLS is this case;
            there is an engine for it, to see how a daemon behaves: `umktls lesson null`.
            """,
        ),
        Step(
            "Both",
            "At last both keys.",
            Question("Which type does recvmsg tell of the reply (a number)?"),
            both,
            """
            23 is application data. With a key for receiving, recvmsg gives records: each with its
            type in a control message. Without it there is no such message, which is a way to tell.
            """,
        ),
        Step(
            "Who can what",
            "The same two system calls, for TLS 1.3, in four kernels.",
            Question("Which of them refuses a key?", (*KERNELS, "none")),
            who_can,
            """
            FreeBSD 13.0 and 13.1 send TLS 1.3 and do not receive it, so TX only is what real
            machines had, and RPC over TLS could not use it. The refusal came for one direction; the
            other was enabled already, and there is no way back from that.
            """,
        ),
    ),
    (
        Exercise(
            "A kernel has TX only. Can a daemon help, so that RPC works all the same?",
            "Yes: it keeps the receiving direction in its library, does SSL_read, and gives the "
            "kernel the clear text over a socket pair. That is engine bounce for one direction: "
            "`--engine tx=software,rx=bounce`, and `umktls lesson bounce`.",
        ),
        Exercise(
            "In which order should a daemon enable the two, and ask for the modes?",
            "The order does not matter for correctness, as long as nothing is sent before both "
            "modes were asked for. umktls sets both and asks both in one go (enable_all).",
        ),
        Exercise(
            "Run `umktls sysctl kern.ipc.tls.rx_enable=0` at a server host and mount from it. What "
            "does the mount say?",
            "That the server has ended the session with an alert, internal_error. The host has no "
            "TLS for receiving then; which direction did not work, and why, is in the server's "
            "trace.",
        ),
    ),
    (
        Code("umktls/userland/ktls.py", "FreebsdKtls.enable_all"),
        Code("umktls/ktls/socket/states.py", "TX_TRANSITIONS"),
        Code("umktls/ktls/options/checks.py", "run_checks"),
        Code("umktls/abi/personality.py", "KeyRules"),
    ),
    (
        Rfc(9289, "5.1.1", "protected operation on TCP: no clear text in a session"),
        Rfc(8446, "5.1", "record layer: which types there are"),
    ),
    sockets=True,
)
