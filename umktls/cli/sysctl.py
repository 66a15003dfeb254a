"""`umktls sysctl`: the counters and the knobs of kernel TLS, as sysctl(8) shows FreeBSD's."""

from __future__ import annotations

import click

from umktls.cli.control import choose
from umktls.errors import CallerError
from umktls.printable import printable

__all__ = ["sysctl"]


@click.command()
@click.argument("words", nargs=-1, metavar="[NAME | NAME=VALUE]...")
@click.option("--host", help="Only this host: its name, process number or run directory.")
def sysctl(words: tuple[str, ...], host: str | None) -> None:
    """Print the counters of kernel TLS under FreeBSD's names, or turn its knobs.

    A NAME stands for everything below it, too. umktls.ifnet_rexmit_pct is not FreeBSD's: it is the
    share of their bytes, in percent, that connections are taken to have sent again; -1 asks TCP.

    \b
    Examples:
      umktls sysctl kern.ipc.tls.stats
      umktls sysctl kern.ipc.tls.ifnet_max_rexmit_pct=5
      umktls sysctl umktls.ifnet_rexmit_pct=10      (has cards given up)
    """
    wanted = [word.partition("=")[0] for word in words]
    values = dict(assignment(word) for word in words if "=" in word)
    hosts = choose(host)
    known: set[str] = set()
    for one in hosts:
        if len(hosts) > 1:
            click.echo(f"{printable(one.name)}:")
        for line in one.sysctl(values)["sysctl"]:
            names = [name for name in wanted if below(line, name)]
            known.update(names)
            if names or not wanted:
                click.echo("\t".join(map(printable, line.split("\t"))))
    for name in wanted:
        if name not in known:
            raise CallerError(f"no sysctl {name!r}; `umktls sysctl` lists all")


def assignment(word: str) -> tuple[str, int]:
    name, _, text = word.partition("=")
    try:
        return name, int(text)
    except ValueError:
        raise CallerError(f"sysctl {word}: a whole number is wanted") from None


def below(line: str, name: str) -> bool:
    """Whether a line is about `name`, or something below it."""
    return line.partition(":")[0] == name or line.startswith(name + ".")
