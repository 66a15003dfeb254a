"""A real Linux in an emulated machine (QEMU), which does what a test tells it.

Its root is this machine's file system, read-only: so the same Python, the same project, the same
programs, and no image to be made. It has /run and /mnt for itself. Commands go over a port of
virtio; see inside/work.py for what there is:

    with booted() as guest:
        guest.call("mount", source=f"{HOST}:/export", at="/mnt/a", options="vers=3,port=...")

The network is QEMU's own translation of addresses: the machine sees this one's loopback interface
as 10.0.2.2, with connections from ports that are not reserved, and its ports of NFS, MOUNT and
rpcbind are those of an address of their own of loopback here. All code is emulated, so all takes
ten times as long.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.realkernel.kernels import PROJECT, image, kernel_tree

__all__ = ["GUEST", "HOST", "Guest", "GuestError", "booted"]

HOST = "10.0.2.2"
"""What the emulated machine calls this one."""

GUEST = os.environ.get("GUEST", "127.0.77.7")
"""What this machine calls the emulated one: another address of loopback where there are two."""
PORTS = (2049, 20048, 111)
VIRTIOFSD = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")
MEMORY = "1536M"
BOOT_SECONDS = 900.0
START_SECONDS = 10.0
CALL_SECONDS = 120.0


class GuestError(Exception):
    """What a command has failed with, in the emulated machine's words."""


class Guest:
    """`release` is its kernel's, `console` a file with all that was said on the serial console."""

    def __init__(self, channel: socket.socket, console: Path) -> None:
        self.console = console
        self._channel = channel
        self._waiting: dict[int, Future[Any]] = {0: Future()}
        self._writing = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            self.release = str(self._waiting[0].result(BOOT_SECONDS))
        except TimeoutError as error:
            raise GuestError(f"no boot in {BOOT_SECONDS:g} s: {self.last_words()}") from error

    def start(self, what: str, **arguments: Any) -> Future[Any]:
        """Have a command begun; what it gives comes later."""
        future: Future[Any] = Future()
        with self._writing:
            number = len(self._waiting)
            self._waiting[number] = future
            command = {"id": number, "do": what, "with": arguments}
            self._channel.sendall(json.dumps(command).encode() + b"\n")
        return future

    def call(self, what: str, /, deadline: float = CALL_SECONDS, **arguments: Any) -> Any:
        """Have a command done: its value. GuestError if it fails, or says nothing for so long."""
        try:
            return self.start(what, **arguments).result(deadline)
        except TimeoutError as error:
            said = f"{what} {arguments}: nothing for {deadline:g} s: {self.last_words()}"
            raise GuestError(said) from error

    def run(self, *command: object, seconds: float = 60.0) -> str:
        """Run a program there that has to succeed; what it says."""
        words = [str(word) for word in command]
        done = self.call("run", seconds + 10, command=words, seconds=seconds)
        if done["code"] != 0:
            raise GuestError(f"{' '.join(words)}: code {done['code']}: {done['said']}")
        return str(done["said"])

    def last_words(self) -> str:
        return "\n".join(self.console.read_text(errors="replace").splitlines()[-20:])

    def _listen(self) -> None:
        with self._channel.makefile("rb") as lines:
            for line in lines:
                answer = json.loads(line)
                future = self._waiting.get(answer["id"])
                if future is None:
                    continue
                if "error" in answer:
                    future.set_exception(GuestError(answer["error"]))
                else:
                    future.set_result(answer["value"])
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(GuestError(f"the machine has ended: {self.last_words()}"))


@contextmanager
def booted(directory: Path) -> Iterator[Guest]:
    """A machine that runs inside the block; `directory` is for its sockets and its console."""
    tree = kernel_tree()
    channel, console = directory / "commands.sock", directory / "console"
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(channel))
        listener.listen()
        share = stack.enter_context(shared_root(directory / "fs.sock"))
        words = qemu(tree, share, channel)
        with console.open("wb") as output:
            machine = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        stack.callback(machine.wait)
        stack.callback(machine.kill)
        listener.settimeout(START_SECONDS)
        end = stack.enter_context(listener.accept()[0])
        yield Guest(end, console)


@contextmanager
def shared_root(path: Path) -> Iterator[Path]:
    """virtiofsd, which shows the whole file system to whoever connects to `path`."""
    program = next((one for one in VIRTIOFSD if Path(one).exists()), VIRTIOFSD[0])
    options = "source=/,sandbox=chroot,cache=always,log_level=err"
    command = [program, f"--socket-path={path}", "-o", options, "-f"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        wait_for(path, server)
        try:
            yield path
        finally:
            server.terminate()


def wait_for(path: Path, server: subprocess.Popen[bytes]) -> None:
    """Until the server listens."""
    ends = time.monotonic() + START_SECONDS
    while not path.exists() and server.poll() is None and time.monotonic() < ends:
        select.select([], [], [], 0.02)


def qemu(tree: Path, share: Path, channel: Path) -> list[str]:
    """The command: no disk, the serial console on standard output."""
    init = Path(__file__).parent / "inside" / "init.sh"
    # On a busy machine the emulated timer comes so late that Linux takes it for broken.
    timer = "no_timer_check"
    line = (
        f"console=ttyS0 quiet panic=-1 mitigations=off {timer} root=host rootfstype=virtiofs ro "
        f"init={init}"
    )
    arguments = f"{tree} {PROJECT} {sys.executable}"
    forwards = "".join(f",hostfwd=tcp:{GUEST}:{port}-:{port}" for port in PORTS)
    nice = ["nice", "-n", "10"] if shutil.which("nice") else []
    return [
        *(*nice, "qemu-system-x86_64", "-machine", "q35,memory-backend=memory"),
        *("-accel", os.environ.get("ACCEL", "tcg,thread=multi"), "-cpu", "max", "-smp", "2"),
        *("-object", f"memory-backend-memfd,id=memory,size={MEMORY},share=on", "-m", MEMORY),
        *("-no-reboot", "-display", "none", "-serial", "stdio", "-kernel", str(image(tree))),
        *("-append", f"{line} -- {arguments}"),
        *("-chardev", f"socket,id=share,path={share}"),
        *("-device", "vhost-user-fs-pci,chardev=share,tag=host"),
        *("-nic", f"user,model=virtio-net-pci{forwards}"),
        *("-chardev", f"socket,id=commands,path={channel}", "-device", "virtio-serial-pci"),
        *("-device", "virtserialport,chardev=commands,name=commands"),
    ]
