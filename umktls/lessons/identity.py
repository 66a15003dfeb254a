"""`umktls lesson identity`: names in certificates, revocation, users, and who a call is done as."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any, Literal

from umktls.dataclass import dataclass
from umktls.kernel.captures.config import CaptureConfig
from umktls.lessons.hosts import bench
from umktls.lessons.lesson import Code, Exercise, Lesson, Question, Rfc, Seen, Step
from umktls.nfsd.exports.exports import Export, Squash
from umktls.nfsd.program.credentials import believed
from umktls.rpc.message import AuthSys
from umktls.scenarios.bench import Bench
from umktls.scenarios.handshakes import context_of, shake_hands, what_the_peer_saw

__all__ = ["LESSON"]

TAKEN = "taken"
# What is mounted, where that is not localhost: the pattern fits it, for who takes patterns.
MOUNTED = {"wildcard": "nfs.example.org"}
NAMES = ("server", "elsewhere", "wildcard", "nameless")
SIGNED = ("chained", "expired", "foreign", "selfsigned", "revoked")
CLIENTS = ("client", "chained-client", "purpose-client", "revoked-client")
CALLER = AuthSys(0, b"client", 1000, 1000, (1000,))
ROOT = AuthSys(0, b"client", 0, 0, ())


@dataclass(frozen=True, slots=True)
class Caller:
    """A connection as NFS sees it (umktls.rpc.server.Peer)."""

    verified: bool = True
    reserved_port: bool = True
    user: AuthSys | None = None
    address: tuple[str, int] = ("192.0.2.1", 1000)
    tls: bool = True
    certificate: Any = None

    def refused(self, what: str, why: str) -> None:
        """There is nobody to be told."""


@dataclass
class Both:
    client: Bench
    server: Bench


@asynccontextmanager
async def both(capture: CaptureConfig | None = None) -> AsyncIterator[Both]:
    files = {role: capture and capture.called(role) for role in ("client", "server")}
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(bench("client", capture=files["client"]))
        user = ("-m", "-u", "-n", "example.org")
        yield Both(
            client, await stack.enter_async_context(bench("server", *user, capture=files["server"]))
        )


async def verdicts(found: Bench, kinds: tuple[str, ...]) -> dict[str, str]:
    """What our daemon says to a peer with each of these certificates."""
    return {kind: (await verdict(found, kind))[0] for kind in kinds}


async def verdict(found: Bench, kind: str) -> tuple[str, AuthSys | None]:
    """What it says to one; and the user that the certificate names."""
    security: Literal["tls", "mtls"] = "tls" if found.role == "client" else "mtls"
    context = context_of(found, kind)
    async with found.meeting(security, MOUNTED.get(kind, "localhost")) as meeting:
        await what_the_peer_saw(meeting, lambda: shake_hands(meeting, context=context))
        if not meeting.kernel.established:
            await meeting.refused()
            return meeting.reason(), None
        assert meeting.kernel.sock is not None
        return TAKEN, meeting.kernel.sock.identity.user


def seen(said: dict[str, str]) -> Seen:
    lines = tuple(f"{kind:<16} {words}" for kind, words in said.items())
    taken = [kind for kind, words in said.items() if words == TAKEN]
    return Seen(lines, str(len(taken)), {"taken": taken, "said": said})


async def names(stage: Both) -> Seen:
    return seen(await verdicts(stage.client, NAMES))


async def signed(stage: Both) -> Seen:
    return seen(await verdicts(stage.client, SIGNED))


async def clients(stage: Both) -> Seen:
    return seen(await verdicts(stage.server, CLIENTS))


async def users(stage: Both) -> Seen:
    said, user = await verdict(stage.server, "user-client")
    lines: list[str] = [f"the handshake: {said}; the certificate's user: uid {user and user.uid}"]
    results = {}
    squashes: tuple[Squash, ...] = ("none", "root")
    for squash in squashes:
        export = Export("/", squash=squash)
        results[squash] = believed(export, CALLER, Caller(user=user)).uid
        lines.append(f"squash {squash}: the call of uid {CALLER.uid} is done as {results[squash]}")
    facts = {"said": said, "user": user and user.uid, "as": results}
    return Seen(tuple(lines), str(results["none"]), facts)


async def squashed(stage: Both) -> Seen:
    connections = {
        "verified certificate": Caller(reserved_port=False),
        "reserved port": Caller(verified=False),
        "neither": Caller(verified=False, reserved_port=False),
    }
    export = Export("/")
    table = {
        name: [believed(export, who, caller).uid for who in (CALLER, ROOT)]
        for name, caller in connections.items()
    }
    lines = tuple(
        f"{name:<22} uid {CALLER.uid} is {ids[0]}, uid {ROOT.uid} is {ids[1]}"
        for name, ids in table.items()
    )
    everybody = believed(replace(export, squash="all"), CALLER, connections["reserved port"]).uid
    lines += (f"squash all: uid {CALLER.uid} is {everybody}, whoever comes",)
    return Seen(lines, str(table["neither"][0]), {"uids": table, "all": everybody})


LESSON = Lesson(
    "Who is there?",
    """
    TLS proves that the other side has the key of a certificate. Whose that is, and what it may do,
    are three more questions: is the certificate good, is it the right one, and as whom are calls
    done. The first two are the daemon's, the third the NFS server's.

    A client host with a real rpctlscd and a server host with a real rpctlssd run here; the other
    side of each is played by Python's ssl and shows whatever certificate the step wants.
    """,
    both,
    (
        Step(
            "The name",
            """
            A mount of "localhost" meets three servers, all with certificates of the trusted CA: one
            for localhost; one for nfs.example.org (elsewhere); one that has localhost in its
            subject only and no subjectAltName (nameless). A fourth one has a certificate for
            *.example.org (wildcard), and is mounted as nfs.example.org.
            """,
            Question("How many of the four are taken?"),
            names,
            """
            One. What counts is the subjectAltName, compared with what the user typed. The subject's
            common name does not count any more (RFC 9525), though FreeBSD's daemon, and others,
            still take it where there is no other name. RFC 9289 wants no wildcards either. Without
            this check any holder of any certificate of that CA can be your server.
            """,
        ),
        Step(
            "Signature, time, revocation",
            """
            Five more, all for localhost: signed by an intermediate CA that comes along (chained);
            expired; signed by another CA (foreign); by itself (selfsigned); revoked, in a list that
            the daemon was given (-r).
            """,
            Question("How many of the five are taken?"),
            signed,
            """
            The chained one. The others each fail in the daemon with a reason of their own, which
            the mount tells; to the peer goes one alert that says little.
            """,
        ),
        Step(
            "A client's certificate",
            """
            Now the server asks (mutual TLS), and four clients come: a good one; one of an
            intermediate CA; one whose certificate is for servers (purpose); one that was revoked.
            """,
            Question("How many of the four are taken?"),
            clients,
            """
            Two. The purpose is the certificate's extended key usage: a server's certificate is no
            client's. No name is compared here: who has any good certificate is a known machine.
            Whom an export is for can be said in the exports file, by name or address in it.
            """,
        ),
        Step(
            "A user in the certificate",
            """
            A client's certificate names root@example.org in an otherName, and rpctlssd was started
            with -u and the domain (-n example.org). Over that connection comes a call that says in
            AUTH_SYS that it is of uid 1000. The export squashes nobody.
            """,
            Question("As which uid is the call done?"),
            users,
            """
            0: all calls of that connection are the certificate's user, whatever they say. And where
            root is squashed this root is too: the export has the last word. What AUTH_SYS says is a
            claim; this is proof, but for one user a connection.
            """,
        ),
        Step(
            "Squashing",
            """
            Without a user in a certificate there is only the claim. An export with the usual
            options (root is squashed, "secure") is asked by uid 1000 and by root, over three
            connections: with a verified certificate, from a port under 1024, and with neither.
            """,
            Question("As whom is a call of uid 1000 done over the one with neither?"),
            squashed,
            """
            As nobody (65534): any program of any user on that machine can open such a connection
            and claim to be uid 1000. A port under 1024 means that root of the machine let it speak;
            a verified certificate says so better, and says which machine. Root is nobody
            everywhere, since one machine's root need not be another's.
            """,
        ),
    ),
    (
        Exercise(
            "A CRL file is replaced. When does a revoked client lose its connection?",
            "When the daemon is told to read it (SIGHUP), sessions are checked again; and none is "
            "resumed under what was known before (`umktls lesson tickets`).",
        ),
        Exercise(
            "Write a line of the exports file for which only clients with an address in "
            "example.org "
            "in their certificates may mount.",
            "/srv/staff -tlscert -email=*@example.org (docs/daemons.md).",
        ),
        Exercise(
            "Mutual TLS and squash none: what can root of a client machine do on the export?",
            "Everything that root of the server can do there. The certificate says which machine "
            "it is, not that its root is to be trusted with all files.",
        ),
    ),
    (
        Code("umktls/nfsd/program/credentials.py", "believed"),
        Code("umktls/certs/kinds.py", "KINDS"),
        Code("umktls/nfsd/exports/rules.py", "Rules"),
    ),
    (
        Rfc(9289, "5.2.1", "X.509 certificates using PKIX trust"),
        Rfc(9289, "4.2", "authentication"),
        Rfc(9525, "6", "verifying service identity"),
        Rfc(5280, "5", "CRL and CRL extensions profile"),
    ),
    captured=both,
)
