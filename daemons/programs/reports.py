"""What a daemon says of its handshakes: in its log, and in the kernel's trace."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from umktls.errors import UmktlsError
from umktls.userland.libc import Kernel

from ..tls.facts import subject_of
from ..tls.failure import HandshakeFailure
from ..tls.tlsadapter import Endpoint
from .taken import Taken

__all__ = ["Reports"]

logger = logging.getLogger(__name__)


class Reports:
    """To one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def handshake(self, taken: Taken, endpoint: Endpoint, said: str) -> dict[str, Any]:
        """Put it into the trace along with this thread's next system call; what it is, for the log.
        `said`: what people should know besides; may be empty."""
        chain = endpoint.chain
        event = {
            "event": "handshake",
            "fd": taken.sock.number,
            "version": endpoint.version,
            "suite": endpoint.suite,
            "alpn": endpoint.alpn.decode("ascii", "surrogateescape"),
            "peer": subject_of(chain) if chain else "without a certificate",
            "resumed": endpoint.resumed,
            "verified": bool(chain),
            "client_certificate": endpoint.client_certificate,
        }
        if said:
            event["remark"] = said
        self.trace_later(event)
        return event

    def log_handshake(self, taken: Taken, event: Mapping[str, Any]) -> None:
        """The same for the log, which nobody waits for."""
        logger.info(
            "handshake with %s (%s): %s %s, client certificate %s%s",
            taken,
            event["peer"],
            event["version"],
            event["suite"],
            event["client_certificate"],
            ", resumed" if event["resumed"] else "",
        )
        if "remark" in event:
            logger.info("%s: %s", taken, event["remark"])

    def failure(self, taken: Taken, failure: HandshakeFailure) -> None:
        """Say why there is no session: in the log, and in the kernel's trace."""
        logger.warning(
            "handshake with %s failed in phase %s: %s; %s",
            taken,
            failure.phase,
            failure.reason,
            failure.advice,
        )
        self.trace(failure.event(taken.sock.number))

    def trace(self, event: Mapping[str, Any]) -> None:
        """A trace that the kernel does not take is no reason to stop."""
        try:
            self._kernel.utrace(event)
        except UmktlsError as error:
            _not_traced(event.get("event"), error)

    def trace_later(self, event: Mapping[str, Any]) -> None:
        """The same, along with this thread's next system call; see `Kernel.later`."""
        self._kernel.utrace_later(event, partial(_not_traced, event.get("event")))


def _not_traced(event: object, error: UmktlsError) -> None:
    logger.info("the kernel did not take the event %s: %s", event, error)
