"""What is to be mounted and how: the command line's part of it, and the kernel's."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path

from umktls.abi.personality import personality
from umktls.abi.ports import NFS_PORT
from umktls.dataclass import dataclass
from umktls.errors import CallerError
from umktls.kernel.captures.config import CaptureConfig
from umktls.kernel.host.commands import AgentCommand
from umktls.kernel.krpc.mountconfig import MountConfig

from .options import MountOptions
from .source import Source

__all__ = ["MountPlan"]


def here() -> Path:
    """The working directory, or the root where that is no more."""
    try:
        return Path.cwd()
    except OSError:
        return Path("/")


@dataclass(frozen=True, slots=True)
class MountPlan:
    """What was asked for. `mountpoint` is real and absolute; `foreground`: whoever made the mount
    waits for its end. `directory`: where that one was."""

    source: Source
    mountpoint: str
    options: MountOptions
    no_daemon: bool = False
    rundir: Path | None = None
    foreground: bool = False
    capture: CaptureConfig | None = None
    directory: Path = field(default_factory=here)

    def config(self) -> MountConfig:
        """The kernel's part of it."""
        options = self.options
        return MountConfig(
            server=self.source.host,
            export=self.source.export,
            port=self.port() or NFS_PORT,
            find_port=not self.port(),
            family=options.family,
            reserved_port=options.reserved_port,
            mount_host=options.mount_host,
            mount_port=options.mount_port,
            mount_protocol=options.mount_protocol,
            mount_tls=options.mount_tls,
            nconnect=options.nconnect,
            retry_seconds=options.retry_seconds,
            security=options.security,
            certs=options.certs,
            certname=options.certname or "",
            no_daemon=self.no_daemon,
            agent=self.agent(),
            rundir=self.rundir,
            engine=options.engine,
            bounce=options.bounce,
            personality=personality(options.personality),
            deadline=options.deadline,
            mount_seconds=options.patience,
            daemon_seconds=options.daemon_seconds,
            upcall_seconds=options.upcall_seconds,
            rekey=options.rekey,
            probe_seconds=options.probe_seconds,
            keylog=options.keylog,
            daemon_arguments=options.daemon_arguments,
            mountpoint=self.mountpoint,
            capture=self.capture,
        )

    def agent(self) -> AgentCommand | None:
        """What daemon= says. Raises CallerError."""
        options = self.options
        if not options.daemon:
            return None
        if options.certname or options.crl or options.reverse_dns or options.tls1_2:
            raise CallerError(
                "tlscertname=, crl=, reversedns and tls1_2 are about rpctlscd: what daemon= starts "
                "has a configuration of its own"
            )
        return AgentCommand("rpctlscd", words=options.daemon, directory=self.directory)

    def port(self) -> int | None:
        """Of the source or of the options; None where neither says it. Raises CallerError if they
        differ."""
        named, option = self.source.port, self.options.port
        if named is not None and option is not None and named != option:
            raise CallerError(f"{self.source} names port {named}, the options port {option}")
        return named or option or None
