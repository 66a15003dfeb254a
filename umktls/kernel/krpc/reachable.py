"""Whether the server can be reached: since when not, what was tried, when the next try is.

Pauses between tries grow, as Linux's do (net/sunrpc/xprtsock.c doubles them); ours end at ten
seconds, so that a server that is back is found soon.
"""

from __future__ import annotations

from typing import Any

from umktls.kernel.ground.events import Trace

__all__ = ["PAUSES", "SILENT_SECONDS", "Reachable"]

PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0, 1.0, 2.0, 2.0, 5.0, 5.0, 10.0)
# A server that has a connection, and calls without an answer for so long, is away too.
SILENT_SECONDS = 5.0


class Reachable:
    """What is known of one server. Times are the trace's, seconds since 1970.

    since: when it was found to be away, None while it answers. tries: connections that were tried
    since then. reason: how the last try ended. next_try: when the next one is, 0 while one is made
    or a connection is there. heard: when it last answered, or had a new connection (trio's time).
    """

    def __init__(self, trace: Trace, server: str) -> None:
        self._trace = trace
        self._server = server
        self.since: float | None = None
        self.tries = 0
        self.reason = ""
        self.next_try = 0.0
        self.heard = 0.0

    def failed(self, reason: str, waiting: int) -> float:
        """One more try was in vain, for so many calls that wait: the seconds until the next."""
        pause = PAUSES[min(self.tries, len(PAUSES) - 1)]
        self._away(reason, waiting)
        self.tries += 1
        self.next_try = self._trace.now() + pause
        self._trace.emit(
            "server-try", None, server=self._server, tries=self.tries, reason=reason, pause=pause
        )
        return pause

    def silent(self, seconds: float, waiting: int) -> None:
        """There is a connection, and no answer to the calls on it for so long."""
        self._away(f"connected, and no answer for {seconds:.0f} s", waiting, seconds)

    def refused(self, reason: str, waiting: int) -> None:
        """A try ended in a way that ends all calls; the next call tries again."""
        self._away(reason, waiting)
        self.tries += 1
        self.next_try = 0.0

    def trying(self) -> None:
        """A connection is being tried."""
        self.next_try = 0.0

    def connected(self) -> None:
        """A try worked; whether the server answers is still to be seen."""
        self.next_try = 0.0
        if self.since is not None:
            self.reason = "connected again, and no answer yet"

    def answered(self) -> None:
        """The server has answered a call."""
        if self.since is None:
            return
        seconds = self._trace.now() - self.since
        self._trace.emit("server-back", None, server=self._server, seconds=seconds)
        self.since, self.tries, self.reason, self.next_try = None, 0, "", 0.0

    def facts(self) -> dict[str, Any]:
        """What `umktls stat` shows of it."""
        return {
            "answers": self.since is None,
            "away_since": self.since,
            "tries": self.tries,
            "reason": self.reason,
            "next_try": self.next_try or None,
        }

    def _away(self, reason: str, waiting: int, already: float = 0.0) -> None:
        self.reason = reason
        if self.since is None:
            self.since = self._trace.now() - already
            self._trace.emit(
                "server-away", None, server=self._server, reason=reason, waiting=waiting
            )
