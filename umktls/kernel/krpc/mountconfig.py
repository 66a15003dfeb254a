"""What to mount, and how, as the kernel is told it."""

from __future__ import annotations

from pathlib import Path

from umktls.abi import rpctls
from umktls.abi.personality import DEFAULT_PERSONALITY, Personality
from umktls.abi.ports import NFS_PORT
from umktls.dataclass import dataclass
from umktls.errors import CallerError
from umktls.kernel.captures.config import CaptureConfig
from umktls.kernel.host.commands import AgentCommand, DaemonCommand, check_agent
from umktls.kernel.host.config import OWN_DAEMON_SECONDS
from umktls.ktls.engines.choice import DEFAULT_CHOICE, EngineChoice

__all__ = ["MountConfig", "check_config"]


@dataclass(frozen=True, slots=True)
class MountConfig:
    """What to mount, and how. Times are in seconds.

    family, reserved_port: as in `tcpconnect.connect`.
    find_port: where nothing is at `port`, rpcbind is asked for another one.
    mount_host, mount_port, mount_protocol ("tcp" or "udp"), mount_tls: where and how MOUNT is
        called, if not where and as NFS is (umktls.kernel.krpc.mountd).
    retry_seconds: how long to go on trying while the server is not there.
    security: "tls", "mtls" or "none".
    certs: a directory with `ca.pem`, and for "mtls" `client/cert.pem` and `client/certkey.pem`.
    certname: another certificate of that directory (FreeBSD's tlscertname=).
    no_daemon: whether the host starts no rpctlscd of its own.
    agent: somebody's handshake agent, which the host starts in place of an rpctlscd.
    bounce: whether a direction that its engine does not take may be bounced.
    personality: the kernel that is emulated.
    nconnect: how many connections the mount has.
    deadline: of a call; it may be infinite.
    daemon_seconds: how long an rpctlscd that is started by hand has to register.
    mount_seconds: the deadline of the calls that make the mount; None: as of all calls.
    rekey: how keys are renewed (umktls.kernel.upcalls.renewal).
    daemon_arguments: more arguments for rpctlscd.
    capture: where what passes the host's sockets goes (umktls.kernel.captures).
    """

    server: str
    export: str
    port: int = NFS_PORT
    family: str | None = None
    reserved_port: bool | None = None
    find_port: bool = False
    mount_host: str | None = None
    mount_port: int | None = None
    mount_protocol: str | None = None
    mount_tls: bool = False
    retry_seconds: float = 0.0
    security: str = "tls"
    certs: Path | None = None
    certname: str = ""
    no_daemon: bool = False
    agent: AgentCommand | None = None
    rundir: Path | None = None
    engine: EngineChoice = DEFAULT_CHOICE
    bounce: bool = False
    personality: Personality = DEFAULT_PERSONALITY
    nconnect: int = 1
    deadline: float = 60.0
    mount_seconds: float | None = None
    connect_seconds: float = 10.0
    daemon_seconds: float = 15.0
    probe_seconds: float = rpctls.PROBE_TIMEOUT
    upcall_seconds: float | None = None
    rekey: str = "auto"
    keylog: Path | None = None
    daemon_arguments: tuple[str, ...] = ()
    mountpoint: str = ""
    capture: CaptureConfig | None = None

    @property
    def url(self) -> str:
        host = f"[{self.server}]" if ":" in self.server else self.server
        return f"{host}:{self.port}:{self.export}"

    @property
    def registering_seconds(self) -> float:
        """How long an rpctlscd has to register: longer, if the host starts it itself."""
        return (
            max(self.daemon_seconds, OWN_DAEMON_SECONDS) if self.daemon() else self.daemon_seconds
        )

    def daemon(self) -> tuple[DaemonCommand, ...]:
        """How the host starts its rpctlscd; nothing when it needs none or must not."""
        if self.security == "none" or self.no_daemon:
            return ()
        if self.agent is not None:
            return (self.agent,)
        return (DaemonCommand("rpctlscd", ("-v", *self.daemon_line(self.certs))),)

    def daemon_line(self, certs: Path | None) -> tuple[str, ...]:
        """The arguments that rpctlscd needs for this mount, with the certificates in `certs`."""
        arguments: list[str] = []
        if certs is not None:
            arguments += ["-l", str(certs / "ca.pem"), "-D", str(certs / "client")]
        if self.security == "mtls" and not self.certname:
            arguments.append("-m")
        if self.keylog is not None:
            arguments += ["--keylog", str(self.keylog)]
        return (*arguments, *self.daemon_arguments)


def check_config(config: MountConfig) -> None:
    if config.security not in ("tls", "mtls", "none"):
        raise CallerError(f"no security {config.security!r}; there are: tls, mtls, none")
    if config.mount_tls and config.security == "none":
        raise CallerError("mountsec=tls asks for TLS, and the mount itself for clear text")
    if config.mount_tls and config.mount_protocol == "udp":
        raise CallerError("mountsec=tls: TLS goes over TCP, and mountproto= asks for UDP")
    check_agent(config.agent, config.no_daemon, config.personality)
    if config.security == "none" or config.no_daemon or config.agent is not None:
        return
    if config.certs is None:
        raise CallerError(
            f"mounting with {config.security} needs certificates: pass --certs DIR "
            "(make some with: umktls certs DIR), or -o notls for clear text"
        )
    wanted = [config.certs / "ca.pem"]
    if config.security == "mtls":
        stem = config.certname or "cert"
        wanted += [config.certs / "client" / f"{stem}{end}.pem" for end in ("", "key")]
    for path in wanted:
        check_certificate_file(path)


def check_certificate_file(path: Path) -> None:
    try:
        with path.open("rb"):
            return
    except FileNotFoundError:
        why = "is missing (make some with: umktls certs DIR)"
    except OSError as error:
        why = f"cannot be read: {error.strerror} (it must belong to who mounts)"
    raise CallerError(f"certificates: {path} {why}")
