"""What led to what, across hosts: the arrows of the time line.

`RULES` is a table with a row for each kind of event. A row has words that the event leaves behind
(`leaves`), and words that earlier events may have left (`after`). The first word of `after` that
was left by anybody decides, and the event that left it last is the cause.

In a word, `{here}` is the event's connection with its host, `{there}` the same connection at the
other end, and `{host}` the host; other names in braces are the event's fields. Where a field or the
other end is not known, the word is passed over.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from umktls.dataclass import dataclass

__all__ = ["RULES", "Causes", "Rule"]

REMEMBERED = 50_000


@dataclass(frozen=True, slots=True)
class Rule:
    """See the module."""

    leaves: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


RULES = {
    # ---- a connection comes to be
    "daemon-started": Rule(leaves=("started {host} {pid}",)),
    "daemon-registered": Rule(after=("started {host} {pid}",)),
    "tcp-connect": Rule(leaves=("connected {here}",)),
    "tcp-accept": Rule(leaves=("connected {here}",), after=("connected {there}",)),
    "probe": Rule(leaves=("probe {here}",), after=("probe {there}", "connected {here}")),
    "starttls": Rule(leaves=("starttls {here}",), after=("starttls {there}", "probe {here}")),
    # ---- upcalls and system calls
    "upcall": Rule(
        leaves=("upcall {host} {xid}", "asked {here}"),
        after=("{procedure} {here}", "starttls {here}"),
    ),
    "socket-taken": Rule(leaves=("taken {here}",), after=("asked {here}",)),
    "syscall": Rule(after=("taken {here}",)),
    "flight": Rule(after=("taken {here}",)),
    "handshake-message": Rule(after=("taken {here}",)),
    "handshake": Rule(leaves=("handshake {here}",), after=("taken {here}",)),
    "handshake-failed": Rule(leaves=("ended {here}",), after=("taken {here}",)),
    "tx-keys": Rule(leaves=("tx {here}",), after=("update {here}", "taken {here}")),
    "rx-keys": Rule(leaves=("rx {here}",), after=("update {here}", "taken {here}")),
    "upcall-answered": Rule(leaves=("answered {here}",), after=("upcall {host} {xid}",)),
    "mode": Rule(after=("answered {here}",)),
    "rekey": Rule(leaves=("REKEY {here}",)),
    "disconnect": Rule(leaves=("DISCONNECT {here}", "ended {here}")),
    "control-record": Rule(leaves=("HANDLERECORD {here}",), after=("opened {here}",)),
    "ticket": Rule(after=("asked {here}",)),
    "key-update": Rule(leaves=("update {here}",), after=("asked {here}",)),
    "alert": Rule(leaves=("ended {here}",), after=("asked {here}",)),
    "closed": Rule(leaves=("closed {here}",), after=("ended {here}",)),
    "reconnect": Rule(after=("closed {here}", "ended {here}")),
    # ---- records and calls
    "record-sealed": Rule(
        leaves=("sealed {here} {generation} {sequence}",), after=("message {here}", "asked {here}")
    ),
    "record-opened": Rule(
        leaves=("opened {here}",), after=("sealed {there} {generation} {sequence}",)
    ),
    "record-refused": Rule(
        leaves=("ended {here}",), after=("sealed {there} {generation} {sequence}",)
    ),
    "request": Rule(leaves=("request {host} {request}",)),
    "call-sent": Rule(
        leaves=("message {here}", "call {host} {xid}", "call-from {here} {xid}"),
        after=("request {host} {request}",),
    ),
    "call-received": Rule(
        leaves=("call {here} {xid}",), after=("opened {here}", "call-from {there} {xid}")
    ),
    "reply-sent": Rule(
        leaves=("message {here}", "reply-from {here} {xid}"), after=("call {here} {xid}",)
    ),
    "reply-received": Rule(
        leaves=("reply {host} {request}",), after=("opened {here}", "reply-from {there} {xid}")
    ),
    "request-answered": Rule(after=("reply {host} {request}", "request {host} {request}")),
}
NONE = Rule()


class Causes:
    """Gives each event, in their order, the ids of those that led to it."""

    def __init__(self) -> None:
        self._left: OrderedDict[str, str] = OrderedDict()
        self._addresses: dict[str, str] = {}
        self.others: dict[str, str] = {}

    def pair(self, one: str, other: str) -> bool:
        """Two ends of one connection, by `here`; whether that is news."""
        if self.others.get(one) == other:
            return False
        self.others[one], self.others[other] = other, one
        return True

    def of(self, event: dict[str, Any]) -> list[str]:
        """The ids of the causes: of one, or none. The event must have an `id` and, if it has a
        connection, a `here`."""
        kind = event["event"]
        if kind in ("tcp-connect", "tcp-accept"):
            self._meet(event["here"], str(event.get("local" if kind == "tcp-connect" else "peer")))
        rule = RULES.get(kind, NONE)
        words = dict(event)
        if (there := self.others.get(event.get("here", ""))) is not None:
            words["there"] = there
        found = next((led for word in rule.after if (led := self._look(word, words))), None)
        for word in rule.leaves:
            self._leave(word, words, event["id"])
        return [found] if found is not None else []

    def _meet(self, here: str, address: str) -> None:
        """Both ends tell of the client's address, whichever is the first to."""
        other = self._addresses.pop(address, None)
        if other is None or other.partition(":")[0] == here.partition(":")[0]:
            self._addresses[address] = here
        else:
            self.pair(here, other)

    def _look(self, word: str, words: dict[str, Any]) -> str | None:
        made = filled(word, words)
        return None if made is None else self._left.get(made)

    def _leave(self, word: str, words: dict[str, Any], event: str) -> None:
        made = filled(word, words)
        if made is None:
            return
        self._left[made] = event
        self._left.move_to_end(made)
        if len(self._left) > REMEMBERED:
            self._left.popitem(last=False)


def filled(word: str, words: dict[str, Any]) -> str | None:
    """The word with its fields; None where one is missing."""
    try:
        return word.format_map(words)
    except (KeyError, ValueError):
        return None
