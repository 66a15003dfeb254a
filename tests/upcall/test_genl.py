"""Linux's generic netlink and the family `handshake`: known bytes, policies, whatever bytes."""

from __future__ import annotations

import contextlib
import errno
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umktls.abi import netlink as nl
from umktls.errors import CallerError
from umktls.upcall import genl
from umktls.upcall.genl import NLCTRL, encode, messages_untrusted
from umktls.upcall.handshake import ACCEPT, DONE, HANDSHAKE, READY, encode_ready, task_of
from umktls.upcall.netlink import Message, encode_message

GETFAMILY = NLCTRL.named("GETFAMILY")
ASKED = encode(
    NLCTRL, GETFAMILY, {"FAMILY_NAME": "handshake"}, request=True, flags=4, seq=0x11223344, pid=77
)


def only(datagram: bytes) -> Message:
    (message,) = messages_untrusted(datagram)
    return message


def request(command: genl.Command, attributes: str, flags: int = nl.NLM_F_REQUEST) -> Message:
    """A request of the family with these bytes for attributes."""
    body = nl.GENLMSGHDR.pack(command.number, 1, 0) + bytes.fromhex(attributes)
    head = nl.NLMSGHDR.pack(nl.NLMSGHDR.size + len(body), HANDSHAKE.number, flags, 5, 6)
    return only(head + body)


def test_getfamily_byte_by_byte() -> None:
    """As libnl sends it: 36 bytes and the name's padding."""
    assert (
        bytes.fromhex(
            "24000000 1000 0500 44332211 4d000000 "  # nlmsghdr: nlctrl, REQUEST | ACK
            "03 02 0000 "  # genlmsghdr
            "0e00 0200 68616e647368616b6500 0000"  # FAMILY_NAME
        )
        == ASKED
    )


def test_newfamily_byte_by_byte() -> None:
    """The attributes in ctrl_fill_info's order, and nests without NLA_F_NESTED."""
    made = genl.encode_family(HANDSHAKE, seq=1, pid=77)
    assert made == bytes.fromhex(
        "a4000000 1000 0000 01000000 4d000000 01 02 0000 "
        "0e00 0200 68616e647368616b6500 0000 "
        "0600 0100 1600 0000 "  # FAMILY_ID
        "0800 0300 01000000 0800 0400 00000000 0800 0500 00000000 "  # VERSION, HDRSIZE, MAXATTR
        "2c00 0600 "  # OPS
        "1400 0100 0800 0100 02000000 0800 0200 0b000000 "  # ACCEPT: admin, do, has a policy
        "1400 0200 0800 0100 03000000 0800 0200 0b000000 "
        "3400 0700 "  # MCAST_GROUPS: the id, then the name
        "1800 0100 0800 0200 23000000 0900 0100 6e6f6e6500 000000 "
        "1800 0200 0800 0200 24000000 0a00 0100 746c73686400 0000"
    )


def test_a_notification_byte_by_byte() -> None:
    """Of nobody, to nobody in particular: port and sequence are 0."""
    assert encode_ready() == bytes.fromhex(
        "1c000000 1600 0000 00000000 00000000 01 01 0000 0800 0200 01000000"
    )


def test_an_answer_to_accept_byte_by_byte() -> None:
    """In the order of tls_handshake_put_accept_req."""
    task = {"SOCKFD": 5, **task_of("client", "mtls", "nfs.example", 10_000)}
    made = encode(HANDSHAKE, ACCEPT, task, seq=9, pid=77)
    assert made == bytes.fromhex(
        "44000000 1600 0000 09000000 4d000000 02 01 0000 "
        "0800 0100 05000000 "  # SOCKFD first: a supervisor puts another number there
        "0800 0300 01000000 "
        "1000 0800 6e66732e6578616d706c6500 "
        "0800 0400 10270000 "
        "0800 0500 03000000"
    )
    assert genl.decode_untrusted(ACCEPT, only(made)) == task


def test_an_error_holds_the_request() -> None:
    """56 bytes for a family that there is not, as measured on Linux: -ENOENT and the request."""
    message = only(ASKED)
    made = genl.encode_error(message, errno.ENOENT)
    assert made == bytes.fromhex("38000000 0200 0000 44332211 4d000000 feffffff") + ASKED


def test_an_error_for_another_port_and_with_the_header_alone() -> None:
    """NETLINK_CAP_ACK. The request says what its sender has written, whoever that is."""
    made = genl.encode_error(only(ASKED), errno.EBADF, 4711, capped=True)
    assert made == bytes.fromhex("24000000 0200 0001 44332211 67120000 f7ffffff") + ASKED[:16]
    assert genl.error_of_untrusted(only(made)) == errno.EBADF


def test_an_acknowledgement_holds_the_header() -> None:
    made = genl.acknowledge(only(ASKED))
    assert genl.error_of_untrusted(only(made)) == 0
    assert made == bytes.fromhex("24000000 0200 0001 44332211 4d000000 00000000") + ASKED[:16]


@pytest.mark.parametrize(
    ("role", "security", "peername", "timeout", "said"),
    [
        ("client", "tls", "host", 0, {"MESSAGE_TYPE": 1, "AUTH_MODE": 1, "PEERNAME": "host"}),
        ("client", "mtls", "", 7, {"MESSAGE_TYPE": 1, "AUTH_MODE": 3, "TIMEOUT": 7}),
        ("server", "tls", "host", 0, {"MESSAGE_TYPE": 2, "AUTH_MODE": 3}),
        ("server", "mtls", "", 0, {"MESSAGE_TYPE": 2, "AUTH_MODE": 3}),
    ],
)
def test_what_the_work_is(
    role: str, security: str, peername: str, timeout: int, said: dict[str, Any]
) -> None:
    assert task_of(role, security, peername, timeout) == said


# Of a request: what the policy says. None: it is taken.
POLICY: list[tuple[genl.Command, str, int | None, dict[str, Any]]] = [
    (ACCEPT, "0800 0200 01000000", None, {"HANDLER_CLASS": 1}),
    (ACCEPT, "", None, {}),
    (ACCEPT, "0800 0200 02000000", None, {"HANDLER_CLASS": 2}),
    (ACCEPT, "0800 0200 03000000", errno.ERANGE, {}),
    (ACCEPT, "0700 0200 01000000", errno.EINVAL, {}),  # three bytes
    (ACCEPT, "0800 0100 01000000", errno.EINVAL, {}),  # SOCKFD is the kernel's to say
    (ACCEPT, "0800 0200 01000000 00", errno.EINVAL, {}),
    (ACCEPT, "0300 0200 01000000", errno.EINVAL, {}),
    (ACCEPT, "0900 0200 01000000", errno.EINVAL, {}),
    (ACCEPT, "0800 0280 01000000", errno.EINVAL, {}),  # NLA_F_NESTED
    (DONE, "0800 0100 00000000 0800 0200 ffffffff", None, {"STATUS": 0, "SOCKFD": -1}),
    (
        DONE,
        "0800 0200 05000000 0800 0300 01000000 0800 0300 ffffffff",
        None,
        {"SOCKFD": 5, "REMOTE_AUTH": (1, 0xFFFFFFFF)},
    ),
    # TAG of ktls-utils, which no kernel knows: tlshd asks for it at its start.
    (DONE, "0800 0100 00000000 0e00 0400 5f5f70726f62655f5f00 0000", errno.EINVAL, {}),
]


@pytest.mark.parametrize(("command", "attributes", "refused", "read"), POLICY)
def test_the_policy(
    command: genl.Command, attributes: str, refused: int | None, read: dict[str, Any]
) -> None:
    message = request(command, attributes)
    if refused is None:
        assert genl.read_untrusted(command, message) == read
        return
    with pytest.raises(CallerError) as caught:
        genl.read_untrusted(command, message)
    assert caught.value.errno == refused


@pytest.mark.parametrize("number", [0, READY.number, 4, 255])
def test_no_such_command(number: int) -> None:
    """READY is a notification: nobody can ask for it."""
    with pytest.raises(CallerError) as caught:
        HANDSHAKE.command(number)
    assert caught.value.errno == errno.EOPNOTSUPP


FAMILIES = {family.number: family for family in (NLCTRL, HANDSHAKE)}


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"FAMILY_NAME": "handshake"}, "handshake"),
        ({"FAMILY_ID": HANDSHAKE.number}, "handshake"),
        ({"FAMILY_ID": HANDSHAKE.number, "FAMILY_NAME": "nlctrl"}, "nlctrl"),
        ({"FAMILY_ID": 0x7777}, errno.ENOENT),
        ({"FAMILY_NAME": "nl80211"}, errno.ENOENT),
        ({}, errno.EINVAL),
    ],
)
def test_which_family_is_asked_for(asked: dict[str, Any], found: str | int) -> None:
    if isinstance(found, str):
        assert genl.wanted_family_untrusted(FAMILIES, asked).name == found
        return
    with pytest.raises(CallerError) as caught:
        genl.wanted_family_untrusted(FAMILIES, asked)
    assert caught.value.errno == found


@pytest.mark.parametrize("name", ["", "no end", "a name that is too long\0"])
def test_names_of_families_that_there_cannot_be(name: str) -> None:
    value = name.encode()
    body = nl.GENLMSGHDR.pack(3, 1, 0) + nl.NLATTR.pack(nl.NLATTR.size + len(value), 2) + value
    head = nl.NLMSGHDR.pack(nl.NLMSGHDR.size + len(body), nl.GENL_ID_CTRL, 1, 1, 0)
    with pytest.raises(CallerError):
        genl.read_untrusted(GETFAMILY, only(head + body))


def test_several_messages_in_one_datagram() -> None:
    padded = nl.NLMSGHDR.pack(17, 3, 0, 1, 0) + b"x" + bytes(3)
    datagram = padded + ASKED + b"\xff" * 8
    assert encode_message(only(ASKED)) == ASKED
    assert [message.seq for message in messages_untrusted(datagram)] == [1, 0x11223344]
    assert list(messages_untrusted(ASKED[:-1])) == []
    assert not only(nl.NLMSGHDR.pack(16, 3, 0, 1, 0)).payload
    assert list(messages_untrusted(nl.NLMSGHDR.pack(15, 3, 0, 1, 0))) == []


@pytest.mark.parametrize("length", [0, 1, 3])
def test_a_message_without_its_header(length: int) -> None:
    payload = memoryview(bytes([ACCEPT.number, 1, 0, 0]))
    assert genl.command_untrusted(HANDSHAKE, Message(HANDSHAKE.number, 1, 0, payload)) is ACCEPT
    cut = Message(HANDSHAKE.number, 1, 0, payload[:length])
    with pytest.raises(CallerError, match="without its header"):
        genl.command_untrusted(HANDSHAKE, cut)


@pytest.mark.parametrize(
    "attributes",
    [
        "0800 0100 05000000 0800 6300 01000000",  # one that nobody knows
        "0800 0180 05000000",  # NLA_F_NESTED
        "0800 0100 05000000 000000",  # bytes left over
        "0c00 0100 05000000 01000000",  # a longer number
    ],
)
def test_of_an_answer_what_is_known_is_read(attributes: str) -> None:
    """As nla_parse of Linux does where it is not strict."""
    assert genl.decode_untrusted(ACCEPT, request(ACCEPT, attributes)) == {"SOCKFD": 5}


def test_a_nest_is_one_with_the_flag_and_without() -> None:
    nest = genl.Attribute("NEST", 1, "nest", inside=(genl.Attribute("NUMBER", 2),))
    command = genl.Command("TEST", 2, takes=(nest,))
    for attributes in ("0c00 0100 0800 0200 05000000", "0c00 0180 0800 0200 05000000"):
        read = genl.read_untrusted(command, request(command, attributes))
        assert read == {"NEST": {"NUMBER": 5}}


@given(st.binary(max_size=200), st.sampled_from([ACCEPT, DONE, GETFAMILY]))
def test_whatever_comes(data: bytes, command: genl.Command) -> None:
    """Nothing but `CallerError`."""
    for message in messages_untrusted(data):
        with contextlib.suppress(CallerError):
            genl.command_untrusted(HANDSHAKE, message)
    wrapped = Message(HANDSHAKE.number, 1, 0, memoryview(nl.GENLMSGHDR.pack(1, 1, 0) + data))
    with contextlib.suppress(CallerError):
        genl.read_untrusted(command, wrapped)
    with contextlib.suppress(CallerError):
        genl.decode_untrusted(command, wrapped)


VALUES = st.fixed_dictionaries(
    {},
    optional={
        "SOCKFD": st.integers(-(2**31), 2**31 - 1),
        "MESSAGE_TYPE": st.integers(0, 2**32 - 1),
        "PEERNAME": st.text(st.characters(min_codepoint=1, codec="utf-8")),
        "PEER_IDENTITY": st.lists(st.integers(0, 2**32 - 1), min_size=1).map(tuple),
        "CERTIFICATE": st.lists(
            st.fixed_dictionaries({"CERT": st.integers(-9, 9), "PRIVKEY": st.integers(0, 9)}),
            min_size=1,
        ).map(tuple),
    },
)


@given(VALUES)
def test_round_trip(values: dict[str, Any]) -> None:
    assert genl.decode_untrusted(ACCEPT, only(encode(HANDSHAKE, ACCEPT, values))) == values
