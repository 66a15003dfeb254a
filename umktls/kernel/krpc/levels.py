"""Which level of security an export wants, found out for the message of a mount that was refused.

A server that gives an export to connections of another level alone says so by NFS3ERR_ACCES
(knfsd, at FSINFO) or AUTH_TOOWEAK (at MNT, where that comes on the same connection, or at FSINFO),
and neither tells which level that is. So the call that was refused is tried at the others, each on
a connection of its own; in clear only where the root's handle came in clear: it is not told to more
people than know it. A host of a mount in clear has no daemon; all it can find out is whether the
server offers TLS.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from umktls.errors import UmktlsError
from umktls.kernel.krpc.mountconfig import MountConfig

__all__ = ["ANONYMOUS", "TRIAL_SECONDS", "other_levels", "wanted_level"]

TRIAL_SECONDS = 10.0
# TLS without a client certificate, also where the daemon's -m says to show one.
ANONYMOUS = "anonymous"
OPTIONS = {"none": "notls", "tls": "tls", ANONYMOUS: "tls", "mtls": "mtls"}
NAMES = {
    "none": "clear text",
    "tls": "TLS",
    ANONYMOUS: "TLS without a client certificate",
    "mtls": "TLS with a client certificate",
}


def other_levels(config: MountConfig, known_in_clear: bool) -> list[str]:
    """The levels that can be tried beside the mount's own."""
    if config.security == "none":
        return []
    levels = ["none"] if known_in_clear else []
    if config.security == "mtls":
        levels.append(ANONYMOUS)
    elif has_certificate(config):
        levels.append("mtls")
    return levels


def has_certificate(config: MountConfig) -> bool:
    """Whether there is one to show, as far as it is known here."""
    elsewhere = config.no_daemon or config.agent is not None
    if elsewhere or config.certs is None:
        return elsewhere
    return all((config.certs / "client" / name).exists() for name in ("cert.pem", "certkey.pem"))


async def wanted_level(
    config: MountConfig,
    known_in_clear: bool,
    given: Callable[[str], Awaitable[bool]],
    offers_tls: Callable[[], Awaitable[bool]],
) -> str:
    """What to say behind a refusal: the level that the export wants, and how to mount so.

    given: whether the call works at a level; offers_tls: whether the server answers the probe.
    """
    if config.security == "none":
        if await in_time(offers_tls()):
            return "the server offers TLS, which the export may want: mount with -o tls or -o mtls"
        return "the server offers no TLS either: is the export for this client?"
    levels = other_levels(config, known_in_clear)
    for level in levels:
        if await in_time(given(level)):
            return f"the export is given in {NAMES[level]}: mount with -o {OPTIONS[level]}"
    tried = (
        f"; nor is it given in {' or '.join(NAMES[level] for level in levels)}" if levels else ""
    )
    own = NAMES[config.security]
    if config.security == "tls" and "mtls" not in levels:
        more = "it may want a client certificate, and there is none: see -o mtls"
    else:
        more = "is the export for this client?"
    return f"this connection has {own}{tried}: {more}"


async def in_time(trial: Awaitable[bool]) -> bool:
    """Whether a trial succeeds in time."""
    with trio.move_on_after(TRIAL_SECONDS):
        try:
            return await trial
        except UmktlsError:
            return False
    return False
