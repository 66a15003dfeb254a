"""A handshake agent as a program: Linux's upcall by `umktls.userland.agent`, TLS by OpenSSL.

python -m tests.system.agentprogram CERTIFICATES CA; the run directory is in UMKTLS_RUNDIR. It ends
when its host does.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from umktls_daemons.sessions.handshake import Expectations, handshake
from umktls_daemons.tls.failure import HandshakeFailure
from umktls_daemons.tls.identity import Identity, Trust
from umktls_daemons.tls.tlsadapter import ClientCertificates, TlsContext

from umktls.errors import UmktlsError
from umktls.userland.agent import HandshakeAgent, Task
from umktls.userland.failures import KernelGone
from umktls.userland.libc import Kernel

SECONDS = 20.0


def shake_hands(task: Task, directory: Path, authority: Path) -> bool:
    """The handshake and the keys; whether the peer has shown a certificate. Raises
    `HandshakeFailure`."""
    identity = Identity(directory / "cert.pem", directory / "certkey.pem")
    context = TlsContext(
        server=task.server,
        trust=Trust(authority),
        identity=identity if task.x509 else None,
        passphrase=lambda: b"",
    )
    if task.server:
        endpoint = context.server(ClientCertificates.REQUEST)
    else:
        endpoint = context.client(task.peername)
    expected = Expectations(server=task.server, name=task.peername, trust=context.trust)
    keys = handshake(task.sock, endpoint, task.deadline(SECONDS), expected)
    task.set_keys({"tx": keys.tx, "rx": keys.rx})
    return bool(endpoint.chain)


def serve(agent: HandshakeAgent, directory: Path, authority: Path) -> None:
    """One READY."""
    task = agent.accept()
    if task is None:
        return
    try:
        shown = shake_hands(task, directory, authority)
    except HandshakeFailure as failure:
        print(f"refused: {failure}", file=sys.stderr, flush=True)
        agent.done(task, errno.EACCES)
    except UmktlsError as error:
        print(f"failed: {error}", file=sys.stderr, flush=True)
        agent.done(task, error.errno)
    else:
        agent.done(task, 0, peer=int(shown))


def main() -> None:
    directory, authority = map(Path, sys.argv[1:])
    with HandshakeAgent(Kernel(Path(os.environ["UMKTLS_RUNDIR"]))) as agent:
        agent.join()
        try:
            while agent.wait():
                serve(agent, directory, authority)
        except KernelGone:
            return


if __name__ == "__main__":
    main()
