from __future__ import annotations

import errno
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from umktls_fs.options import OPTIONS, MountOptions, parse_options

from umktls.errors import CallerError


def test_nothing_said_means_the_defaults() -> None:
    assert parse_options([]) == MountOptions()
    assert parse_options(["", ",,"]) == MountOptions()
    assert MountOptions().security == "tls"


@pytest.mark.parametrize(
    ("word", "field", "value"),
    [
        ("tls", "security", "tls"),
        ("mtls", "security", "mtls"),
        ("notls", "security", "none"),
        ("xprtsec=none", "security", "none"),
        ("xprtsec=mtls", "security", "mtls"),
        ("certs=/tmp/pki", "certs", Path("/tmp/pki")),
        ("tlscertname=other", "certname", "other"),
        ("tlscertname=" + 248 * "n", "certname", 248 * "n"),
        ("daemonwait=60", "daemon_seconds", 60.0),
        ("upcall_timeout=20", "upcall_seconds", 20),
        ("probe_timeout=7", "probe_seconds", 7),
        ("crl=/crl.pem", "crl", Path("/crl.pem")),
        ("alpn=compat", "alpn", "compat"),
        ("reversedns", "reverse_dns", True),
        ("tls1_2", "tls1_2", True),
        ("keylog=/tmp/keys", "keylog", Path("/tmp/keys")),
        ("port=20490", "port", 20490),
        ("engine_tx=null", "engine_tx", "null"),
        ("rsize=70000", "rsize", 69632),
        ("rsize=1", "rsize", 4096),
        ("wsize=99999999", "wsize", 1048576),
        ("timeo=50", "timeo", 5.0),
        ("retrans=4", "retrans", 4),
        ("soft", "recovery", "soft"),
        ("acregmin=7", "acregmin", 7.0),
        ("noac", "noac", True),
        ("lookupcache=pos", "lookupcache", "positive"),
        ("lookupcache=all", "lookupcache", "all"),
        ("sync", "sync", True),
        ("ro", "read_only", True),
        ("rw", "read_only", False),
        ("allow_other", "allow_other", True),
        ("readahead=0", "readahead", 0),
        ("personality=linux", "personality", "linux"),
    ],
)
def test_an_option_sets_its_field(word: str, field: str, value: object) -> None:
    assert getattr(parse_options([word]), field) == value


def test_what_the_daemon_is_told() -> None:
    assert MountOptions().daemon_arguments == ("--alpn", "strict")
    options = parse_options(["alpn=compat,crl=/crl,reversedns,tls1_2"])
    expected = ("--alpn", "compat", "--crl", "/crl", "--reverse-dns", "--usetls1_2")
    assert options.daemon_arguments == expected


def test_engine_and_actimeo_set_several_fields() -> None:
    options = parse_options(["engine=bounce,actimeo=9"])
    assert (options.engine_tx, options.engine_rx) == ("bounce", "bounce")
    times = (options.acregmin, options.acregmax, options.acdirmin, options.acdirmax)
    assert times == (9.0, 9.0, 9.0, 9.0)


def test_a_maximum_is_never_below_its_minimum() -> None:
    options = parse_options(["acregmin=100,acdirmin=90"])
    assert (options.acregmax, options.acdirmax) == (100.0, 90.0)


@pytest.mark.parametrize(
    "words",
    [
        "tls,notls",
        "tls,mtls",
        "notls,xprtsec=mtls",
        "xprtsec=none,tls",
        "ro,rw",
        "sync,async",
        "port=1,port=2",
        "hard,soft",
        "actimeo=3,acregmin=4",
    ],
)
def test_contradictions_are_refused_and_both_words_named(words: str) -> None:
    first, second = words.split(",")
    with pytest.raises(CallerError, match="contradict") as caught:
        parse_options([words])
    assert first in str(caught.value)
    assert second in str(caught.value)


def test_options_and_command_line_may_not_contradict_each_other() -> None:
    with pytest.raises(CallerError, match=r"--certs.*certs=/b"):
        parse_options(["certs=/b"], certs=Path("/a"))
    assert parse_options(["certs=/a"], certs=Path("/a")).certs == Path("/a")
    assert parse_options([], certs=None).certs is None


def test_saying_the_same_twice_is_no_contradiction() -> None:
    assert parse_options(["tls,xprtsec=tls", "tls"]).security == "tls"


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("nonsense", "unknown mount option 'nonsense'"),
        ("nonsense=3", "unknown mount option 'nonsense'"),
        ("TLS", "unknown"),
        ("max_read=4096", "unknown"),
        ("port", "needs a value"),
        ("port=", "whole number"),
        ("port=0", "from 1 to 65535"),
        ("port=-1", "whole number"),
        ("rsize=1M", "whole number"),
        ("retrans=\u0663", "whole number"),
        ("certs=", "needs a value"),
        ("tlscertname=", "needs a value"),
        # NAME_MAX, without the "key.pem" behind it.
        ("tlscertname=" + 249 * "n", "249 bytes; 248 is the limit"),
        ("tlscertname=" + 125 * "\u00e4", "250 bytes; 248 is the limit"),
        ("tls=1", "takes no value"),
        ("ro=", "takes no value"),
        ("vers=4.2", "only 3"),
        ("proto=udp", "only tcp"),
        ("sec=krb5p", "only sys"),
        ("xprtsec=maybe", "only none, tls, mtls"),
        ("upcall_timeout=0", "1"),
        (
            "personality=netbsd",
            "only freebsd13.0, freebsd13, freebsd14, freebsd15, linux6.12, linux, umktls",
        ),
    ],
)
def test_a_wrong_option_gives_one_clear_line(word: str, reason: str) -> None:
    with pytest.raises(CallerError, match=reason) as caught:
        parse_options([word])
    assert "\n" not in str(caught.value)
    assert caught.value.errno == errno.EINVAL


def test_what_mount_and_fstab_add_is_ignored() -> None:
    words = "_netdev,nofail,user,noauto,x-systemd.automount,X-mount.mkdir,comment=by=hand,defaults"
    assert parse_options([words]) == MountOptions()


def test_what_fuse_knows_is_handed_on() -> None:
    options = parse_options(["nosuid,noatime,fsname=x,context=a:b"])
    assert options.fuse == {"nosuid", "noatime", "fsname=x", "context=a:b"}


def test_every_deadline_is_finite_and_hard_is_longer() -> None:
    soft, hard = parse_options(["soft"]), parse_options(["hard"])
    assert soft.deadline == 180.0
    assert hard.deadline == 1800.0
    assert soft.timeout_errno == errno.EIO
    assert hard.timeout_errno == errno.ETIMEDOUT


def test_the_table_sets_only_fields_that_exist() -> None:
    known = {field.name for field in fields(MountOptions)}
    for option in OPTIONS.values():
        assert set(option.sets) <= known
        assert option.help


@given(st.text())
def test_any_text_is_understood_or_refused(text: str) -> None:
    try:
        parse_options([text])
    except CallerError:
        return
