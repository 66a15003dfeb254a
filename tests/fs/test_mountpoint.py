from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from umktls_fs.mountpoint import check_mountpoint, set_readahead

from tests.fs.mounted import needs_fuse
from umktls.errors import CallerError
from umktls.kernel import mountinfo
from umktls.kernel.mountinfo import Mount, mounts

MOUNTINFO = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:26 / /dev/shm rw - tmpfs tmpfs rw
61 22 0:57 / /mnt/with\040blank\134and\011tab rw,nosuid - fuse.umktls host:/x rw
62 22 0:58 / /auto rw - autofs systemd-1 rw

"""


def test_mountinfo_is_read() -> None:
    assert list(mounts(MOUNTINFO)) == [
        Mount("254:0", "/", "ext4"),
        Mount("0:26", "/dev/shm", "tmpfs"),
        Mount("0:57", "/mnt/with blank\\and\ttab", "fuse.umktls"),
        Mount("0:58", "/auto", "autofs"),
    ]


@given(st.text())
def test_any_text_is_a_list_of_mounts(text: str) -> None:
    for mount in mounts(text):
        assert mount.mountpoint is not None


def test_this_machine_has_mounts() -> None:
    assert any(mount.mountpoint == "/" for mount in mounts())


def test_a_directory_will_do_and_its_real_path_counts(tmp_path: Path) -> None:
    needs_fuse()
    (tmp_path / "mnt").mkdir()
    (tmp_path / "mnt" / "not empty").touch()
    (tmp_path / "link").symlink_to("mnt")
    assert check_mountpoint(str(tmp_path / "link")) == str(tmp_path / "mnt")
    assert check_mountpoint(str(tmp_path / "mnt" / ".." / "mnt")) == str(tmp_path / "mnt")


def test_a_missing_directory_is_refused_with_advice(tmp_path: Path) -> None:
    needs_fuse()
    with pytest.raises(CallerError, match=r"No such file.*make it first") as caught:
        check_mountpoint(str(tmp_path / "missing"))
    assert caught.value.errno == errno.ENOENT


def test_a_file_is_refused(tmp_path: Path) -> None:
    needs_fuse()
    (tmp_path / "file").touch()
    with pytest.raises(CallerError, match="not a directory"):
        check_mountpoint(str(tmp_path / "file"))


def test_a_mount_point_is_busy() -> None:
    needs_fuse()
    with pytest.raises(CallerError, match=r"/proc is busy.*type proc") as caught:
        check_mountpoint("/proc")
    assert caught.value.errno == errno.EBUSY


def test_autofs_may_be_covered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_fuse()
    table = tmp_path / "mountinfo"
    monkeypatch.setattr(mountinfo, "MOUNTINFO", table)
    line = f"62 22 0:58 / {tmp_path} rw - %s systemd-1 rw\n"
    table.write_text(line % "autofs")
    assert check_mountpoint(str(tmp_path)) == str(tmp_path)
    table.write_text(line % "autofs" + line % "fuse.umktls")
    with pytest.raises(CallerError, match="busy"):
        check_mountpoint(str(tmp_path))


def test_without_fuse_there_is_one_line_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "exists", lambda path: path != "/dev/fuse")
    with pytest.raises(Exception, match="modprobe fuse"):
        check_mountpoint("/tmp")


def test_readahead_of_what_is_not_mounted_is_not_set(tmp_path: Path) -> None:
    assert not set_readahead(str(tmp_path), 1024)
