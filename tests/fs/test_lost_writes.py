"""Data that no write has brought to the server is shown to nobody. Real mounts: the machine's page
cache has it."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator

import pytest

from tests.fs.mounted import Mounted, mounted
from umktls.nfs.types import nfsstat3

STATUSES = {
    nfsstat3.NFS3ERR_ROFS: errno.EROFS,
    nfsstat3.NFS3ERR_STALE: errno.ESTALE,
    nfsstat3.NFS3ERR_NOSPC: errno.ENOSPC,
    nfsstat3.NFS3ERR_DQUOT: errno.EDQUOT,
    nfsstat3.NFS3ERR_IO: errno.EIO,
}
OLD = b"old!" * 2048


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    with mounted(tmp_path_factory.mktemp("lost")) as one:
        yield one


@pytest.fixture
def file(mount: Mounted) -> Iterator[str]:
    """A file that is in the machine's page cache."""
    path = mount.path / "file"
    (mount.export / "file").write_bytes(OLD)
    assert path.read_bytes() == OLD
    yield str(path)
    path.unlink()


@pytest.mark.parametrize("length", [4096, 12_000], ids=["within", "beyond"])
@pytest.mark.parametrize("status", STATUSES, ids=lambda status: status.name)
def test_the_next_open_sees_what_the_server_has(
    mount: Mounted, file: str, status: nfsstat3, length: int
) -> None:
    reader, writer = os.open(file, os.O_RDONLY), os.open(file, os.O_RDWR)
    with mount.failing(status):
        os.pwrite(writer, b"!" * length, 0)
        with pytest.raises(OSError, match=os.strerror(STATUSES[status])):
            os.fsync(writer)
        assert os.pread(writer, 1 << 20, 0) == OLD
        assert os.pread(reader, 1 << 20, 0) == OLD
        assert os.fstat(reader).st_size == len(OLD)
        os.close(writer)
        with open(file, "rb") as again:
            assert again.read() == OLD
    with open(file, "ab") as again:
        again.write(b"end")
    os.close(reader)
    assert (mount.export / "file").read_bytes() == OLD + b"end"


def test_an_error_that_close_tells(mount: Mounted, file: str) -> None:
    writer = os.open(file, os.O_RDWR)
    with mount.failing(nfsstat3.NFS3ERR_ROFS):
        os.pwrite(writer, b"new?", 0)
        with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
            os.close(writer)
        with open(file, "rb") as again:
            assert again.read() == OLD


def test_a_mapping_shows_it_no_longer(mount: Mounted, file: str) -> None:
    fd = os.open(file, os.O_RDWR)
    with mmap.mmap(fd, len(OLD)) as mapping, mount.failing(nfsstat3.NFS3ERR_NOSPC):
        mapping[:4] = b"new?"
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            mapping.flush()
        assert mapping[:4] == b"old!"
    os.close(fd)


def test_a_write_that_is_made_at_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    with mounted(tmp_path_factory.mktemp("sync"), "sync") as mount:
        path = mount.path / "file"
        path.write_bytes(OLD)
        assert path.read_bytes() == OLD
        fd = os.open(path, os.O_RDWR)
        with mount.failing(nfsstat3.NFS3ERR_IO):
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                os.pwrite(fd, b"new?" * 2048, 0)
            assert os.pread(fd, 1 << 20, 0) == OLD
            assert path.read_bytes() == OLD
        os.close(fd)
