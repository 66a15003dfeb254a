"""nfsstat3 and errno."""

from __future__ import annotations

import errno

import pytest

from umktls.nfs.status import ERRNO_OF_STATUS, STATUS_OF_ERRNO, errno_of, status_of
from umktls.nfs.types import nfsstat3

OK = nfsstat3.NFS3_OK


def test_every_status_has_an_errno() -> None:
    assert set(ERRNO_OF_STATUS) == set(nfsstat3)
    assert errno_of(OK) == 0
    assert all(errno_of(status) in errno.errorcode for status in nfsstat3 if status != OK)


@pytest.mark.parametrize("status", [s for s in nfsstat3 if s <= nfsstat3.NFS3ERR_REMOTE])
def test_a_status_with_an_errno_of_its_own_comes_back(status: nfsstat3) -> None:
    assert status_of(errno_of(status)) == status
    if status != OK:
        assert getattr(errno, status.name.replace("NFS3ERR_", "E")) == errno_of(status)


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (errno.ENOTEMPTY, nfsstat3.NFS3ERR_NOTEMPTY),
        (errno.ENAMETOOLONG, nfsstat3.NFS3ERR_NAMETOOLONG),
        (errno.EDQUOT, nfsstat3.NFS3ERR_DQUOT),
        (errno.EOPNOTSUPP, nfsstat3.NFS3ERR_NOTSUPP),
        (errno.EMFILE, nfsstat3.NFS3ERR_JUKEBOX),
        (errno.ELOOP, nfsstat3.NFS3ERR_INVAL),
        (errno.ECHILD, nfsstat3.NFS3ERR_IO),
        (99999, nfsstat3.NFS3ERR_IO),
    ],
)
def test_errnos_of_a_file_system(number: int, status: nfsstat3) -> None:
    assert status_of(number) == status


def test_no_error_turns_into_success() -> None:
    assert [number for number, status in STATUS_OF_ERRNO.items() if status == OK] == [0]
