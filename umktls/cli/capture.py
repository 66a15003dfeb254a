"""`umktls capture`: what passes the sockets of hosts that run, for Wireshark."""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.resources import as_file, files
from pathlib import Path
from typing import IO, Any

import click

from umktls.cli.capture_options import say_what_is_secret
from umktls.cli.control import Host, choose, connect, parse_answer_untrusted
from umktls.errors import PeerError, UmktlsError, WorldError
from umktls.kernel.captures.config import CaptureConfig
from umktls.printable import printable

__all__ = ["capture"]

# How long a host may take to begin, and to write all that it has at the end.
ANSWER_SECONDS = 30.0


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.argument("host", required=False)
@click.option(
    "--secrets",
    is_flag=True,
    help="Have the TLS secrets of new connections, and RPC in clear, in the file, too.",
)
@click.option(
    "--capture-size",
    metavar="SIZE",
    help="Begin the file anew when it is so large (64M, 2G), and keep the one before.  "
    "[default: 256M]",
)
@click.option("--lua", is_flag=True, help="Print where the dissector for Wireshark is, and end.")
def capture(
    file: Path | None, host: str | None, secrets: bool, capture_size: str | None, lua: bool
) -> None:
    """Write what passes the sockets of hosts that run, and what they do, into FILE, until Ctrl-C.

    HOST is a host's name or process number as `umktls stat` shows it, or a run directory. Without
    it all that run are captured; where there are several, each has a file of its own, with its name
    behind FILE's. The file is pcapng, for this user alone. docs/captures.md tells what is in it.
    Sessions that are there already cannot be decrypted by Wireshark, since their handshakes are not
    in the file: `umktls rekey --how reconnect` makes new ones.

    \b
    Examples:
      umktls capture mount.pcapng client-4711
      umktls capture --secrets all.pcapng         RPC and keys, too: keep it to yourself
      wireshark -X lua_script:$(umktls capture --lua) mount.pcapng
    """
    if lua:
        say_where_the_dissector_is()
        return
    if file is None:
        raise click.UsageError("Missing argument 'FILE': what is captured has to go somewhere.")
    config = CaptureConfig.of(file, secrets, capture_size)
    assert config is not None
    hosts = choose(host)
    with ExitStack() as stack:
        try:
            running = [stack.enter_context(Running(one)) for one in hosts]
            for each, one in zip(running, named(config, hosts), strict=True):
                say_what_is_secret(one)
                click.echo(
                    f"capturing {each.host.name} into {printable(str(one.path))}; "
                    f"{each.begin(one)} connections are there already"
                )
            wait(running)
        except KeyboardInterrupt:  # the way to end it, and no failure
            pass
        reasons = [reason for each in running if (reason := each.end())]
    if reasons:
        raise WorldError("; ".join(reasons))


def say_where_the_dissector_is() -> None:
    with as_file(files("umktls.capture") / "umktls.lua") as path:
        click.echo(path)


def named(config: CaptureConfig, hosts: Sequence[Host]) -> list[CaptureConfig]:
    """The file of each host."""
    if len(hosts) == 1:
        return [config]
    return [config.called(host.name) for host in hosts]


class Running:
    """The capture of one host: a connection to its control socket, for as long as it lasts."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._began = False

    def __enter__(self) -> Running:
        try:
            self.sock = connect(self.host.rundir / "control.sock")
        except OSError as error:
            raise WorldError(
                f"host {self.host.name} does not answer: {error}", error.errno
            ) from error
        self.sock.settimeout(ANSWER_SECONDS)
        self._lines: IO[bytes] = self.sock.makefile("rb")
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self.sock.close()

    def begin(self, config: CaptureConfig) -> int:
        """How many connections there are already. Raises `PeerError` where the host refuses."""
        request = {
            "op": "capture",
            "path": str(config.path),
            "secrets": config.secrets,
            "size": config.size,
        }
        self.sock.sendall(json.dumps(request).encode() + b"\n")
        answer = self._answer()
        self._began = True
        return int(answer.get("capturing", 0))

    def end(self) -> str:
        """End it, and wait until all is in the file; why it has ended before, if it has."""
        if not self._began:
            return ""
        try:
            self.sock.shutdown(socket.SHUT_WR)
            return str(self._answer().get("ended", ""))
        except (OSError, UmktlsError) as error:
            return f"host {self.host.name} has ended in the middle of the capture: {error}"

    def _answer(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise PeerError(f"host {self.host.name} hung up")
        return parse_answer_untrusted(line)


def wait(running: Sequence[Running]) -> None:
    """Until one of the hosts has something to say, or Ctrl-C."""
    poller = select.poll()
    for each in running:
        poller.register(each.sock, select.POLLIN)
    poller.poll()
