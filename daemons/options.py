"""What both daemons' command lines have in common, and what they become."""

from __future__ import annotations

import getpass
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from .identity import ConfigurationError, Identity
from .keylog import KeyLogFile
from .tlsadapter import TlsContext

__all__ = ["Options", "Passphrase", "common_options", "set_up_logging"]

PASSPHRASE_VARIABLE = "UMKTLS_KEY_PASSPHRASE"


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
        return getpass.getpass("Passphrase of the private key: ").encode()


@dataclass(frozen=True, slots=True)
class Options:
    """A daemon's settings."""

    rundir: Path
    certdir: Path
    verifylocs: Path | None = None
    mutualverf: bool = False
    keylog: Path | None = None
    ciphers: str | None = None
    passphrase: Passphrase = field(default_factory=Passphrase, repr=False)

    def identity(self, name: str = "") -> Identity:
        """The certificate called `name`: cert.pem and certkey.pem when it is empty.

        FreeBSD's naming: ``<name>.pem`` and ``<name>key.pem``.
        """
        stem = name or "cert"
        return Identity(self.certdir / f"{stem}.pem", self.certdir / f"{stem}key.pem")

    def context_factory(self, *, server: bool) -> Callable[[Identity | None], TlsContext]:
        """Makes contexts that differ in their identity only. Raises `ConfigurationError`."""
        keylog = KeyLogFile(self.keylog) if self.keylog is not None else None

        def make(identity: Identity | None) -> TlsContext:
            return TlsContext(
                server=server,
                trust=self.verifylocs,
                identity=identity,
                passphrase=self.passphrase,
                keylog=keylog,
                ciphersuites=self.ciphers,
            )

        return make


_PATH = click.Path(path_type=Path)


def common_options(default_certdir: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds the options of rpc.tlsclntd(8) and rpc.tlsservd(8), and our own, to a command."""
    options = [
        click.option(
            "--rundir",
            type=_PATH,
            envvar="UMKTLS_RUNDIR_HOST",
            required=True,
            help="Run directory of the host to serve.",
        ),
        click.option(
            "-D",
            "--certdir",
            type=_PATH,
            default=default_certdir,
            show_default=True,
            help="Directory with cert.pem and certkey.pem.",
        ),
        click.option(
            "-l",
            "--verifylocs",
            type=_PATH,
            help="PEM file of the CAs to trust, in place of the system's.",
        ),
        click.option("-C", "--ciphers", help="TLS 1.3 cipher suites, separated by colons."),
        click.option(
            "--keylog",
            type=_PATH,
            envvar="SSLKEYLOGFILE",
            help="Append the session secrets to this file (for Wireshark).",
        ),
        click.option("-v", "--verbose", is_flag=True, help="Log every handshake."),
        click.option("-d", "--debuglevel", is_flag=True, help="Log everything."),
    ]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def set_up_logging(name: str, verbose: bool, debug: bool) -> None:
    """Log to stderr, each line under the daemon's name."""
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
    logging.basicConfig(
        level=level, format=f"%(asctime)s {name}[%(process)d]: %(message)s", stream=sys.stderr
    )
