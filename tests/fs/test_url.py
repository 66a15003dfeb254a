"""nfs:// URLs: what they stand for, and what is none."""

from __future__ import annotations

import errno
import os
import sys
from types import SimpleNamespace

import pytest
from umktls_fs.reach import export_of
from umktls_fs.url import Url, is_url
from umktls_fs.urlcommands import put_out

from umktls.errors import CallerError, WorldError


@pytest.mark.parametrize(
    ("text", "host", "port", "path"),
    [
        ("nfs://h/a/b", "h", None, b"/a/b"),
        ("NFS://h/a", "h", None, b"/a"),
        ("nfs://h:99/caf%E9%20%25", "h", 99, b"/caf\xe9 %"),
        ("nfs://[::1]:2049/é", "::1", 2049, "/é".encode()),
        ("nfs://[fe80::1%25lo]/a", "fe80::1%lo", None, b"/a"),
        ("nfs://h:/a#b", "h", None, b"/a#b"),
        ("nfs://h/a@b:c", "h", None, b"/a@b:c"),
        ("nfs://h/what?", "h", None, b"/what"),
        ("nfs://h/what%3F", "h", None, b"/what?"),
        ("nfs://h", "h", None, b"/"),
        ("nfs://h//a/./b/../c/", "h", None, b"/a/c/"),
        ("nfs://h/../%2E%2E/a/..", "h", None, b"/"),
        ("nfs://h/a/b/..", "h", None, b"/a/"),
        ("nfs://h/caf\udce9", "h", None, b"/caf\xe9"),
    ],
)
def test_urls(text: str, host: str, port: int | None, path: bytes) -> None:
    url = Url.parse(text)
    assert (url.host, url.port, url.path) == (host, port, path)
    assert Url.parse(str(url)) == url
    assert is_url(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("h:/a", "is not nfs://"),
        ("nfs:///a", "is not nfs://"),
        ("nfs://::1/a", "in brackets"),
        ("nfs://me@h/a", "NFS knows no user by name"),
        ("nfs://h:0/a", "not a TCP port"),
        ("nfs://h:65536/a", "not a TCP port"),
        ("nfs://h/50%", "say it as %25"),
        ("nfs://h/%00", "NUL"),
        ("nfs://h/a?certs=/etc", "behind -o"),
        ("nfs://h/a?certs=etc", "behind -o"),
        ("nfs://h/a?vers=", "behind -o"),
        ("nfs://h/a?keylog=/etc/passwd", "behind -o"),
        ("nfs://h/a?xprtsec=tls,keylog=x", "behind -o"),
    ],
)
def test_what_is_no_url(text: str, why: str) -> None:
    with pytest.raises(CallerError, match=why):
        Url.parse(text)


def test_options_of_libnfs() -> None:
    """As far as they are the same here; none names a file of this machine."""
    url = Url.parse("nfs://h/a?version=3&xprtsec=mtls&nfsport=99&mountport=98")
    assert url.options == ("vers=3", "xprtsec=mtls", "port=99", "mountport=98")
    assert str(url) == "nfs://h/a"


@pytest.mark.parametrize(
    ("path", "export"),
    [
        ("/", b"/"),
        ("/x/y", b"/"),
        ("/srv", b"/srv"),
        ("/srv/", b"/srv"),
        ("/srv2", b"/"),
        ("/srv/data/x", b"/srv/data/"),
        ("/srv/database", b"/srv"),
    ],
)
def test_the_innermost_export(path: str, export: bytes) -> None:
    assert export_of([b"/", b"/srv", b"/srv/data/"], path.encode()) == export


def test_what_is_not_exported() -> None:
    assert export_of([b"/srv"], b"/etc") is None
    assert export_of([], b"/") is None


def test_standard_output_that_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=full))
        with pytest.raises(WorldError, match="standard output: No space left") as caught:
            put_out(b"data")
    assert caught.value.errno == errno.ENOSPC


def test_a_reader_who_stops_is_no_error_to_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb", buffering=0) as pipe:
        monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=pipe))
        with pytest.raises(BrokenPipeError):
            put_out(b"data")
