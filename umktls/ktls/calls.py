"""A KTLS socket as its kernel and its daemon see it: two halves, socket options, sendmsg, recvmsg.

Theory of operation
-------------------
The kernel owns one KtlsSocket per TCP connection. It moves bytes between TCP and the two halves,
`tx` and `rx`; a daemon that has taken the socket reaches the same halves by system calls, which
come here. What differs between kernels is in the personality, and where it is more than a value, in
the modules that this one looks up: socket options (options/), sending.py, receiving.py. Those know
the state alone (socket/state.py). Nothing changes before all checks of a call have passed.
"""

from __future__ import annotations

import errno
from functools import cached_property

from umktls.abi import linux
from umktls.ktls.engines import Buffer
from umktls.ktls.options.option import Copyin, Option, no_such_option
from umktls.ktls.options.table import options_of
from umktls.ktls.socket.receiving import READABLE, RECEIVERS, Call, Received
from umktls.ktls.socket.sending import SENDERS, Message, Sent, close_record
from umktls.ktls.socket.state import KtlsSocketState


class KtlsSocket(KtlsSocketState):
    """See the module's theory of operation; attributes and arguments are those of the state."""

    @cached_property
    def _options(self) -> dict[tuple[int, int], Option]:
        keys = self.personality.keys
        return options_of(keys.interfaces, keys.lacks)

    # Socket options

    def setsockopt(self, level: int, name: int, value: bytes, copyin: Copyin) -> None:
        """Set one option.

        Raises:
            UmktlsError: as the option's kernel has it; ENOPROTOOPT for one that cannot be set.
        """
        option = self._options.get((level, name))
        if option is None or option.set is None:
            raise no_such_option(level, name, "set")
        option.set(self, value, copyin)

    def getsockopt(self, level: int, name: int, length: int) -> bytes:
        """An option's value, cut to `length`. Raises UmktlsError as `setsockopt`."""
        option = self._options.get((level, name))
        if not self._has_level(level):
            unknown = getattr(errno, self.personality.keys.unknown_level)
            raise no_such_option(level, name, "got", unknown)
        if option is None or option.get is None:
            raise no_such_option(level, name, "got")
        return option.get(self, length)

    def _has_level(self, level: int) -> bool:
        """Whether there are options at that level; Linux's ULP brings SOL_TLS along."""
        if level == linux.SOL_TLS and not self.ulp:
            return False
        return any(known == level for known, _ in self._options)

    # Messages

    def send(
        self,
        data: Buffer,
        control: bytes = b"",
        flags: int = 0,
        room: int | None = None,
        *,
        broadcast: bool = False,
    ) -> Sent:
        """One sendmsg(2): what goes to TCP, and how many of the bytes were taken.

        `room` is how many bytes TCP's send buffer takes. `broadcast`: the call names such an
        address.

        Where the connection is `dropped` afterwards, the engine has failed to make a record. In
        FreeBSD this call does not know that, and succeeds.

        A call that fails may have sealed the record that was open before it. That record goes out
        with the next call that does not fail; who cannot wait for one has it by `take_pending`.

        Raises:
            WouldBlock: there is no room.
            KeyExhausted: the key seals no more records.
            SealFailed: the engine cannot.
            UmktlsError: as the personality's kernel has it; see sending.py.
        """
        message = Message(memoryview(data), control, flags, room, broadcast)
        return SENDERS[self.personality.sending.kernel](self, message)

    def sendmsg(self, data: Buffer, control: bytes = b"", flags: int = 0) -> list[Buffer]:
        """What goes to TCP for one sendmsg(2) with room for all of it; raises as `send`."""
        return self.send(data, control, flags).wire

    def flush(self) -> list[Buffer]:
        """What goes to TCP before somebody seals past this object, with `tx.seal_message`: what
        waits, and what MSG_MORE has kept open, as a record of its own.

        Raises:
            KeyExhausted: the key has no number left for the open record, which stays open.
        """
        close_record(self)
        return self.take_pending()

    def recvmsg(self, length: int, controllen: int, flags: int = 0) -> Received:
        """One recvmsg(2): data, control messages, flags. All empty at the end of the stream.

        Raises:
            WouldBlock: nothing is there yet, or less than the call waits for.
            UmktlsError: a bad record, or as the personality's kernel has it; see receiving.py.
        """
        call = Call(length, controllen, flags, self.personality.messages)
        return RECEIVERS[self.personality.receiving.kernel](self, call)

    def readable(self) -> bool:
        """POLLIN: whether recvmsg has something to say."""
        return READABLE[self.personality.receiving.kernel](self)
