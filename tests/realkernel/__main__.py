"""The conformance suite's rows about Linux, asked of a real Linux: `python -m tests.realkernel`.

The machine that this runs on need not have kernel TLS. A kernel of Debian's that has it (6.12) runs
in QEMU, in an emulated machine whose root is this machine's file system, read-only: so the same
Python, the same project, and no image to be made. There pytest runs `tests/realkernel`, and the
tests of the engine `linux`, which use that kernel's TLS. Everything that is said goes to the serial
console, and from there to here. Arguments are for pytest, in the place of those tests.

Nothing is installed: the kernel's package is fetched, and unpacked below .make/kernel. Only root
can do it, because of virtiofsd.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROJECT = Path(__file__).parents[2]
KEPT = PROJECT / ".make" / "kernel"
# The metapackage of the newest 6.12, which depends on the package with the kernel itself.
PACKAGE = "linux-image-6.12-cloud-amd64"
TESTS = ("tests/realkernel", "tests/engines/test_linux.py::test_calls_by_this_machine_s_kernel")
VIRTIOFSD = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")
MEMORY = "1536M"
MINUTES = 30
SECONDS = 10.0  # for virtiofsd to come up
LAST_WORDS = "exit code: "


def main(tests: list[str]) -> int:
    """Boot, print what the machine says, return pytest's exit code."""
    if os.geteuid() != 0:
        print("only root can share the file system with the emulated machine", file=sys.stderr)
        return 2
    tree = kernel_tree()
    with tempfile.TemporaryDirectory(prefix="umktls-") as directory, ExitStack() as stack:
        share = stack.enter_context(shared_root(Path(directory) / "fs.sock"))
        command = qemu(tree, share, tests or list(TESTS))
        machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        stack.callback(machine.wait)
        stack.callback(machine.kill)
        return listen(machine)


def listen(machine: subprocess.Popen[bytes]) -> int:
    """Pass on what comes over the serial console; the exit code that it tells, 1 for none."""
    assert machine.stdout is not None
    code = 1
    for line in machine.stdout:
        text = line.decode(errors="replace").rstrip()
        if text.startswith(LAST_WORDS):
            code = int(text.removeprefix(LAST_WORDS))
        print(text, flush=True)
    return code


def kernel_tree() -> Path:
    """Where the kernel's package is unpacked, with boot/ and lib/modules/ in it."""
    tree = KEPT / "tree"
    if not tree.is_dir():
        shutil.rmtree(KEPT, ignore_errors=True)
        fresh = KEPT / "fresh"
        fresh.mkdir(parents=True)
        run("apt-get", "update", "-q")
        run("apt-get", "download", "-q", package_name(), cwd=KEPT)
        (package,) = KEPT.glob("*.deb")
        run("dpkg-deb", "-x", str(package), str(fresh))
        run("depmod", "-b", str(fresh), version(fresh))
        fresh.rename(tree)
    return tree


def package_name() -> str:
    """The package that the metapackage stands for now."""
    words = run("apt-cache", "depends", "--important", PACKAGE).split()
    return next(word for word in words if word.startswith("linux-image") and word != PACKAGE)


def version(tree: Path) -> str:
    return next((tree / "lib" / "modules").iterdir()).name


@contextmanager
def shared_root(path: Path) -> Iterator[Path]:
    """virtiofsd, which shows the whole file system to whoever connects to `path`."""
    program = next((one for one in VIRTIOFSD if Path(one).exists()), VIRTIOFSD[0])
    options = "source=/,sandbox=chroot,cache=always,log_level=err"
    command = [program, f"--socket-path={path}", "-o", options, "-f"]
    with subprocess.Popen(command) as server:
        wait_for(path, server)
        try:
            yield path
        finally:
            server.terminate()


def wait_for(path: Path, server: subprocess.Popen[bytes]) -> None:
    """Until the server listens."""
    ends = time.monotonic() + SECONDS
    while not path.exists() and server.poll() is None and time.monotonic() < ends:
        os.sched_yield()


def qemu(tree: Path, share: Path, tests: list[str]) -> list[str]:
    """The command: no network, no disk, the serial console on standard output."""
    words = [str(tree), str(PROJECT), sys.executable, *tests]
    init = Path(__file__).with_name("init.sh")
    kernel = tree / "boot" / f"vmlinuz-{version(tree)}"
    line = f"console=ttyS0 quiet panic=-1 root=host rootfstype=virtiofs ro init={init} -- "
    return [
        *("timeout", f"{MINUTES}m", "qemu-system-x86_64"),
        *("-machine", f"q35,accel={os.environ.get('ACCEL', 'tcg')},memory-backend=memory"),
        *("-object", f"memory-backend-memfd,id=memory,size={MEMORY},share=on"),
        *("-m", MEMORY, "-cpu", "max", "-smp", "2", "-nic", "none", "-no-reboot"),
        *("-display", "none", "-serial", "stdio", "-kernel", str(kernel)),
        *("-append", line + " ".join(words)),
        *("-chardev", f"socket,id=share,path={share}"),
        *("-device", "vhost-user-fs-pci,chardev=share,tag=host"),
    ]


def run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
