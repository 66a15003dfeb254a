from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from umktls_fs import mountpoint
from umktls_fs.mountpoint import alone_at, check_may_mount, check_mountpoint, set_readahead
from umktls_fs.options import parse_options

from tests.fs.mounted import needs_fuse
from umktls.errors import CallerError, WorldError
from umktls.kernel.host import mountinfo
from umktls.kernel.host.mountinfo import Mount, mounts

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


@pytest.mark.parametrize("covered", ["", "autofs"])
def test_of_two_that_mount_at_one_place_at_once_not_both_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, covered: str
) -> None:
    """Both have found it free. Where both see two mounts, both go."""
    table = tmp_path / "mountinfo"
    monkeypatch.setattr(mountinfo, "MOUNTINFO", table)
    line = f"62 22 0:58 / {tmp_path} rw - %s systemd-1 rw\n"
    before, own = line % covered if covered else "", line % "fuse.umktls"
    table.write_text(before)
    with alone_at(str(tmp_path)):
        table.write_text(before + own)
    with pytest.raises(CallerError, match="busy"), alone_at(str(tmp_path)):
        raise AssertionError("it is mounted once more")
    table.write_text(before)
    with pytest.raises(WorldError, match="at the same moment") as caught, alone_at(str(tmp_path)):
        table.write_text(before + own + own)
    assert caught.value.errno == errno.EBUSY


def test_without_fuse_there_is_one_line_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mountpoint, "FUSE", Path("/no/such/fuse"))
    with pytest.raises(WorldError, match="modprobe fuse") as caught:
        check_mountpoint("/tmp")
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EACCES, "this user may not mount (as root: chmod 666 /dev/fuse)"),
        (errno.EPERM, "a container forbids it (start it with --device /dev/fuse"),
        (errno.EBUSY, "`umktls doctor` looks for what this machine lacks"),
    ],
)
def test_a_closed_fuse_says_what_to_do(
    number: int, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def refuse(path: object, *arguments: int, **more: int) -> int:
        if str(path) == "/dev/fuse":
            raise OSError(number, os.strerror(number))
        return opened(str(path), *arguments, **more)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(WorldError) as caught:
        check_mountpoint("/tmp")
    assert f"/dev/fuse cannot be opened: {os.strerror(number)}; {advice}" in str(caught.value)


@pytest.fixture
def ordinary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Somebody who is not root, on a machine where he may mount; its fuse.conf."""
    program = tmp_path / "fusermount3"
    program.touch(mode=0o755)
    program.chmod(0o4755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(mountpoint, "FUSE_CONF", tmp_path / "fuse.conf")
    return tmp_path / "fuse.conf"


@pytest.mark.parametrize("word", ["allow_other", "allow_root"])
def test_who_is_not_root_lets_others_in_only_if_fuse_conf_says_so(
    ordinary: Path, word: str
) -> None:
    options = parse_options([word])
    for text in (None, "# user_allow_other\nmount_max = 3\n"):
        if text is not None:
            ordinary.write_text(text)
        with pytest.raises(CallerError, match=rf"-o {word}: .*echo user_allow_other >>{ordinary}"):
            check_may_mount(options)
    subprocess.run(f"echo user_allow_other >>{ordinary}", shell=True, check=True)  # as it says
    check_may_mount(options)


@pytest.mark.parametrize("word", ["suid", "dev"])
def test_only_root_may_ask_for_suid_and_dev(ordinary: Path, word: str) -> None:
    with pytest.raises(CallerError, match="only root may ask for it"):
        check_may_mount(parse_options([word]))
    check_may_mount(parse_options([f"no{word}"]))


def test_who_is_not_root_needs_a_setuid_fusermount3(ordinary: Path) -> None:
    program = ordinary.with_name("fusermount3")
    program.chmod(0o755)
    with pytest.raises(WorldError, match=rf"chmod u\+s {program}"):
        check_may_mount(parse_options([]))
    program.unlink()
    with pytest.raises(WorldError, match="install the package fuse3"):
        check_may_mount(parse_options([]))


def test_who_is_not_root_mounts_on_directories_of_his_own(
    ordinary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_fuse()
    mine, closed, sticky = (tmp_path / name for name in ("mine", "closed", "sticky"))
    for path, mode in ((mine, 0o755), (closed, 0o555), (sticky, 0o1777)):
        path.mkdir()
        path.chmod(mode)
    monkeypatch.setattr(os, "access", lambda path, mode: path != str(closed))
    assert check_mountpoint(str(mine)) == str(mine)
    for path in (closed, sticky):
        with pytest.raises(CallerError, match=r"not yours to mount on.*mkdir ~/mnt"):
            check_mountpoint(str(path))


def test_readahead_of_what_is_not_mounted_is_not_set(tmp_path: Path) -> None:
    assert not set_readahead(str(tmp_path), 1024)
