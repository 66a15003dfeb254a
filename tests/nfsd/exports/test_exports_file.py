"""The exports file: each option, and each mistake by its line."""

from __future__ import annotations

import grp
import os
import pwd
import socket
from ipaddress import ip_network
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umktls.certs.pki import Authority
from umktls.ktls.engines.choice import EngineChoice
from umktls.nfsd.exports.engines import engine_conflicts, engine_for, engines_asked_for
from umktls.nfsd.exports.exports import Export
from umktls.nfsd.exports.file import ExportsFileError, parse_exports, read_exports
from umktls.nfsd.exports.rules import ca_fingerprints

NOBODY = 65534
DAEMON = pwd.getpwnam("daemon")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directories that the lines are about."""
    for name in ("a", "b", "with space"):
        (tmp_path / name).mkdir()
    return tmp_path


def parse(here: Path, text: str) -> list[Export]:
    """TOP stands for the directory with the directories."""
    return parse_exports(text.replace("TOP", str(here)), "exports")


def one(here: Path, options: str) -> Export:
    (export,) = parse(here, f"TOP/a {options}")
    return export


def test_a_whole_file(here: Path) -> None:
    text = """
# what people have
TOP/a  -ro -tls   192.0.2.0/24 127.0.0.1   # read only

"TOP/with space" \\
    -tlscert,maproot=root \\
    2001:db8::/32
TOP/b
"""
    first, second, third = parse(here, text)
    assert (first.path, first.read_only, first.security) == (f"{here}/a", True, "tls")
    assert first.rules.networks == (ip_network("192.0.2.0/24"), ip_network("127.0.0.1/32"))
    assert (second.path, second.security, second.squash) == (f"{here}/with space", "mtls", "none")
    assert second.rules.networks == (ip_network("2001:db8::/32"),)
    assert third == Export(f"{here}/b")
    assert (third.squash, third.secure, third.guarded) == ("root", True, False)


def test_several_directories_in_a_line(here: Path) -> None:
    exports = parse(here, "TOP/a TOP/b -tls -quiet -alldirs")
    assert [(export.path, export.security) for export in exports] == [
        (f"{here}/a", "tls"),
        (f"{here}/b", "tls"),
    ]


@pytest.mark.parametrize(
    ("options", "security"),
    [
        ("", "none"),
        ("-tls", "tls"),
        ("-tlscert", "mtls"),
        ("-tlscertuser", "certuser"),
        ("-tlscert -tls", "mtls"),
        ("-sec=sys -tls", "tls"),
        ("-sec sys", "none"),
    ],
)
def test_security(here: Path, options: str, security: str) -> None:
    assert one(here, options).security == security


GROUPS = tuple(os.getgrouplist("daemon", DAEMON.pw_gid))


@pytest.mark.parametrize(
    ("options", "squash", "anonymous"),
    [
        ("", "root", (NOBODY, NOBODY)),
        ("-maproot=root", "none", (0, *os.getgrouplist("root", 0))),
        ("-maproot=0", "none", (0, *os.getgrouplist("root", 0))),
        ("-root=daemon", "root", (DAEMON.pw_uid, *GROUPS)),
        ("-r daemon:", "root", (DAEMON.pw_uid, NOBODY)),
        ("-maproot=daemon:5:root", "root", (DAEMON.pw_uid, 5, grp.getgrnam("root").gr_gid)),
        ("-maproot=4000000000", "root", (4000000000, NOBODY)),
        ("-mapall=daemon", "all", (DAEMON.pw_uid, *GROUPS)),
        ("-mapall=12345:7", "all", (12345, 7)),
    ],
)
def test_mapping(here: Path, options: str, squash: str, anonymous: tuple[int, ...]) -> None:
    export = one(here, options)
    assert (export.squash, export.anonymous) == (squash, anonymous)


@pytest.mark.parametrize(
    ("options", "networks"),
    [
        ("-network 192.0.2.0/24", ["192.0.2.0/24"]),
        ("-network=192.0.2.7/24", ["192.0.2.0/24"]),
        ("-network 192.0.2.0 -mask 255.255.255.0", ["192.0.2.0/24"]),
        ("-network=192.0.2.0,mask=255.255.0.0", ["192.0.0.0/16"]),
        ("-network 2001:db8:: -mask 32", ["2001:db8::/32"]),
        ("192.0.2.1 2001:db8::1", ["192.0.2.1/32", "2001:db8::1/128"]),
        ("192.0.2.9/24 -tls 198.51.100.0/24", ["192.0.2.0/24", "198.51.100.0/24"]),
    ],
)
def test_clients(here: Path, options: str, networks: list[str]) -> None:
    assert list(one(here, options).rules.networks) == [ip_network(each) for each in networks]


def test_hosts(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(name: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        assert name == "ws1.example.org"
        found: list[tuple[object, ...]] = [(0, 0, 0, "", ("192.0.2.1", 0))]
        return [*found, (0, 0, 0, "", ("fe80::1%eth0", 0, 0, 2))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    networks = one(here, "ws1.example.org").rules.networks
    assert networks == (ip_network("192.0.2.1/32"), ip_network("fe80::1/128"))


def test_rules_about_certificates(here: Path) -> None:
    for name in ("one", "two"):
        (here / f"{name}.pem").write_bytes(Authority.create(name).certificate_pem())
    fingerprint = "ab" * 32
    export = one(
        here,
        f"-ca={here}/one.pem -ca {here}/two.pem -san=*.example.org -email=*@example.org "
        f"-fingerprint=SHA256:{fingerprint}",
    )
    assert export.level == 2
    rules = export.rules
    assert rules.authorities == ca_fingerprints(here / "one.pem") | ca_fingerprints(
        here / "two.pem"
    )
    assert rules.names == ("DNS:*.example.org", "email:*@example.org")
    assert rules.fingerprints == {bytes.fromhex(fingerprint)}


@pytest.mark.parametrize(
    ("options", "engine"),
    [
        ("-engine=bounce", EngineChoice("bounce", "bounce")),
        ("-engine=ifnet", EngineChoice("ifnet", "software")),
        ("-ro,engine=toe", EngineChoice("toe", "toe")),
        ("-engine_tx=bounce -engine_rx=software", EngineChoice("bounce", "software")),
        ("-engine tx=bounce,rx=software", EngineChoice("bounce", "software")),
        ("-tls", None),
    ],
)
def test_engines(here: Path, options: str, engine: EngineChoice | None) -> None:
    assert one(here, options).engine == engine


def test_the_first_export_for_a_client_that_asks_for_an_engine_has_its_way(here: Path) -> None:
    exports = parse(
        here,
        "TOP/a -engine=bounce 192.0.2.0/24 2001:db8::/32\n"
        "TOP/b -engine=toe 192.0.2.7 198.51.100.1\n"
        "'TOP/with space' -ro\n",
    )
    bounce, toe = (export.engine for export in exports[:2])
    assert [
        engine_for(exports, (address, 700))
        for address in ("192.0.2.7", "2001:db8::1", "198.51.100.1", "203.0.113.1")
    ] == [bounce, bounce, toe, None]
    assert engines_asked_for(exports) == [bounce, toe]
    (warning,) = engine_conflicts(exports)
    assert f"{here}/a and {here}/b ask for different engines" in warning
    assert warning.endswith("goes by bounce")


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("-engine=toe 192.0.2.0/25", "-engine=bounce 192.0.2.128/25"),
        ("-engine=toe 192.0.2.0/24", "-engine=toe"),
        ("-engine=toe 192.0.2.0/24", "-engine=bounce 2001:db8::/32"),
        ("-engine=toe", "-ro"),
    ],
)
def test_engines_that_do_not_meet(here: Path, one: str, two: str) -> None:
    assert engine_conflicts(parse(here, f"TOP/a {one}\nTOP/b {two}\n")) == []


def test_insecure(here: Path) -> None:
    assert one(here, "-insecure").secure is False


def unknown_host(name: str, *_: object, **__: object) -> None:
    name.encode("idna")
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


MISTAKES = [
    ("TOP/a\n\nTOP/none", 3, "TOP/none: not a directory"),
    ("TOP/a\nTOP/b\nTOP/a -ro", 3, "TOP/a is exported by line 1 already"),
    ("TOP/a TOP/a", 1, "TOP/a is exported by line 1 already"),
    ("\n-ro", 2, "no directory"),
    ("\nsrv/data", 2, "srv/data is no network"),
    ("TOP/a ws1.example.org", 1, "cannot find the host 'ws1.example.org'"),
    ("TOP/a .", 1, "'.' is no host's name"),
    ("TOP/a -rw", 1, "there is no option -rw; there are -alldirs"),
    ("TOP/a -tls=yes", 1, "-tls takes no value"),
    ("TOP/a \\\n -tls \\\n -maproot", 1, "-maproot takes a value"),
    ("TOP/a -maproot=no-such-user", 1, "there is no user 'no-such-user'"),
    ("TOP/a -maproot=4294967296", 1, "there is no user"),
    ("TOP/a -mapall=daemon:no-such-group", 1, "there is no group 'no-such-group'"),
    ("TOP/a -sec=krb5p", 1, "-sec=krb5p is not served here"),
    ("TOP/a -network 192.0.2.0/33", 1, "192.0.2.0/33 is no network"),
    ("TOP/a -mask=255.0.0.0", 1, "-mask without -network"),
    ("TOP/a 192.0.2.1/99", 1, "192.0.2.1/99 is no network"),
    ("TOP/a 192.0.2.1 TOP/b", 1, "TOP/b stands behind a client"),
    ("TOP/a -network 192.0.2.0/24 TOP/b", 1, "TOP/b stands behind a client"),
    ("TOP/a -ca=TOP/missing.pem", 1, "CA file TOP/missing.pem: No such file"),
    ("TOP/a -fingerprint=12", 1, "no SHA-256 fingerprint"),
    ("TOP/a -email=", 1, "no pattern"),
    ("TOP/a -engine=none", 1, "no engine 'none': there are bounce"),
    ("TOP/a -engine_rx=ifnet", 1, "engine ifnet serves tx only, not rx"),
    ("TOP/a -engine=tx=toe,rx=toe", 1, "there is no option -rx"),
    ('TOP/a "unfinished', 1, "No closing quotation"),
    ("\nV4: TOP/a", 2, "NFS version 4 is not served here"),
]


@pytest.mark.parametrize(("text", "line", "words"), MISTAKES)
def test_mistakes_are_named_with_their_line(
    here: Path, text: str, line: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", unknown_host)
    with pytest.raises(ExportsFileError) as caught:
        parse(here, text)
    said = str(caught.value)
    assert said.startswith(f"exports:{line}: ")
    assert words.replace("TOP", str(here)) in said


@pytest.mark.parametrize("text", ["", "# nothing\n\n"])
def test_a_file_that_exports_nothing(here: Path, text: str) -> None:
    with pytest.raises(ExportsFileError, match="exports: it exports nothing"):
        parse(here, text)


def test_reading(here: Path) -> None:
    path = here / "exports"
    path.write_text(f"{here}/a -tls\n")
    assert read_exports(path) == [Export(f"{here}/a", security="tls")]
    with pytest.raises(ExportsFileError, match=f"{here}/missing: No such file"):
        read_exports(here / "missing")


@given(st.text(alphabet="/a -=,tls#\\\"'\n:.*0", max_size=60))
def test_any_text(text: str) -> None:
    with mock.patch.object(socket, "getaddrinfo", unknown_host):
        try:
            found = parse_exports(text, "exports")
        except ExportsFileError:
            return
    assert found


def test_names_are_bytes(tmp_path: Path) -> None:
    """Also those that are no text, whatever the encoding of this process."""
    odd = tmp_path / os.fsdecode(b"d\xc3\xa4t\xff x")
    odd.mkdir()
    (tmp_path / "exports").write_bytes(b"# \xe9t\xe9\n'" + os.fsencode(odd) + b"' -ro\n")
    (export,) = read_exports(tmp_path / "exports")
    assert (os.fsencode(export.path), export.read_only) == (os.fsencode(odd), True)
    (tmp_path / "exports").write_bytes(b"/nowhere/\xff\n")
    with pytest.raises(ExportsFileError, match="exports:1: export /nowhere/\udcff: not a dir"):
        read_exports(tmp_path / "exports")
