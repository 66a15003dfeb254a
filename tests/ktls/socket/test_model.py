"""Two sockets against the plain model, whatever is sent, however it is cut, read and damaged."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.conformance.reference import records_of
from tests.conformance.world import KEY_UPDATE, World, flipped, keys
from tests.ktls.socket.model import CUT, DATA, Answer, Item, Model, Receive, SendModel
from umktls.abi import freebsd, linux
from umktls.abi.personality import PERSONALITIES
from umktls.errors import UmktlsError
from umktls.ktls.session import Direction, Session
from umktls.ktls.session.suites import ALL_SUITES, CBC_BLOCK, TLS_1_0, TLS_1_3
from umktls.ktls.socket.sending import Sent

EXAMPLES = 8  # for each suite, version and personality: some 70 there are
HEADER = 5
HANDSHAKE = 22


@dataclass(frozen=True)
class Send:
    """A message; `more` where the kernel has MSG_MORE, `damaged`: a bit of its last record flips on
    the way, in the byte that has this number behind the header, counted round and round. `room`:
    what TCP's send buffer takes, None for everything."""

    size: int
    type: int = DATA
    more: bool = False
    damaged: int | None = None
    room: int | None = None


@dataclass(frozen=True)
class Update:
    """A KeyUpdate, and a new key behind it."""


@dataclass(frozen=True)
class Arrive:
    """So many bytes come out of TCP."""

    count: int


@dataclass(frozen=True)
class Poll:
    """Whether something can be read."""


@dataclass(frozen=True)
class Mark:
    """SO_RCVLOWAT is set."""

    low_water: int


ALL = Receive(50_000, 24)
# What is answered at the end of the stream, and then; what, if it is inside a record; and the same
# where the connection was reset.
END, RESET = Answer(), Answer(errno.ECONNRESET)
CUT_OFF, NEVER = Answer(errno.EMSGSIZE), Answer(errno.EAGAIN)
ENDS = {
    "freebsd": ((END, END), (CUT_OFF, NEVER), (RESET, END), (CUT_OFF, NEVER)),
    "linux": ((END, END), (END, END), (RESET, END), (RESET, END)),
    "umktls": ((END, END), (CUT_OFF, END), (RESET, END), (RESET, END)),
}
Step = Send | Update | Arrive | Receive | Poll | Mark

SIZES = st.one_of(st.integers(0, 60), st.sampled_from([16383, 16384, 16385, 40000]))
SENDS = st.builds(
    Send,
    SIZES,
    st.sampled_from([DATA, DATA, DATA, 21, HANDSHAKE, 100]),
    st.booleans(),
    st.one_of(*[st.none()] * 6, st.just(-1), st.integers(0, 20_000)),
    st.one_of(*[st.none()] * 2, st.sampled_from([0, 1, 2047, 2048]), st.integers(0, 45_000)),
)
ARRIVALS = st.builds(
    Arrive, st.one_of(st.integers(1, 40), st.just(100_000), st.integers(1, 20_000))
)
RECEIVES = st.builds(
    Receive,
    st.one_of(st.integers(1, 70), st.just(100_000)),
    st.sampled_from([24, 24, 24, 0, 20]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
MARKS = st.builds(Mark, st.one_of(st.integers(1, 100), st.just(20_000)))
STEPS = st.lists(
    st.one_of(
        SENDS, ARRIVALS, RECEIVES, RECEIVES, SENDS, st.just(Update()), st.just(Poll()), MARKS
    ),
    max_size=40,
)


def possible(personality: str, suite_name: str, version: int) -> bool:
    """Whether that kernel can send and receive with the suite."""
    rules = PERSONALITIES[personality].keys
    suite = ALL_SUITES[suite_name]
    if version == TLS_1_0:
        return False
    if "linux" in rules.interfaces and suite.cipher_type:
        return True
    if "freebsd" not in rules.interfaces or suite.algorithm not in rules.algorithms:
        return False
    received = rules.rx_cbc is not None if suite.mac else True
    return received and (version & 0xFF) <= rules.rx_newest


COMBINATIONS = [
    (personality, name, version)
    for personality in PERSONALITIES
    for name, suite in ALL_SUITES.items()
    for version in suite.versions
    if possible(personality, name, version)
]


class Run:
    """The sockets, the bytes between them, and the model that is asked the same."""

    def __init__(self, personality: str, name: str, version: int) -> None:
        self.session = keys(ALL_SUITES[name], version)
        self.sender, self.receiver = World(personality), World(personality)
        self.kind = personality.rstrip("0123456789.")
        self.model = Model(self.kind)
        self.sending = SendModel(self.kind, self._size)
        self.wire = b""
        self.epoch = self.received_epoch = 0
        self._enable(self.sender, "tx", self.session)
        self._enable(self.receiver, "rx", self.session)
        self.steps: dict[type, Callable[[Step], None]] = {
            Send: self.send,
            Update: self.update,
            Arrive: self.arrive,
            Receive: self.receive,
            Poll: self.poll,
            Mark: self.mark,
        }

    def _enable(self, world: World, direction: Direction, session: Session) -> None:
        if session.suite.cipher_type and "linux" in world.personality.keys.interfaces:
            world.linux_enable(direction, session)
        else:
            world.freebsd_enable(direction, session)

    def send(self, step: Step) -> None:
        assert isinstance(step, Send)
        # No byte of it makes a record look like a KeyUpdate, and handshake messages are whole.
        data = bytes((len(self.wire) + i) % KEY_UPDATE[0] for i in range(step.size))
        if step.type == HANDSHAKE and data:
            data = bytes(1) + len(data).to_bytes(3, "big") + data
        if self.kind == "freebsd" and not data:
            return
        more = step.more and self.kind != "freebsd" and step.type == DATA
        items, records, count = self._send(data, step.type, more, step.room)
        if step.type == HANDSHAKE and count < len(data):
            rest, more_records, _ = self._send(data[count:], step.type, more, None)
            items, records = items + rest, records + more_records
        if step.damaged is not None and records:
            body = len(records[-1]) - HEADER
            records[-1] = flipped(records[-1], HEADER + step.damaged % body)
            items[-1] = replace(items[-1], bad=True)
        for item, record in zip(items, records, strict=True):
            self.model.sent(item, len(record))
        self.wire += b"".join(records)

    def _send(
        self, data: bytes, record_type: int, more: bool, room: int | None
    ) -> tuple[list[Item], list[bytes], int]:
        """One sendmsg: what it has to become, what it became, and how much of it was taken."""
        expected = self.sending.send(data, record_type, more, room)
        control = b"" if record_type == DATA else self.sender.set_type(record_type)
        flags = self.sender.abi.more if more else 0
        failed, sent = 0, Sent()
        try:
            sent = self.sender.socket.send(data, control, flags, room)
        except UmktlsError as error:
            failed = error.errno
        assert (expected.errno, expected.count) == (failed, sent.count)
        records = [record for wire in sent.wire for record in records_of(bytes(wire))]
        items = list(expected.items)
        assert [len(record) for record in records] == [self._size(len(i.payload)) for i in items]
        event("a partial send" if sent.count < len(data) else "a whole send")
        return items, records, sent.count

    def _size(self, length: int) -> int:
        """Bytes on the wire of a record with so many bytes of payload."""
        suite, version = self.session.suite, self.session.version
        length += suite.tag_length
        if suite.mac:
            length += CBC_BLOCK - length % CBC_BLOCK
        return HEADER + suite.explicit(version) + length + (version == TLS_1_3)

    def update(self, step: Step) -> None:
        if not self.sender.personality.keys.rekey or self.session.version != TLS_1_3:
            return
        self.send(Send(0, HANDSHAKE))  # lets the open record go
        wire = self.sender.send(KEY_UPDATE, HANDSHAKE)
        self.model.sent(Item(HANDSHAKE, KEY_UPDATE, update=True), len(wire))
        self.wire += wire
        self.epoch += 1
        self._enable(self.sender, "tx", keys(self.session.suite, epoch=self.epoch))

    def arrive(self, step: Step) -> None:
        assert isinstance(step, Arrive)
        piece, self.wire = self.wire[: step.count], self.wire[step.count :]
        self.receiver.arrive(piece)
        self.model.arrive(len(piece))

    def receive(self, step: Step) -> None:
        assert isinstance(step, Receive)
        expected = self.model.recv(step)
        found = self.answer(step)
        if step.peek and self.kind == "linux":
            # Linux shows the end of what it peeks at by chance; see the conformance suite.
            found, expected = replace(found, end=False), replace(expected, end=False)
        assert found == expected
        event(f"errno {found.errno}")
        if found.errno == errno.EKEYEXPIRED and self.received_epoch < self.epoch:
            self.received_epoch += 1
            new = keys(self.session.suite, epoch=self.received_epoch)
            self._enable(self.receiver, "rx", new)
            self.model.rekeyed()

    def mark(self, step: Step) -> None:
        assert isinstance(step, Mark)
        abi = freebsd if "freebsd" in self.receiver.personality.keys.interfaces else linux
        value = step.low_water.to_bytes(4, "little")
        self.receiver.set(abi.SOL_SOCKET, abi.SO_RCVLOWAT, value)
        self.model.low_water = step.low_water

    def poll(self, step: Step) -> None:
        expected = self.model.readable()
        found = self.receiver.socket.readable()
        assert expected in (None, found)

    def end(self, tail: int, reset: bool) -> None:
        """The stream ends, `tail` bytes into a record; only if everything before it was read."""
        if self.answer(ALL).errno != errno.EAGAIN:
            return  # a bad record stays, as Linux has it
        (record, *_) = records_of(self.sender.send(b"never to be read"))
        begun = tail % len(record)
        self.receiver.arrive(record[:begun])
        if reset:
            self.receiver.socket.connection_lost()
        else:
            self.receiver.fin()
        expected = ENDS[self.kind][2 * reset + bool(begun)]
        assert tuple(self.answer(ALL) for _ in expected) == expected

    def answer(self, step: Receive) -> Answer:
        world = self.receiver
        flags = world.abi.peek if step.peek else 0
        flags |= world.abi.waitall if step.everything else 0
        flags |= 0 if step.may_wait else world.abi.dontwait
        try:
            data, control, out = world.socket.recvmsg(step.length, step.room, flags)
        except UmktlsError as error:
            return Answer(error.errno)
        whole = len(control) >= 17 if self.kind == "linux" else len(control) == 24
        told = world.type_of(control) if whole else CUT if control else 0
        return Answer(0, data, told, bool(out & world.abi.eor))


@pytest.mark.parametrize("combination", COMBINATIONS, ids=lambda row: "{}-{}-{:#x}".format(*row))
@settings(max_examples=EXAMPLES)
@given(steps=STEPS, tail=st.integers(0, 60), reset=st.booleans())
def test_sockets_do_what_the_model_says(
    combination: tuple[str, str, int], steps: list[Step], tail: int, reset: bool
) -> None:
    run = Run(*combination)
    for step in steps:
        run.steps[type(step)](step)
    run.arrive(Arrive(len(run.wire) or 1))
    for _ in range(60):
        run.receive(ALL)
    run.end(tail, reset)


def test_every_suite_and_personality_is_in_it() -> None:
    assert {personality for personality, _, _ in COMBINATIONS} == set(PERSONALITIES)
    names = {name for _, name, _ in COMBINATIONS}
    assert names == set(ALL_SUITES)
