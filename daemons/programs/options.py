"""What the daemons' command lines say, what they must not say, and the settings they become.

The options are those of rpc.tlsclntd(8) and rpc.tlsservd(8), and a few of ours.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import field, fields
from pathlib import Path
from typing import Any, NamedTuple, Self, get_args

import click

from umktls.dataclass import dataclass

from ..sessions.handshake import Alpn
from ..tls.hostnames import Wildcards
from ..tls.identity import ConfigurationError, Identity, Trust
from ..tls.keylog import KeyLogFile
from ..tls.tlsadapter import TlsContext, Versions

__all__ = [
    "ClientOptions",
    "Options",
    "Passphrase",
    "ServerOptions",
    "UsageProblem",
    "client_options",
    "server_options",
]

PASSPHRASE_VARIABLE = "UMKTLS_KEY_PASSPHRASE"
MAX_DAEMONS = 16  # RPCTLS_SRV_MAXNPROCS


class UsageProblem(ConfigurationError):
    """Options that do not go together."""


class Passphrase:
    """The passphrase of the private keys: asked for once, when the first encrypted key is read."""

    def __init__(self) -> None:
        self._known: bytes | None = None

    def __call__(self) -> bytes:
        """From the environment, else from the terminal. Raises `ConfigurationError`."""
        if self._known is None:
            self._known = self._ask()
        return self._known

    @staticmethod
    def _ask() -> bytes:
        from_environment = os.environ.get(PASSPHRASE_VARIABLE)
        if from_environment is not None:
            return os.fsencode(from_environment)
        if not sys.stdin.isatty():
            raise ConfigurationError(
                "the private key is encrypted, and there is no terminal to ask for its "
                f"passphrase: set {PASSPHRASE_VARIABLE}"
            )
        import getpass

        return getpass.getpass("Passphrase of the private key: ").encode()


class Requirement(NamedTuple):
    """An option that makes sense only together with one of others; all named as fields."""

    option: str
    needs: tuple[str, ...]
    why: str


TRUSTED = ("verifylocs", "verifydir")
# How each field of the options is called on the command line.
FLAGS = {
    "certuser": "-u",
    "checkhost": "-h",
    "crl": "-r",
    "domain": "-n",
    "multiwild": "-W",
    "mutualverf": "-m",
    "singlewild": "-w",
    "verifydir": "-p",
    "verifylocs": "-l",
}
CLIENT_REQUIREMENTS = (
    Requirement("crl", TRUSTED, "the CAs that have signed the revocation lists"),
)
SERVER_REQUIREMENTS = (
    *CLIENT_REQUIREMENTS,
    Requirement("mutualverf", TRUSTED, "the CAs that sign client certificates"),
    Requirement("checkhost", ("mutualverf",), "clients have to show a certificate"),
    Requirement("certuser", ("mutualverf",), "clients have to show a certificate"),
    Requirement("domain", ("certuser",), "it is the domain of the users in certificates"),
    Requirement("multiwild", ("checkhost",), "it is about the names that are checked"),
    Requirement("singlewild", ("checkhost",), "it is about the names that are checked"),
)


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of either daemon."""

    rundir: Path
    certdir: Path
    verifylocs: Path | None = None
    verifydir: Path | None = None
    crl: Path | None = None
    mutualverf: bool = False
    tls1_2: bool = False
    ciphers: str | None = None
    alpn: Alpn = "auto"
    keylog: Path | None = None
    handover: bool = True
    passphrase: Passphrase = field(default_factory=Passphrase, repr=False)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """From what the command line says; paths become absolute, for when the daemon has left
        the directory it was started in."""
        known: dict[str, Any] = {}
        for name in (each.name for each in fields(cls) if each.name in values):
            value = values[name]
            known[name] = value.absolute() if isinstance(value, Path) else value
        return cls(**known)

    def check(self) -> None:
        """Raises `UsageProblem` for options that do not go together."""
        self._require(CLIENT_REQUIREMENTS)

    def _require(self, requirements: Sequence[Requirement]) -> None:
        for option, needs, why in requirements:
            if getattr(self, option) and not any(getattr(self, need) for need in needs):
                needed = " or ".join(FLAGS[need] for need in needs)
                raise UsageProblem(f"{FLAGS[option]} needs {needed}: {why}")

    @property
    def trust(self) -> Trust:
        return Trust(self.verifylocs, self.verifydir, self.crl)

    def identity(self, name: str = "") -> Identity:
        """The certificate called `name`: cert.pem and certkey.pem when it is empty.

        FreeBSD's naming: ``<name>.pem`` and ``<name>key.pem``.
        """
        stem = name or "cert"
        return Identity(self.certdir / f"{stem}.pem", self.certdir / f"{stem}key.pem")

    def _versions(self, server: bool) -> Versions:
        """-2 is not the same on both sides."""
        if not self.tls1_2:
            return Versions.TLS13
        return Versions.TLS12_OR_13 if server else Versions.TLS12

    def open_keylog(self) -> KeyLogFile | None:
        """The key log, if one is asked for. Raises `ConfigurationError`."""
        return KeyLogFile(self.keylog) if self.keylog is not None else None

    def context_factory(
        self, *, server: bool, keylog: KeyLogFile | None
    ) -> Callable[[Identity | None], TlsContext]:
        """Makes contexts that differ in their identity only. Raises `ConfigurationError`."""

        def make(identity: Identity | None) -> TlsContext:
            return TlsContext(
                server=server,
                trust=self.trust,
                identity=identity,
                passphrase=self.passphrase,
                keylog=keylog,
                ciphersuites=self.ciphers,
                versions=self._versions(server),
            )

        return make


@dataclass(frozen=True, slots=True)
class ClientOptions(Options):
    """The settings of rpctlscd."""

    reverse_dns: bool = False


@dataclass(frozen=True, slots=True)
class ServerOptions(Options):
    """The settings of rpctlssd."""

    checkhost: bool = False
    multiwild: bool = False
    singlewild: bool = False
    certuser: bool = False
    domain: str | None = None
    numdaemons: int = 1

    def check(self) -> None:
        self._require(SERVER_REQUIREMENTS)
        if self.multiwild and self.singlewild:
            raise UsageProblem(
                "-W and -w exclude each other: a wildcard stands for one label, -w, "
                "or for any number, -W"
            )

    @property
    def wildcards(self) -> Wildcards:
        if self.multiwild:
            return Wildcards.MULTI
        return Wildcards.SINGLE if self.singlewild else Wildcards.NONE


# The command line.

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
PATH = click.Path(path_type=Path)


def flag(*names: str, help: str) -> Decorator:
    return click.option(*names, is_flag=True, help=help)


# What the real daemons do not have.
_OURS: list[Decorator] = [
    click.option(
        "--alpn",
        type=click.Choice(get_args(Alpn)),
        default="auto",
        show_default=True,
        help="What of peers that do not say `sunrpc` by ALPN, as RFC 9289 says they MUST, and as "
        "the daemons of FreeBSD and Linux do not: go on and tell (auto), turn them away (strict), "
        "or go on and be silent (compat). Who says something else is turned away by all three.",
    ),
    click.option(
        "--keylog",
        type=PATH,
        envvar="SSLKEYLOGFILE",
        help="Append the session secrets to this file (for Wireshark).",
    ),
    click.option(
        "--handover/--no-handover",
        default=True,
        show_default=True,
        help="Leave with the kernel what the next daemon needs to go on with the sessions of "
        "this one, their secrets included; or have them end with this one.",
    ),
]


def _common(default_certdir: str, usage_2: tuple[str, str], usage_m: str) -> list[Decorator]:
    return [
        click.option(
            "--rundir",
            type=PATH,
            envvar=["UMKTLS_RUNDIR_HOST", "UMKTLS_RUNDIR"],
            required=True,
            help="Run directory of the host to serve.",
        ),
        flag("-2", usage_2[0], "tls1_2", help=usage_2[1]),
        click.option(
            "-C",
            "--ciphers",
            metavar="LIST",
            help="Cipher suites to use, by IANA's names (those of TLS 1.2 also by OpenSSL's), "
            "separated by colons.",
        ),
        click.option(
            "-D",
            "--certdir",
            type=PATH,
            default=default_certdir,
            show_default=True,
            help="Directory with cert.pem and certkey.pem.",
        ),
        click.option(
            "-l",
            "--verifylocs",
            type=PATH,
            help="PEM file of the CAs to trust, in place of the system's.",
        ),
        flag("-m", "--mutualverf", help=usage_m),
        click.option(
            "-p",
            "--verifydir",
            type=PATH,
            help="Directory of the CAs to trust, under hashed names (openssl-rehash(1)).",
        ),
        click.option(
            "-r",
            "--crl",
            type=PATH,
            help="PEM file of revocation lists, one for each CA. Needs -l or -p.",
        ),
        *_OURS,
    ]


def client_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of rpc.tlsclntd(8), and our own, to a command."""
    usage_2 = (
        "--usetls1_2",
        "Use TLS 1.2, for servers of FreeBSD 13.0 and 13.1, and nothing else.",
    )
    options = _common(
        "/etc/rpc.tlsclntd", usage_2, "Show servers the certificate in the certificate directory."
    )
    options.append(
        flag(
            "--reverse-dns",
            help="A server that was mounted by its address is to have the name that DNS gives for "
            "the address.",
        )
    )
    return _decorate(command, options)


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of rpc.tlsservd(8), and our own, to a command."""
    usage_2 = ("--allowtls1_2", "Accept TLS 1.2 too, for clients of FreeBSD 13.0 and 13.1.")
    options = _common(
        "/etc/rpc.tlsservd", usage_2, "Ask clients for a certificate. Needs -l or -p."
    )
    options += [
        flag(
            "-h",
            "--checkhost",
            help="Reject the calls of clients whose certificate does not have the name that DNS "
            "gives for their address, or who have none. Needs -m.",
        ),
        flag("-W", "--multiwild", help="With -h: a * in a certificate stands for any labels."),
        flag("-w", "--singlewild", help="With -h: a * in a certificate stands for one label."),
        flag(
            "-u",
            "--certuser",
            help="Do the calls of a client as the user in its certificate, if there is one "
            "(an otherName, user@domain), whatever the calls say. Needs -m.",
        ),
        click.option(
            "-n", "--domain", help="With -u: the domain of the users, in place of this host's."
        ),
        click.option(
            "-N",
            "--numdaemons",
            "--maxthreads",
            "numdaemons",
            type=click.IntRange(1, MAX_DAEMONS),
            default=1,
            show_default=True,
            help="How many processes do handshakes.",
        ),
    ]
    return _decorate(command, options)


def _decorate(command: Callable[..., Any], options: Sequence[Decorator]) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command
