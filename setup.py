"""Says which system packages are missing where pyfuse3, which has to be compiled, could not be.

Everything else about the package is in pyproject.toml.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
from importlib.machinery import PathFinder
from pathlib import Path

from setuptools import setup

ANYWAY = "UMKTLS_BUILD_ANYWAY"


def pyfuse3_is_there() -> bool:
    """In the environment that pip installs into; what is imported here is another one."""
    places = [sysconfig.get_path("platlib"), sysconfig.get_path("purelib")]
    return PathFinder.find_spec("pyfuse3", places) is not None


def fuse_headers_are_there() -> bool:
    try:
        return subprocess.run(["pkg-config", "--exists", "fuse3"], check=False).returncode == 0
    except OSError:
        return False


def complaint() -> str:
    """The packages by all distributions' names, or by this one's."""
    path = Path(__file__).parent / "umktls" / "cli" / "system_packages.py"
    spec = importlib.util.spec_from_file_location("system_packages", path)
    assert spec is not None
    assert spec.loader is not None
    packages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(packages)
    line = packages.command(packages.MOUNT_BUILD)
    return (
        "\numktls needs pyfuse3, which is compiled against libfuse3, and there are no headers of "
        f"that here.\nAs root:\n\n{line}\n\nand try again. (To build umktls for another machine: "
        f"{ANYWAY}=1.)\n"
    )


# A source distribution is made anywhere.
if (
    {"dist_info", "bdist_wheel", "editable_wheel"}.intersection(sys.argv)
    and ANYWAY not in os.environ
    and not pyfuse3_is_there()
    and not fuse_headers_are_there()
):
    sys.exit(complaint())

setup()
