"""The kernel that the emulated machine boots: a package of Debian's, or any that is unpacked.

Nothing is installed: the package is fetched, and unpacked below .make/kernel. The environment
variable KERNEL names a directory with another one, of any distribution: lib/modules/VERSION (or
usr/lib) and boot/vmlinuz-VERSION in it, as packages have them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

__all__ = ["KEPT", "PROJECT", "image", "kernel_tree", "version"]

PROJECT = Path(__file__).parents[2]
KEPT = PROJECT / ".make" / "kernel"
# The metapackage of the newest 6.12, which depends on the package with the kernel itself. (The
# cloud kernel has no NFS.)
PACKAGE = "linux-image-6.12-amd64"


def kernel_tree() -> Path:
    """The directory that KERNEL names, or where Debian's package is unpacked."""
    named = os.environ.get("KERNEL")
    return prepared(Path(named).resolve()) if named else debian()


def debian() -> Path:
    tree = KEPT / PACKAGE
    if not tree.is_dir():
        shutil.rmtree(KEPT, ignore_errors=True)
        fresh = KEPT / "fresh"
        fresh.mkdir(parents=True)
        run("apt-get", "update", "-q")
        run("apt-get", "download", "-q", package_name(), cwd=KEPT)
        (package,) = KEPT.glob("*.deb")
        run("dpkg-deb", "-x", str(package), str(fresh))
        package.unlink()
        prepared(fresh).rename(tree)
    return tree


def prepared(tree: Path) -> Path:
    """With the index that modprobe(8) goes by, which a package's scripts would make."""
    if not (modules(tree) / "modules.dep").exists():
        # depmod looks in lib only, where the newest packages have usr/lib.
        if not (tree / "lib").exists():
            (tree / "lib").symlink_to("usr/lib")
        run("depmod", "-b", str(tree), version(tree))
    return tree


def modules(tree: Path) -> Path:
    for lib in ("lib", "usr/lib"):
        for found in (tree / lib / "modules").glob("*"):
            return found
    raise FileNotFoundError(f"{tree} is no unpacked kernel: it has no lib/modules/VERSION")


def version(tree: Path) -> str:
    return modules(tree).name


def image(tree: Path) -> Path:
    """Beside its modules, in the newest packages."""
    beside = modules(tree) / "vmlinuz"
    return beside if beside.exists() else tree / "boot" / f"vmlinuz-{version(tree)}"


def package_name() -> str:
    """The package that the metapackage stands for now."""
    words = run("apt-cache", "depends", "--important", PACKAGE).split()
    return next(word for word in words if word.startswith("linux-image") and word != PACKAGE)


def run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout
