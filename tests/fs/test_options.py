from __future__ import annotations

import errno
import math
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from umktls_fs.options import OPTIONS, MountOptions, parse_options
from umktls_fs.optiontable import Fate

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
        ("rekey=reconnect", "rekey", "reconnect"),
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
        ("noallow_other", "allow_other", False),
        ("readahead=0", "readahead", 0),
        ("personality=linux", "personality", "linux"),
        ("proto=tcp", "family", "inet"),
        ("proto=tcp6", "family", "inet6"),
        ("noresvport", "reserved_port", False),
        ("resvport", "reserved_port", True),
        ("mounthost=[::1]", "mount_host", "::1"),
        ("mountaddr=192.0.2.1", "mount_host", "192.0.2.1"),
        ("mountport=20048", "mount_port", 20048),
        ("mountport=0", "mount_port", 0),
        ("mountproto=udp6", "mount_protocol", "udp"),
        ("mountproto=tcp", "mount_protocol", "tcp"),
        ("mntudp", "mount_protocol", "udp"),
        ("mountsec=tls", "mount_tls", True),
        ("bg", "background", True),
        ("fg", "background", False),
        ("retry=3", "retry", 180.0),
        ("nocto", "cto", False),
        ("kernel_cache", "cto", False),
        ("nordirplus", "rdirplus", False),
        ("rdirplus=none", "rdirplus", False),
        ("rdirplus=force", "rdirplus", True),
        ("rdirplus", "rdirplus", True),
        ("max_read=65536", "rsize", 65536),
        ("max_write=8192,wsize=4096", "wsize", 4096),
        ("cache=no", "lookupcache", "none"),
        ("cache=no", "acregmax", 0.0),
        ("dcache_timeout=2.5", "acdirmin", 2.5),
        ("timeout=30", "timeo", 3.0),
        ("uid=root", "uid", 0),
        ("uid=1000", "uid", 1000),
        ("gid=1000", "gid", 1000),
        ("umask=027", "umask", 0o27),
        ("idmap=user", "idmap_user", True),
        ("remount,ro", "remount", True),
    ],
)
def test_an_option_sets_its_field(word: str, field: str, value: object) -> None:
    assert getattr(parse_options([word]), field) == value


def test_what_the_daemon_is_told() -> None:
    assert MountOptions().daemon_arguments == ("--alpn", "auto")
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
        "suid,nosuid",
        "noatime,atime",
        "allow_dev,nodev",
        "fsname=x,fsname=y",
    ],
)
def test_contradictions_are_refused_and_both_words_named(words: str) -> None:
    first, second = words.split(",")
    with pytest.raises(CallerError, match="contradict") as caught:
        parse_options([words])
    assert first in str(caught.value)
    assert second in str(caught.value)


@pytest.mark.parametrize("name", ["acregmin", "actimeo"])
def test_attributes_are_kept_for_a_day_at_most(name: str) -> None:
    parse_options([f"{name}=86400"])
    with pytest.raises(CallerError, match=f"{name}=86400.5: must be from 0 to 86400"):
        parse_options([f"{name}=86400.5"])


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
        ("nonsense", "unknown mount option 'nonsense'; see `umktls mount --help`"),
        ("mtsl", r"unknown mount option 'mtsl'; did you mean mtls"),
        ("acregmim=3", r"did you mean acregmin or acregmax\?"),
        ("nosiud", r"did you mean nosuid"),
        ("vers=4", "umktls speaks NFS version 3 and no other; there is only 3"),
        ("nfsv4", "NFS version 3 and no other"),
        ("minorversion=1", "NFS version 3 and no other"),
        ("udp", "RPC-with-TLS needs TCP"),
        ("proto=rdma", "RPC-with-TLS needs TCP"),
        ("sec=krb5", "there is no RPCSEC_GSS"),
        ("IdentityFile=/k", "there is no ssh here.*certs=DIR"),
        ("idmap=file", "maps of users in files are not read"),
        ("uid=4294967295", "from 0 to 4294967294"),
        ("uid=nobody-of-that-name", "there is no such user"),
        ("gid=nobody-of-that-name", "there is no such group"),
        ("umask=8", "octal"),
        ("umask=1777", "octal"),
        ("retry=-1", "whole number"),
        ("actimeo=1e3", "whole number"),
        ("nonsense=3", "unknown mount option 'nonsense'"),
        ("TLS", "unknown"),
        ("port", "needs a value"),
        ("port=", "whole number"),
        ("port=65536", "from 0 to 65535"),
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


def test_what_has_no_effect_is_named_in_one_warning() -> None:
    options = parse_options(["fsc,max_connect=4,local_lock=none,lock,ro"])
    assert options.read_only
    line = options.warning
    assert line is not None
    assert "\n" not in line
    for words in (
        "fsc (there is no FS-Cache)",
        "max_connect=4 (all connections go to one address)",
    ):
        assert words in line
    for word in ("local_lock=none", "lock (locks are local to this machine"):
        assert word in line
    assert "ro (" not in line
    assert parse_options(["ro,nolock,intr,reconnect,_netdev,nofail"]).warning is None


def test_sloppy_bears_with_what_is_unknown_and_not_with_lies() -> None:
    for options in (parse_options(["sloppy,frob=1"]), parse_options(["frob=1"], sloppy=True)):
        assert options.warning is not None
        assert "frob=1 (it is unknown)" in options.warning
    for words in ("sloppy,vers=4", "sloppy,udp", "sloppy,rsize=lots"):
        with pytest.raises(CallerError):
            parse_options([words])


HABITS = {
    "fstab of an NFS client": "rw,hard,intr,bg,nfsvers=3,proto=tcp,timeo=600,retrans=2,"
    "rsize=1048576,wsize=1048576,noatime,nodiratime,_netdev,nofail,x-systemd.automount",
    "what /proc/mounts shows of NFS": "rw,relatime,vers=3,rsize=131072,wsize=131072,namlen=255,"
    "hard,proto=tcp,timeo=600,retrans=2,sec=sys,mountaddr=192.0.2.7,mountvers=3,mountport=20048,"
    "mountproto=tcp,local_lock=none,addr=192.0.2.7",
    "FreeBSD": "nfsv3,tls,tcp,bg,nolockd,rdirplus,readahead=8,retrycnt=3,soft,intr,noresvport",
    "sshfs": "reconnect,ServerAliveInterval=15,ServerAliveCountMax=3,idmap=user,uid=1000,gid=1000,"
    "umask=022,allow_other,default_permissions,kernel_cache,cache=yes,compression=no,max_read=65536,"
    "big_writes,nonempty,follow_symlinks,dcache_max_size=10000,auto_unmount",
    "what the kernel shows of FUSE": "rw,nosuid,nodev,relatime,user_id=0,group_id=0,allow_other,"
    "max_read=1048576,blksize=4096",
    "mount.fuse3": "rw,dev,suid,fsname=a,subtype=umktls",
    "SELinux": 'context="system_u:object_r:nfs_t:s0:c1,c2",ro',
}


@pytest.mark.parametrize("name", HABITS)
def test_what_people_type_of_habit_is_accepted(name: str) -> None:
    parse_options([HABITS[name]])


def test_commas_in_quotation_marks_are_no_separators() -> None:
    options = parse_options([HABITS["SELinux"]])
    assert options.fuse == {'context="system_u:object_r:nfs_t:s0:c1,c2"'}
    assert options.read_only


def test_every_row_can_be_typed_and_has_its_fate() -> None:
    examples = {
        "DIR": "/d", "FILE": "/f", "NAME": "software", "SECONDS": "5", "PORT": "700",
        "BYTES": "65536", "COUNT": "3", "DECISECONDS": "70", "MINUTES": "1", "OCTAL": "22",
        "USER": "0", "GROUP": "0", "HOST": "h", "ADDRESS": "::1", "TEXT": "t", "LABEL": "l",
        "...": "1",
    }  # fmt: skip
    for option in OPTIONS.values():
        value = (
            ""
            if option.convert is None
            else "=" + examples.get(option.takes, option.takes.partition("|")[0])
        )
        word = option.name.replace("*", "y") + value
        if option.fate is Fate.REFUSED:
            with pytest.raises(CallerError) as caught:
                parse_options([word])
            assert str(caught.value) == f"mount option {word}: {option.help}"
            continue
        warning = parse_options([word]).warning
        assert (option.fate is Fate.IGNORED) == (warning is not None), word
        assert warning is None or f"{word} ({option.help})" in warning


def test_what_fuse_knows_is_handed_on() -> None:
    options = parse_options(["nosuid,noatime,fsname=x,context=a:b,allow_dev"])
    assert options.fuse == {"nosuid", "noatime", "fsname=x", "context=a:b", "dev"}


def test_hard_waits_for_ever_and_soft_does_not() -> None:
    soft, hard = parse_options(["soft"]), parse_options(["hard"])
    assert soft.deadline == 180.0
    assert (hard.deadline, hard.patience) == (math.inf, 180.0)
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
