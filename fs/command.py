"""`umktls mount`."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

import click

from umktls.certs.layout import Part, exposed_keys
from umktls.cycles import never_collected
from umktls.errors import CallerError, UmktlsError
from umktls.printable import PrintableFormatter, printable
from umktls.standard import drop

from .background import Report, in_background, send_output_to
from .library import import_pyfuse3
from .mountpoint import check_may_mount, check_mountpoint
from .optionhelp import completed, help_rows
from .options import MountOptions, engine_fields, parse_options
from .remount import mounted_at, remount
from .source import Source

# What a mount needs is imported where it is used: wrong usage is told at once, and help is too.
if TYPE_CHECKING:
    from .plan import MountPlan

__all__ = ["mount"]

USAGE, MOUNT_FAILURE = 1, 32  # mount(8)


class WrongOptions(click.ClickException):
    """The command line makes no sense; one line says why."""

    exit_code = USAGE

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"umktls mount: {printable(self.message)}", file=file, err=True)


class MountFailed(WrongOptions):
    """The command line was understood, but the mount does not work."""

    exit_code = MOUNT_FAILURE


class WrongUsage(click.UsageError):
    exit_code = USAGE


class MountCommand(click.Command):
    """With the options' table in its help, and mount(8)'s exit code for wrong usage."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            raise WrongUsage(printable(error.format_message()), error.ctx) from error

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, rows in help_rows():
            with formatter.section(f"Mount options (-o, separated by commas): {title}"):
                formatter.write_dl(rows)


@click.command(cls=MountCommand)
@click.argument("source", metavar="HOST[:PORT]:/EXPORT")
@click.argument("mountpoint", required=False)  # no click.Path: it would touch what is mounted
@click.option(
    "-o",
    "options",
    multiple=True,
    metavar="OPTIONS",
    shell_complete=completed,
    help="Mount options; see below.",
)
@click.option("--certs", type=click.Path(path_type=Path), help="What `umktls certs` made.")
@click.option(
    "--engine",
    metavar="NAME|tx=NAME,rx=NAME",
    help="What seals and opens the records; `umktls engines` lists them.",
)
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground until unmounted.")
@click.option("-d", "--debug", is_flag=True, help="Say what happens; stays in the foreground.")
@click.option("--no-daemon", is_flag=True, help="Start no rpctlscd: one is started by hand.")
@click.option("--rundir", type=click.Path(path_type=Path), help="Run directory of the host.")
@click.option("--keylog", type=click.Path(path_type=Path), help="Append the TLS secrets here.")
@click.option(
    "--capture",
    type=click.Path(path_type=Path),
    help="Write what passes the host's sockets, and what the host does, into this file, for "
    "Wireshark (docs/captures.md). It is overwritten.",
)
@click.option(
    "--secrets", is_flag=True, help="Have the TLS secrets and RPC in clear in the capture, too."
)
@click.option(
    "--capture-size",
    metavar="SIZE",
    help="Begin the capture's file anew when it is so large (64M, 2G), and keep the one before.  "
    "[default: 256M]",
)
@click.option("-s", "sloppy", is_flag=True, help="Bear with unknown mount options.")
@click.option("--fake", is_flag=True, help="Only check options and mount point.")
@click.option("--by-mount-fuse", is_flag=True, hidden=True, help="Called by mount.fuse3(8).")
@click.option("-n", "-v", "_ignored", is_flag=True, hidden=True)
def mount(
    source: str,
    mountpoint: str | None,
    options: tuple[str, ...],
    certs: Path | None,
    engine: str | None,
    foreground: bool,
    debug: bool,
    no_daemon: bool,
    rundir: Path | None,
    keylog: Path | None,
    capture: Path | None,
    secrets: bool,
    capture_size: str | None,
    sloppy: bool,
    fake: bool,
    by_mount_fuse: bool,
    _ignored: bool,
) -> None:
    """Mount what an NFS server exports, protected by TLS.

    Returns when the mount works (exit code 0), or says in one line why it does not (exit code 32,
    or 1 for wrong usage). The mount ends with `umktls umount MOUNTPOINT`, `fusermount3 -u`,
    `umount`, or when its process gets SIGTERM or SIGINT. SIGHUP has certificates, keys and
    revocation lists read again.

    \b
    Examples:
      umktls mount 127.0.0.1:2049:/ /mnt --certs /tmp/pki
      umktls mount server:/srv/data /mnt --certs /tmp/pki -o mtls,ro
      umktls mount [::1]:2049:/ /mnt -o notls -f
      umktls mount -o remount,ro /mnt
    """
    try:
        given: dict[str, Any] = engine_fields(engine) if engine is not None else {}
        given |= {"certs": _absolute(certs), "keylog": _absolute(keylog)}
        texts = map(without_defaults, options) if by_mount_fuse else options
        parsed = parse_options(texts, sloppy=sloppy, **given)
        source, mountpoint = both(source, mountpoint, parsed)
        where = Source.parse(source)
        stays = foreground or debug
        from umktls.kernel.captures.config import CaptureConfig

        from .plan import MountPlan

        wanted = CaptureConfig.of(capture, secrets, capture_size)
        plan = MountPlan(where, mountpoint, parsed, no_daemon, _absolute(rundir), stays, wanted)
        plan.port()
    except UmktlsError as error:
        raise WrongOptions(str(error)) from error
    _warn(parsed, None if wanted is None else wanted.warning)
    _log_to_stderr(debug)
    try:
        _check(plan) if fake else _mount(plan)
    except UmktlsError as error:
        raise MountFailed(f"{source} on {mountpoint}: {error}") from error


def both(source: str, mountpoint: str | None, options: MountOptions) -> tuple[str, str]:
    """Source and mount point. A mount that is there is remounted by its mount point alone, and
    its source is known. Raises UmktlsError."""
    if mountpoint is not None:
        return source, mountpoint
    if options.remount:
        return mounted_at(source).source, source
    raise CallerError(
        f"{source}: where is it to be mounted? `umktls mount HOST[:PORT]:/EXPORT MOUNTPOINT`"
    )


def without_defaults(text: str) -> str:
    """mount.fuse3(8) puts `dev` and `suid` behind all other options unless one of them is nodev or
    nosuid; whoever typed `suid` himself has it twice. A mount has the same defaults by any way."""
    for word in ("suid", "dev"):
        if text == word or text.endswith(f",{word}"):
            text = text[: -len(word)].removesuffix(",")
    return text


def _warn(options: MountOptions, of_capture: str | None) -> None:
    """Say what has no effect; and in red, what whoever uses the chosen engines, or has secrets
    written into a capture, has to know."""
    if options.warning is not None:
        click.echo(f"umktls mount: warning: {printable(options.warning)}", err=True)
    if options.certs is not None:
        part = Part(options.certs / "client", options.certs / "ca.pem")
        for text in exposed_keys(part):
            click.echo(f"umktls mount: warning: {text}", err=True)
    loud = [] if options.security == "none" else list(options.engine.warnings())
    for text in loud if of_capture is None else [of_capture, *loud]:
        click.secho(f"umktls mount: warning: {printable(text)}", fg="red", bold=True, err=True)


def _log_to_stderr(debug: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(asctime)s %(name)s %(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[handler])


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()


def _check(plan: MountPlan) -> MountPlan:
    """All that can be known before the server is asked; the plan with the real mount point."""
    real = check_mountpoint(plan.mountpoint)
    check_may_mount(plan.options)
    return replace(plan, mountpoint=real)


def _mount(plan: MountPlan) -> None:
    if plan.options.remount:
        remount(plan.mountpoint, plan.options)
        return
    plan = _check(plan)
    if plan.foreground:
        _mount_in_foreground(plan)
        return
    sys.stdout.flush()
    sys.stderr.flush()
    later = in_background(partial(_mount_in_background, plan))
    atexit.register(gc.freeze)  # Python would look three times for cycles before it ends
    if later is not None:
        click.echo(printable(later), err=True)


@contextmanager
def _ended_in_order() -> Iterator[list[int]]:
    """SIGTERM and SIGHUP end the block as an error would, where nobody else heeds them: the run
    directory goes, and the daemon. A mount heeds them later, when its event loop runs. The block's
    value are those that came: Python drops what is raised in some of its callbacks."""
    came: list[int] = []

    def end(number: int, frame: object) -> NoReturn:
        came.append(number)
        raise SystemExit(128 + number)

    both = (signal.SIGTERM, signal.SIGHUP)
    unheeded = [number for number in both if signal.getsignal(number) == signal.SIG_DFL]
    for number in unheeded:
        signal.signal(number, end)
    try:
        yield came
    finally:
        for number in unheeded:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def _daemon_first(plan: MountPlan) -> Iterator[None]:
    """Inside the block is the life of the mount: its daemon starts while the rest is imported."""
    from umktls.kernel.host.early import starting_early

    early = starting_early("client", plan.rundir, plan.config().daemon())
    with _ended_in_order() as came, early:
        with never_collected():
            import_pyfuse3()
            import_module("umktls_fs.mount")
        if came:
            raise SystemExit(128 + came[0])
        yield


def _mount_in_foreground(plan: MountPlan) -> None:
    from umktls.limits import keep_memory_private

    keep_memory_private()
    with _daemon_first(plan):
        from umktls.kernel.ground import hostclock

        from .mount import News, run_mount

        news = News(
            booted=lambda rundir: None,
            ready=_say_mounted,
            delayed=partial(_say_later, plan),
            remark=lambda text: click.echo(printable(_warning(text)), err=True),
        )
        hostclock.run(run_mount, plan, news)


def _say_mounted() -> None:
    """Whoever wanted to know may have gone: the mount stays."""
    try:
        click.echo("mounted")
    except OSError:
        drop(1)


def _mount_in_background(plan: MountPlan, report: Report) -> None:
    from umktls.limits import keep_memory_private

    keep_memory_private()
    # The terminal is the caller's; what is worth saying before there is a log goes to `report`.
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)

    def booted(rundir: Path) -> None:
        send_output_to(rundir / "host.log")
        logging.root.setLevel(level)

    def delayed(error: UmktlsError) -> None:
        if plan.options.background:
            end = f"`kill {os.getpid()}` ends that"
            report.later(f"{_later(plan, error)} in the background ({end})")

    os.umask(0o077)
    with _daemon_first(plan):
        from umktls.kernel.ground import hostclock

        from .mount import News, run_mount

        news = News(booted, report.ready, delayed, lambda text: report.remark(_warning(text)))
        hostclock.run(run_mount, plan, news)


def _warning(text: str) -> str:
    return f"umktls mount: warning: {text}"


def _say_later(plan: MountPlan, error: UmktlsError) -> None:
    click.echo(printable(_later(plan, error)), err=True)


def _later(plan: MountPlan, error: UmktlsError) -> str:
    minutes = plan.options.retry_seconds / 60
    what = f"umktls mount: {plan.source} on {plan.mountpoint}: {error}"
    return f"{what}; trying again for {minutes:g} minutes"
