"""Scenarios up to the end of the handshake: certificates, and peers that stop, stall or babble."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Sequence

import trio

from umktls.scenarios.bench import Bench, Meeting, Unexpected
from umktls.scenarios.table import ALPN, DEMAND, SESSION, scenario
from umktls.scenarios.tlspeer import (
    ALERT,
    APPLICATION_DATA,
    AlertReceived,
    Ended,
    Sending,
    TlsPeer,
    at_once,
    client_context,
    plain_alert,
    server_context,
)

HANDSHAKE_FAILURE, BAD_CERTIFICATE = 40, 42  # alerts, RFC 8446 section 6.2
VERIFIED = 0x08  # RPCTLS_FLAGS_VERIFIED
# What waits for nothing is there before this share of the upcall's time is over.
AT_ONCE = 0.8


class PeerStops(Exception):
    """The peer sends nothing more, by its script."""


def context_of(
    bench: Bench,
    kind: str | None = None,
    *,
    mutual: bool = False,
    alpn: Sequence[str] = ("sunrpc",),
) -> ssl.SSLContext:
    """The peer's context with the certificate of that kind, the good one unless said."""
    if bench.role == "client":
        return server_context(bench.wallet, kind or "server", mutual=mutual, alpn=alpn)
    return client_context(bench.wallet, kind or "client", alpn=alpn)


async def shake_hands(
    meeting: Meeting, sending: Sending = at_once, context: ssl.SSLContext | None = None
) -> None:
    """The probe and the handshake, as they should be but for `sending` and `context`."""
    await meeting.probe()
    context = context or context_of(meeting.bench)
    await meeting.peer.handshake(context, sending, name="localhost")


async def what_the_peer_saw(meeting: Meeting, play: Callable[[], Awaitable[None]]) -> str:
    """Play the peer's part although the host will refuse; what the peer was told, for people.

    Ends when the host has a session after all, or the upcall's time is over.
    """
    seen = "the peer was told nothing"
    with trio.move_on_after(meeting.bench.seconds + 1):
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                await meeting.bench.until(lambda: meeting.kernel.established)
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            seen = await told_to_peer(meeting, play)
            nursery.cancel_scope.cancel()
    return seen


async def told_to_peer(meeting: Meeting, play: Callable[[], Awaitable[None]]) -> str:
    try:
        await play()
        await meeting.peer.receive_data()
    except PeerStops:
        return "the peer stopped"
    except ssl.SSLError as error:
        return f"the peer saw {error.reason}"
    except AlertReceived as error:
        return f"the peer got {error}"
    except Ended as error:
        return f"for the peer {error}"
    return "the peer got data"


async def refused_handshake(
    bench: Bench,
    sending: Sending = at_once,
    context: ssl.SSLContext | None = None,
    security: str = "tls",
    within: float = AT_ONCE,
) -> str:
    """A handshake that the host must refuse; what was seen at both ends."""
    async with bench.meeting("mtls" if security == "mtls" else "tls") as meeting:
        seen = await what_the_peer_saw(meeting, lambda: shake_hands(meeting, sending, context))
        refusal = await meeting.refused(bench.seconds * within)
    return f"{refusal}; {seen}"


@scenario(
    "good",
    "a session, and calls on it",
    needs=(SESSION,),
    otherwise={SESSION: "refused at once: the kernel does not take the keys"},
)
async def good(bench: Bench) -> str:
    """A handshake as it should be, two calls, and an orderly end. Where the kernel does not take
    the keys, the daemon has to notice and to refuse."""
    if not bench.has(SESSION):
        return await refused_handshake(bench)
    async with bench.meeting() as meeting:
        await shake_hands(meeting)
        await meeting.talk()
        await meeting.talk()
        return f"a session with {meeting.peer.suite.name}, 2 calls"


@scenario("mutual", "a session, and the client's certificate seen and verified", needs=(SESSION,))
async def mutual(bench: Bench) -> str:
    """The server demands a certificate, and the client has a good one."""
    async with bench.meeting("mtls") as meeting:
        await shake_hands(meeting, context=context_of(bench, mutual=True))
        await meeting.talk()
        if bench.role == "client":
            if not meeting.peer.certificate:
                raise Unexpected("the daemon showed no certificate")
            return "the server has the client's certificate"
        flags = meeting.kernel.flags
        if not flags & VERIFIED:
            raise Unexpected(f"the daemon's flags are {flags:#x}, without VERIFIED")
        return f"flags {flags:#x}, VERIFIED among them"


@scenario("tls-shows-nothing", "a session, without a certificate", ("client",), needs=(SESSION,))
async def tls_shows_nothing(bench: Bench) -> str:
    """The server asks for a certificate and does without, and the mount is one with `tls`: who the
    client is must not be told to a server to which the mount did not want to tell it."""
    context = context_of(bench, mutual=True)
    context.verify_mode = ssl.CERT_OPTIONAL
    async with bench.meeting() as meeting:
        await shake_hands(meeting, context=context)
        await meeting.talk()
        if meeting.peer.certificate:
            raise Unexpected("the daemon showed a certificate, though the mount is not one by mtls")
        return "the server was shown no certificate"


@scenario("mtls-not-asked", "a session, without a certificate", ("client",), needs=(SESSION,))
async def mtls_not_asked(bench: Bench) -> str:
    """The mount is one with `mtls`, and the server never asks for a certificate. TLS gives a client
    no way to show one then (RFC 8446 section 4.4.2), so this is a session like any other."""
    async with bench.meeting("mtls") as meeting:
        await shake_hands(meeting)
        await meeting.talk()
        if meeting.peer.certificate:
            raise Unexpected("the daemon showed a certificate for which nobody had asked")
        return "the server was shown no certificate"


@scenario(
    "no-certificate",
    "refused",
    ("server",),
    needs=(DEMAND,),
    otherwise={DEMAND: "a session, and the kernel knows of no certificate"},
)
async def no_certificate(bench: Bench) -> str:
    """The export demands a client certificate, and the client shows none."""
    context = client_context(bench.wallet, None)
    if bench.has(DEMAND):
        return await refused_handshake(bench, context=context, security="mtls")
    async with bench.meeting("mtls") as meeting:
        await shake_hands(meeting, context=context)
        await meeting.established()
        if meeting.kernel.flags & VERIFIED:
            raise Unexpected("the kernel was told of a certificate, and there was none")
        return "a session; the kernel knows of no certificate"


async def bad_certificate(bench: Bench, server_kind: str, client_kind: str) -> str:
    kind = server_kind if bench.role == "client" else client_kind
    security = "tls" if bench.role == "client" else "mtls"
    return await refused_handshake(bench, context=context_of(bench, kind), security=security)


@scenario("wrong-ca", "refused")
async def wrong_ca(bench: Bench) -> str:
    """The peer's certificate is signed by a CA that is not among the trusted ones."""
    return await bad_certificate(bench, "foreign", "foreign-client")


@scenario("self-signed", "refused")
async def self_signed(bench: Bench) -> str:
    """The peer's certificate is signed by nobody but itself."""
    return await bad_certificate(bench, "selfsigned", "selfsigned-client")


@scenario("expired", "refused")
async def expired(bench: Bench) -> str:
    """The peer's certificate was good until some days ago."""
    return await bad_certificate(bench, "expired", "expired-client")


@scenario("revoked", "refused")
async def revoked(bench: Bench) -> str:
    """The peer's certificate is in the revocation list, which the daemon was given as {crl}."""
    return await bad_certificate(bench, "revoked", "revoked-client")


@scenario("name-mismatch", "refused")
async def name_mismatch(bench: Bench) -> str:
    """The server's certificate is for another name than the one that was asked for. A client daemon
    has to find that out; to a server daemon the client says so, by an alert."""
    if bench.role == "client":
        return await refused_handshake(bench, context=context_of(bench, "elsewhere"))
    async with bench.meeting() as meeting:
        await meeting.probe()
        context = context_of(bench)
        seen = await what_the_peer_saw(
            meeting, lambda: meeting.peer.handshake(context, name="nfs.example.org")
        )
        return f"{await meeting.refused(bench.seconds * AT_ONCE)}; {seen}"


@scenario("no-alpn", "refused, or borne with")
async def no_alpn(bench: Bench) -> str:
    """The peer knows nothing of ALPN, so it does not say `sunrpc`. RFC 9289 has the client offer
    it, and not go on when the server does not choose it; the daemons of FreeBSD and Linux do not
    say it, and whoever wants to talk to them bears with that. Either is good, if it is at once."""
    async with bench.meeting() as meeting:
        context = context_of(bench, alpn=())
        seen = await what_the_peer_saw(meeting, lambda: shake_hands(meeting, context=context))
        if meeting.kernel.established:
            return "borne with: a session"
        return f"{await meeting.refused(bench.seconds * AT_ONCE)}; {seen}"


@scenario(
    "other-alpn", "refused", ("server",), needs=(ALPN,), otherwise={ALPN: "borne with: a session"}
)
async def other_alpn(bench: Bench) -> str:
    """The client offers another protocol by ALPN, and not `sunrpc`: it wants to talk to something
    else than an RPC server (RFC 7301: no_application_protocol)."""
    context = context_of(bench, alpn=("h2",))
    if bench.has(ALPN):
        return await refused_handshake(bench, context=context)
    async with bench.meeting() as meeting:
        await shake_hands(meeting, context=context)
        await meeting.talk()
    return "a session, 1 call"


@scenario("byte-by-byte", "a session, and calls on it", needs=(SESSION,))
async def byte_by_byte(bench: Bench) -> str:
    """Every byte of the peer's handshake travels alone: whoever takes one read for one record, or
    reads further than the record goes, gets lost."""

    async def sending(peer: TlsPeer, flight: int, data: bytes) -> None:
        for number in range(len(data)):
            await peer.write(data[number : number + 1])

    async with bench.meeting() as meeting:
        await shake_hands(meeting, sending)
        await meeting.talk()
    return "a session, 1 call"


async def half(peer: TlsPeer, flight: int, data: bytes) -> None:
    await peer.write(data[: len(data) // 2])
    raise PeerStops


@scenario("half-way-silent", "refused when the upcall's time is over, and not later")
async def half_way_silent(bench: Bench) -> str:
    """The peer sends half of its first flight, keeps the connection open, and says nothing more.
    The daemon has to give up in time to tell the kernel why."""
    async with bench.meeting() as meeting:
        try:
            await shake_hands(meeting, half)
        except PeerStops:
            return await meeting.refused(bench.silence_seconds + 1)
    raise Unexpected("the peer did not stop")


@scenario("half-way-closed", "refused at once")
async def half_way_closed(bench: Bench) -> str:
    """The peer sends half of its first flight and closes the connection."""

    async def sending(peer: TlsPeer, flight: int, data: bytes) -> None:
        await peer.write(data[: len(data) // 2])
        await peer.stream.send_eof()
        raise PeerStops

    return await refused_handshake(bench, sending)


@scenario("closed-after-probe", "refused at once")
async def closed_after_probe(bench: Bench) -> str:
    """The peer closes the connection as soon as STARTTLS was said."""
    async with bench.meeting() as meeting:
        await meeting.probe()
        await meeting.peer.stream.send_eof()
        return await meeting.refused(bench.seconds * AT_ONCE)


@scenario("no-tls", "refused at once")
async def no_tls(bench: Bench) -> str:
    """What follows STARTTLS is not TLS."""
    async with bench.meeting() as meeting:
        await meeting.probe()
        await meeting.peer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        return await meeting.refused(bench.seconds * AT_ONCE)


@scenario("alert-first", "refused at once")
async def alert_first(bench: Bench) -> str:
    """The first that the peer says is a fatal alert, in clear: handshake_failure."""
    async with bench.meeting() as meeting:
        await meeting.probe()
        await meeting.peer.write(plain_alert(HANDSHAKE_FAILURE))
        return await meeting.refused(bench.seconds * AT_ONCE)


@scenario("alert-in-between", "refused at once")
async def alert_in_between(bench: Bench) -> str:
    """A fatal alert under the handshake keys: from a server behind its ServerHello, from a client
    in place of its Finished."""

    async def sending(peer: TlsPeer, flight: int, data: bytes) -> None:
        if not peer.server and flight == 1:
            await peer.write(data)
            return
        side = "SERVER" if peer.server else "CLIENT"
        label = f"{side}_HANDSHAKE_TRAFFIC_SECRET"
        alert = peer.seal_with(label, ALERT, bytes((2, BAD_CERTIFICATE)))
        hello = data[: 5 + int.from_bytes(data[3:5], "big")] if peer.server else b""
        await peer.write(hello + alert)
        raise PeerStops

    return await refused_handshake(bench, sending)


@scenario("glued", "a session, nothing lost", needs=(SESSION,))
async def glued(bench: Bench) -> str:
    """Application data in one segment with the peer's Finished: a client's first call, or an answer
    that nobody asked for from a server that sends before the client's Finished. A daemon that reads
    further than its records swallows it."""
    if bench.role == "server":
        return await glued_call(bench)

    async def sending(peer: TlsPeer, flight: int, data: bytes) -> None:
        # A reply to a call that nobody has made, and the mark of one message.
        early = bytes((0x80, 0, 0, 24)) + bytes(4) + bytes((0, 0, 0, 1)) + bytes(16)
        await peer.write(data + (peer.seal(APPLICATION_DATA, early) if flight == 1 else b""))

    context = server_context(bench.wallet, tickets=0)
    async with bench.meeting() as meeting:
        await shake_hands(meeting, sending, context)
        await meeting.talk()
    return "the data behind the Finished, then a call"


async def glued_call(bench: Bench) -> str:
    async with bench.meeting() as meeting:
        said = b"in a hurry"

        async def sending(peer: TlsPeer, flight: int, data: bytes) -> None:
            if flight == 2:
                data += peer.seal(APPLICATION_DATA, meeting.call_message(said))
            await peer.write(data)

        await shake_hands(meeting, sending)
        if await meeting.answer_to_peer() != said:
            raise Unexpected("the first call's answer is another's")
        await meeting.talk()
    return "the call behind the Finished was answered, then another"


@scenario("two-at-once", "two sessions, calls on both", needs=(SESSION,))
async def two_at_once(bench: Bench) -> str:
    """Two connections at the same time: each has to get its own socket and its own keys."""

    async def one() -> None:
        async with bench.meeting() as meeting:
            await shake_hands(meeting)
            for _ in range(3):
                await meeting.talk()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one)
        nursery.start_soon(one)
    return "2 sessions, 3 calls each"
