"""The mount options that say how a server is reached and believed: TLS, connection, caching."""

from __future__ import annotations

from umktls.abi.linux import NFS_MAX_CONNECTIONS
from umktls.abi.personality import DEFAULT_PERSONALITY, PERSONALITIES
from umktls.abi.rpctls import PROBE_TIMEOUT

from . import optionvalues as values
from .optionrow import Option, flag, ignored, refused, same, words
from .optionvalues import one_of

__all__ = ["CACHING", "CONNECTION", "KERNEL", "PATIENCE", "TLS"]

_AC_TIMES = ("acregmin", "acregmax", "acdirmin", "acdirmax")
_ONLY_V3 = "umktls speaks NFS version 3 and no other"
_ONLY_TCP = "RPC-with-TLS needs TCP here (RFC 9289), and there is no other transport"
_ONLY_SYS = (
    "there is no RPCSEC_GSS (Kerberos): TLS protects the connection, and mtls says who you are"
)
_NO_NFS4 = "belongs to NFS version 4"
_OTHER_VERSIONS = dict.fromkeys(("2", "4", "4.0", "4.1", "4.2"), _ONLY_V3)
_OTHER_TRANSPORTS = dict.fromkeys(("udp", "udp6", "rdma", "rdma6"), _ONLY_TCP)
_KERBEROS = dict.fromkeys(("krb5", "krb5i", "krb5p", "none", "lkey", "spkm"), _ONLY_SYS)

TLS = (
    Option("tls", "protect the connection by TLS (the default)", ("security",), "tls"),
    Option("mtls", "TLS, and show the server a client certificate", ("security",), "mtls"),
    Option("notls", "no TLS: everything goes in clear", ("security",), "none"),
    words("xprtsec", "none, tls or mtls, as nfs(5)", ("security",), same("none tls mtls")),
    Option(
        "certs", "directory made by `umktls certs`", ("certs",), convert=values.path, takes="DIR"
    ),
    Option(
        "tlscertname",
        "which client certificate, by name",
        ("certname",),
        convert=values.certname,
        takes="NAME",
    ),
    Option(
        "crl",
        "revocation lists for the server's CAs",
        ("crl",),
        convert=values.path,
        takes="FILE",
    ),
    words(
        "alpn",
        "what of servers that do not say `sunrpc`, as FreeBSD's and Linux's: go on and tell (auto, "
        "the default), turn them down (strict), or go on and be silent (compat)",
        ("alpn",),
        same("auto strict compat"),
    ),
    words(
        "rekey",
        "new keys when old ones are nearly used up: by a new connection, or a KeyUpdate where the "
        "server is known to follow one (auto, the default); always by a KeyUpdate (keyupdate), by "
        "a new connection (reconnect), or not in time (never)",
        ("rekey",),
        same("auto keyupdate reconnect never"),
    ),
    Option("reversedns", "a server's address stands for its name in DNS", ("reverse_dns",), True),
    Option("tls1_2", "TLS 1.2, for servers that have nothing newer", ("tls1_2",), True),
    Option(
        "keylog",
        "file to append the TLS secrets to",
        ("keylog",),
        convert=values.path,
        takes="FILE",
    ),
    *refused(
        "keys are in files here: certs=DIR, and tlscertname=NAME for another certificate in it",
        *("cert_serial=", "privkey_serial="),
    ),
)

KERNEL = (
    Option(
        "engine",
        "what seals and opens, see `umktls engines`",
        ("engine_tx", "engine_rx"),
        convert=values.engines,
        takes="NAME",
    ),
    Option(
        "engine_tx",
        "the same for sending only",
        ("engine_tx",),
        convert=values.engine,
        takes="NAME",
    ),
    Option(
        "engine_rx",
        "the same for receiving only",
        ("engine_rx",),
        convert=values.engine,
        takes="NAME",
    ),
    words(
        "bounce",
        "what the engine does not take the daemon bounces (allow), or not (refuse, the default)",
        ("bounce",),
        {"allow": True, "refuse": False},
    ),
    words(
        "personality",
        f"whose kernel TLS is emulated ({DEFAULT_PERSONALITY.name})",
        ("personality",),
        {name: name for name in PERSONALITIES},
    ),
    Option(
        "daemon",
        "start this in place of an rpctlscd, and keep it alive: an unmodified agent for Linux's "
        "handshake upcall, such as 'tlshd -s -c FILE' (docs/unmodified.md)",
        ("daemon",),
        convert=values.command,
        takes="COMMAND",
    ),
    Option(
        "daemonwait",
        "seconds to wait for an rpctlscd that is started by hand (15)",
        ("daemon_seconds",),
        convert=values.seconds,
        takes="SECONDS",
    ),
    Option(
        "upcall_timeout",
        "seconds that rpctlscd may take for a handshake (15, linux: 10)",
        ("upcall_seconds",),
        convert=values.number(1, 600),
        takes="SECONDS",
    ),
    Option(
        "probe_timeout",
        f"seconds to wait for the answer to the AUTH_TLS probe ({PROBE_TIMEOUT:g})",
        ("probe_seconds",),
        convert=values.number(1, 600),
        takes="SECONDS",
    ),
)

CONNECTION = (
    Option(
        "port",
        "the server's port (2049; where nothing is, what rpcbind says)",
        ("port",),
        convert=values.number(0, 65535),
        takes="PORT",
    ),
    words(
        "proto",
        "tcp: over IPv4; tcp6: over IPv6",
        ("family",),
        {"tcp": "inet", "tcp6": "inet6"},
        _OTHER_TRANSPORTS,
    ),
    Option("tcp", "TCP, over IPv4 or IPv6 (the default)"),
    Option("noinet6", "over IPv4 only", ("family",), "inet"),
    Option("noinet4", "over IPv6 only", ("family",), "inet6"),
    words("vers", "the NFS version", (), {"3": None}, _OTHER_VERSIONS),
    words("nfsvers", "the NFS version", (), {"3": None}, _OTHER_VERSIONS),
    *flag("NFS version 3 (the default)", "nfsv3", "v3"),
    words("sec", "RPC credentials: AUTH_SYS", (), {"sys": None}, _KERBEROS),
    Option(
        "resvport",
        "from a port below 1024 (the default for root, and root's alone)",
        ("reserved_port",),
        True,
    ),
    Option("noresvport", "from an ordinary port", ("reserved_port",), False),
    Option(
        "mounthost",
        "whom to ask for the export's root (the server)",
        ("mount_host",),
        convert=values.host,
        takes="HOST",
    ),
    Option(
        "mountaddr",
        "the same as mounthost",
        ("mount_host",),
        convert=values.host,
        takes="ADDRESS",
    ),
    Option(
        "mountport",
        "which port of it (that of NFS, else what rpcbind says)",
        ("mount_port",),
        convert=values.number(0, 65535),
        takes="PORT",
    ),
    words(
        "mountproto",
        "the transport of the MOUNT protocol (tcp, else udp)",
        ("mount_protocol",),
        {"tcp": "tcp", "tcp6": "tcp", "udp": "udp", "udp6": "udp"},
    ),
    words(
        "mountsec",
        "how MOUNT is called where it is not at NFS's port: in clear (none, the default) or by tls",
        ("mount_tls",),
        {"none": False, "tls": True},
    ),
    words(
        "mountvers",
        "the version of the MOUNT protocol",
        (),
        {"3": None},
        dict.fromkeys(("1", "2", "4"), _ONLY_V3),
    ),
    words("nfsprog", "the RPC program number of NFS", (), {"100003": None}),
    words("mountprog", "the RPC program number of MOUNT", (), {"100005": None}),
    Option("mntudp", "the same as mountproto=udp", ("mount_protocol",), "udp"),
    *refused(_ONLY_TCP, "udp", "rdma"),
    *refused(_ONLY_V3, "nfsv2", "nfsv4", "v2", "v4", "v4.0", "v4.1", "v4.2", "minorversion="),
    *refused(_ONLY_SYS, "allgssname", "gssname=", "principal=", "syskrb5"),
    *ignored(f"{_NO_NFS4}", "clientaddr=", "migration", "nomigration", "pnfs", "oneopenown"),
    Option(
        "nconnect",
        f"so many connections, over which calls are spread (1; {NFS_MAX_CONNECTIONS} at most)",
        ("nconnect",),
        convert=values.number(1, NFS_MAX_CONNECTIONS),
        takes="COUNT",
    ),
    *ignored("all connections go to one address", "max_connect=", "trunkdiscovery"),
    *flag("all connections go to one address (always so)", "notrunkdiscovery"),
    *ignored("the server's address is that of its name", "addr="),
)

PATIENCE = (
    Option(
        "timeo",
        "tenths of a second per try (600)",
        ("timeo",),
        convert=values.deciseconds,
        takes="DECISECONDS",
    ),
    Option(
        "timeout", "the same as timeo", ("timeo",), convert=values.deciseconds, takes="DECISECONDS"
    ),
    Option(
        "retrans",
        "tries after the first (2)",
        ("retrans",),
        convert=values.number(0, 100),
        takes="COUNT",
    ),
    Option("hard", "wait for the server for ever", ("recovery",), "hard"),
    Option("soft", "EIO when the server is away for timeo * (retrans + 1)", ("recovery",), "soft"),
    Option("softerr", "ETIMEDOUT then instead (the default)", ("recovery",), "softerr"),
    Option(
        "bg",
        "if the server is not there yet, go on trying in the background",
        ("background",),
        True,
    ),
    Option(
        "fg",
        "the mount works, or has failed, when the command ends (the default)",
        ("background",),
        False,
    ),
    Option("bgnow", "the same as bg", ("background",), True),
    Option(
        "retry",
        "minutes to go on trying while the server is not there (fg: 0, bg: 10000)",
        ("retry",),
        convert=values.minutes,
        takes="MINUTES",
    ),
    *flag("a lost connection is made anew (always so)", "reconnect"),
    *flag("a signal that kills ends a call that waits (always so)", "intr"),
    *ignored("a signal that kills ends a call that waits", "nointr", "intr_signal="),
    *ignored("the answer of a server is waited for", "softreval"),
    *flag("the answer of a server is waited for (always so)", "nosoftreval"),
    *ignored("retry= counts minutes", "retrycnt="),
    *ignored("timeo= and retrans= are meant", "dumbtimer"),
    *ignored("the mount works, or has failed, at once: see bg", "delay_connect"),
)

CACHING = (
    *(
        Option(name, text, (name,), convert=values.seconds, takes="SECONDS")
        for name, text in (
            ("acregmin", "seconds that a file's attributes are cached at least (3)"),
            ("acregmax", "seconds that a file's attributes are cached at most (60)"),
            ("acdirmin", "seconds that a directory's attributes are cached at least (3)"),
            ("acdirmax", "seconds that a directory's attributes are cached at most (60)"),
        )
    ),
    Option(
        "actimeo", "all four ac times at once", _AC_TIMES, convert=values.seconds, takes="SECONDS"
    ),
    *(
        Option(name, "the same as actimeo", _AC_TIMES, convert=values.seconds, takes="SECONDS")
        for name in (
            "attr_timeout",
            "cache_timeout",
            "dcache_timeout",
            "cache_stat_timeout",
            "dcache_stat_timeout",
        )
    ),
    Option("noac", "cache no attributes and write at once", ("noac",), True),
    Option("ac", "cache attributes (the default)", ("noac",), False),
    words(
        "lookupcache",
        "all (missing names too), positive (the default) or none",
        ("lookupcache",),
        {"all": "all", "pos": "positive", "positive": "positive", "none": "none"},
    ),
    words(
        "cache",
        "no: attributes and names are not cached, as sshfs(1)",
        (),
        {"yes": {}, "no": {**dict.fromkeys(_AC_TIMES, 0.0), "lookupcache": "none"}},
    ),
    words(
        "dir_cache",
        "the same as cache",
        (),
        {"yes": {}, "no": {**dict.fromkeys(_AC_TIMES, 0.0), "lookupcache": "none"}},
    ),
    Option(
        "cto",
        "ask the server whether a file has changed when it is opened (the default)",
        ("cto",),
        True,
    ),
    Option("nocto", "do not: cached attributes will do when a file is opened", ("cto",), False),
    Option("kernel_cache", "the same as nocto", ("cto",), False),
    Option("auto_cache", "the same as cto", ("cto",), True),
    Option("noauto_cache", "the same as nocto", ("cto",), False),
    Option(
        "rdirplus",
        "attributes come with a listing (the default)",
        ("rdirplus",),
        True,
        convert=one_of({"force": True, "none": False}),
        takes="force|none",
        bare=True,
    ),
    Option("nordirplus", "listings without attributes", ("rdirplus",), False),
    *ignored("there is no FS-Cache", "fsc[=]"),
    *flag("there is no FS-Cache (always so)", "nofsc"),
    *flag("each mount has caches of its own (always so)", "nosharecache"),
    *ignored("each mount has caches of its own", "sharecache"),
    *ignored(
        "names are cached as lookupcache= and acdirmin= say",
        *("entry_timeout=", "negative_timeout=", "ac_attr_timeout=", "nametimeo="),
        *("negnametimeo=", "cache_dir_timeout=", "cache_link_timeout=", "dcache_dir_timeout="),
        *(
            "dcache_link_timeout=",
            "dcache_max_size=",
            "dcache_clean_interval=",
            "dcache_min_clean_interval=",
            "remember=",
            "noforget",
        ),
    ),
)
