"""What `umktls probe` is asked, and what it has found."""

from __future__ import annotations

from dataclasses import asdict, field
from pathlib import Path
from typing import Any

from umktls.abi.ports import NFS_PORT
from umktls.dataclass import dataclass
from umktls.kernel.krpc.mountconfig import MountConfig

__all__ = ["EXIT_CODES", "Phase", "Report", "Target"]

# The exit code tells the first phase that failed.
EXIT_CODES = {"tcp": 3, "probe": 4, "tls": 5, "certificate": 6, "alpn": 7, "rpc": 8}


@dataclass(frozen=True, slots=True)
class Target:
    """What to probe, and as whom. `find_port`: whether rpcbind is asked for NFS's where nothing is
    at `port`, which nobody has named then. `ca` None is the system's trust, `crl` its revocation
    lists, `seconds` the time for each step."""

    host: str
    port: int = NFS_PORT
    ca: Path | None = None
    certdir: Path | None = None
    mutual: bool = False
    seconds: float = 10.0
    crl: Path | None = None
    find_port: bool = False

    def mount_config(self, security: str) -> MountConfig:
        return MountConfig(
            self.host,
            "/",
            self.port,
            find_port=self.find_port,
            security=security,
            connect_seconds=self.seconds,
        )


@dataclass(slots=True)
class Phase:
    """One step: `ok` is None where it was not reached; `text` says what came back."""

    name: str
    ok: bool | None = None
    text: str = "not reached"
    advice: str = ""


@dataclass(slots=True)
class Report:
    """What was found. `chain` are the certificates, the server's own first; `rpc` what each NULL
    call came to."""

    host: str
    port: int
    phases: dict[str, Phase] = field(
        default_factory=lambda: {name: Phase(name) for name in EXIT_CODES}
    )
    connection: str = ""
    session: dict[str, Any] = field(default_factory=dict)
    chain: list[dict[str, Any]] = field(default_factory=list)
    rpc: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def set(self, name: str, ok: bool, text: str, advice: str = "") -> None:
        self.phases[name] = Phase(name, ok, text, advice)

    @property
    def failed(self) -> Phase | None:
        return next((one for one in self.phases.values() if one.ok is False), None)

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.failed.name] if self.failed is not None else 0

    @property
    def verdict(self) -> str:
        if self.failed is None:
            return "a mount with TLS works"
        text = f"a mount with TLS fails in phase {self.failed.name}: {self.failed.text}"
        return f"{text}; {self.failed.advice}" if self.failed.advice else text

    def as_dict(self) -> dict[str, Any]:
        phases = [asdict(phase) for phase in self.phases.values()]
        return asdict(self) | {
            "schema": 1,
            "phases": phases,
            "verdict": self.verdict,
            "exit_code": self.exit_code,
        }
