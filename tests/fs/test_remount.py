"""`-o remount`: what mount(2) is told, and a mount that becomes read-only and back."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from umktls_fs import remount as module
from umktls_fs.command import mount
from umktls_fs.options import parse_options
from umktls_fs.remount import changed, remount

from tests.fs.mounted import mounted
from umktls.errors import CallerError
from umktls.kernel.host import mountinfo

USUAL = frozenset({"rw", "nosuid", "nodev", "relatime", "user_id=0", "allow_other"})
KEPT = 2 | 4 | 1 << 21


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("ro", KEPT | 1),
        ("rw", KEPT),
        ("noexec,noatime", KEPT | 8 | 1024),
        ("suid", KEPT & ~2),
        ("ro,nosuid,nodev,user_id=0,group_id=0,allow_other", KEPT | 1),
    ],
)
def test_what_is_not_named_stays(text: str, flags: int) -> None:
    assert changed(USUAL, parse_options([text, "remount"])) == flags


def test_a_mount_that_is_read_only_stays_so() -> None:
    assert changed(frozenset({"rw", "ro"}), parse_options(["remount,noexec"])) == 1 | 8


def test_only_a_mount_of_umktls_and_only_by_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = parse_options(["remount,ro"])
    with pytest.raises(CallerError, match="`umktls stat` lists the mounts"):
        remount(str(tmp_path), options)
    table = tmp_path / "mountinfo"
    table.write_text(
        f"61 22 0:57 / {tmp_path}/m rw,nosuid - fuse.umktls host:/x rw\n"
        f"62 22 0:58 / {tmp_path}/covered rw,nosuid - fuse.umktls host:/x rw\n"
        f"63 62 0:59 / {tmp_path}/covered rw - tmpfs tmpfs rw\n"
    )
    monkeypatch.setattr(mountinfo, "MOUNTINFO", table)
    with pytest.raises(CallerError, match="no umktls is mounted"):
        remount(f"{tmp_path}/covered", options)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(CallerError, match=rf"umktls umount {tmp_path}/m") as caught:
        remount(f"{tmp_path}/m", options)
    assert caught.value.errno == errno.EPERM


def test_a_mount_point_alone_is_for_remounts(tmp_path: Path) -> None:
    for options, said in (
        ("ro", "where is it to be mounted?"),
        ("remount", "no umktls is mounted"),
    ):
        result = CliRunner().invoke(mount, [str(tmp_path), "-o", options])
        assert result.exit_code == 1
        assert said in result.output


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change a mount")
def test_read_only_and_back(tmp_path: Path) -> None:
    with mounted(tmp_path) as there:
        file = there.path / "file"
        file.write_text("1")
        place = str(there.path)

        def asked(options: str, *words: str, code: int = 0) -> str:
            result = CliRunner().invoke(mount, ["-o", options, *words])
            assert result.exit_code == code, result.output
            return result.output

        with file.open("w"):
            assert f"fuser -vm {there.path}" in asked("remount,ro", place, code=32)
        asked("remount,ro", "local:/", place)
        with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
            file.write_text("2")
        (info,) = [one for one in mountinfo.mounts() if one.mountpoint == str(there.path)]
        assert {"ro", "nosuid", "nodev"} <= info.options
        asked("remount,rw,noexec", place)
        file.write_text("3")
        assert (there.export / "file").read_text() == "3"


def test_a_busy_mount_says_who_to_look_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Busy:
        def mount(self, *arguments: object) -> int:
            ctypes.set_errno(errno.EBUSY)
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda name, use_errno: Busy())
    with pytest.raises(Exception, match=r"fuser -vm /mnt"):
        module.call_mount("/mnt", 1)
