"""A place of its own for a server and a mount: nothing outside it is touched, nothing is left.

A `Sandbox` is a temporary directory with everything in it: run directories, certificates, the
exported directory, the mount point. The programs are started as a user starts them, with the
directory in their environment; that is also how a process that should be gone is found.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from umktls.cli.control import Host, find_hosts
from umktls.cli.umount import mounts, unmount
from umktls.errors import UmktlsError, WorldError
from umktls.kernel.host.commands import program_path

__all__ = ["Sandbox"]

# Of machines that are very busy, too.
START_SECONDS = 120.0
END_SECONDS = 60.0
GRACE_SECONDS = 20.0
LAST_LINES = 10


class Sandbox:
    """Use it as a context; leaving it stops everything and removes the directory.

    Leaving raises WorldError when something had to be left behind, unless another error is on its
    way already.
    """

    def __init__(self, name: str, base: Path | None = None) -> None:
        self.top = Path(os.path.realpath(tempfile.mkdtemp(prefix=f"umktls-{name}-", dir=base)))
        self.run = self.directory("run")
        self.certs = self.directory("pki")
        self.export = self.directory("export")
        self.mountpoint = self.directory("mnt")
        self._server: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        left = self.close()
        if left and error is None:
            raise WorldError("left behind: " + "; ".join(left))

    def directory(self, name: str) -> Path:
        """A new directory in here."""
        (self.top / name).mkdir(mode=0o700)
        return self.top / name

    # ---- starting

    def environment(self) -> dict[str, str]:
        """What the programs are started with."""
        return os.environ | {"UMKTLS_RUNDIR": str(self.run)}

    def serve(self, *options: str) -> tuple[Host, str]:
        """Start a server for the export, or for those of the options, on a free port; its host, and
        its line when ready."""
        own: tuple[str, ...] = ("--port", "0", "--state", str(self.top / "state"))
        if "--host" not in options:
            own += ("--host", "127.0.0.1")
        # What is served is this user's own, who may be root, and nobody else can get at it.
        what = () if "--exports" in options else (str(self.export), "--no-root-squash")
        command = [program_path("umktls"), "serve", *what, *own, *options]
        # A session of its own: Ctrl-C on the terminal is for us, and we end it in order.
        with self.server_log.open("w") as log:
            self._server = subprocess.Popen(
                command,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                errors="surrogateescape",
                start_new_session=True,
            )
        return self._ready(self._server)

    @property
    def server_log(self) -> Path:
        """What the server says on stderr."""
        return self.top / "server.log"

    def _ready(self, server: subprocess.Popen[str]) -> tuple[Host, str]:
        assert server.stdout is not None
        readable, _, _ = select.select([server.stdout], [], [], START_SECONDS)
        ready = server.stdout.readline().strip() if readable else ""
        for host in self.hosts():
            if ready and host.pid == server.pid:
                return host, ready
        self.stop_server()
        said = self.server_log.read_text(errors="surrogateescape").strip()
        raise WorldError(f"the server did not start: {said or 'it said nothing'}")

    def mount(self, source: str, *options: str, at: Path | None = None) -> Host:
        """Mount at `at`, or at `mountpoint`; returns the client host when the mount works."""
        before = {host.pid for host in self.hosts()}
        self.command(["mount", source, str(at or self.mountpoint), *options], START_SECONDS)
        for host in self.hosts():
            if host.pid not in before and host.facts.get("role") == "client":
                return host
        raise WorldError(f"`umktls mount` succeeded, but no client host runs below {self.run}")

    def command(self, arguments: Sequence[str], seconds: float) -> str:
        """Run `umktls` with these arguments; what it printed. Raises WorldError if it fails."""
        # Not captured by pipes: a mount that stays in the background would hold them open.
        with tempfile.TemporaryFile("w+", dir=self.top) as output:
            done = subprocess.Popen(
                [program_path("umktls"), *arguments],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            try:
                code = done.wait(seconds)
            except subprocess.TimeoutExpired:
                done.kill()
                done.wait()
                code = -signal.SIGKILL
            output.seek(0)
            said = output.read().strip()
        if code != 0:
            what = " ".join(("umktls", *arguments))
            raise WorldError(f"`{what}` failed with code {code}: {said or 'it said nothing'}")
        return said

    def hosts(self) -> list[Host]:
        """The hosts that run in here."""
        return find_hosts(self.run)

    def last_words(self) -> list[str]:
        """The last lines of each log in here, for finding out what went wrong."""
        lines = []
        for path in (self.server_log, *sorted(self.run.glob("*/*.log"))):
            if path.exists():
                said = path.read_text(errors="replace").splitlines()[-LAST_LINES:]
                lines += [f"{path.relative_to(self.top)}: {line}" for line in said]
        return lines

    # ---- stopping

    def close(self) -> list[str]:
        """Stop everything and remove the directory; what had to be left, for people."""
        left = []
        try:
            self.unmount()
        except UmktlsError as error:
            left.append(str(error))
        self.stop_server()
        strays = self._end_strays()
        left += [f"process {pid} ({text}) had to be ended" for pid, text in strays.items()]
        for path in self.mounted():
            subprocess.run(["fusermount3", "-u", "-z", "--", str(path)], check=False)
        if self.mounted():
            return [*left, *(f"the mount at {path}" for path in self.mounted())]
        shutil.rmtree(self.top, ignore_errors=True)
        if self.top.exists():
            left.append(f"files in {self.top}")
        return left

    def _end_strays(self) -> dict[int, str]:
        """End what still runs in here, and what that has started meanwhile: number -> command."""
        ended: dict[int, str] = {}
        while new := {pid: name for pid, name in self.processes().items() if pid not in ended}:
            for pid in new:
                _end(pid)
            ended |= new
        return ended

    def unmount(self) -> None:
        """End the mounts in here, and wait for their processes."""
        for path in self.mounted():
            unmount(path, timeout=END_SECONDS, base=self.run)

    def mounted(self) -> list[Path]:
        """Where something is mounted in here."""
        return [path for path in mounts() if path.is_relative_to(self.top)]

    def stop_server(self) -> None:
        """End the server by SIGTERM, or at last by SIGKILL."""
        server, self._server = self._server, None
        if server is None:
            return
        server.terminate()
        try:
            server.communicate(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.communicate()

    def processes(self) -> dict[int, str]:
        """The processes, except this one, that were started in here: number -> command."""
        found = {}
        for directory in Path("/proc").iterdir():
            if directory.name.isdigit() and int(directory.name) != os.getpid():
                try:
                    if self._is_in_here(directory):
                        found[int(directory.name)] = (directory / "comm").read_text().strip()
                except OSError:
                    continue
        return found

    def _is_in_here(self, process: Path) -> bool:
        """A process that keeps its memory to itself shows its environment to root only: then its
        arguments have to do. OSError for one that has gone."""
        try:
            mark = os.fsencode(f"UMKTLS_RUNDIR={self.run}")
            return mark in (process / "environ").read_bytes().split(b"\0")
        except PermissionError:
            return os.fsencode(self.top) in (process / "cmdline").read_bytes()


def _end(pid: int) -> None:
    """End a process that is not our child: by SIGTERM, or after a while by SIGKILL."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(descriptor, number)
            if poll.poll(GRACE_SECONDS * 1000):
                return
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)
