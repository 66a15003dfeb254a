"""The mount options (``-o``): one table, with the names that nfs(5), mount_nfs(8) and fuse(8) use.

An option sets a field of `MountOptions`. A field that has been set to one value cannot be set to
another: of two options that contradict each other neither is obeyed and the mount is refused, above
all for the options that decide whether the connection is protected.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from umktls.abi.personality import DEFAULT_PERSONALITY, PERSONALITIES
from umktls.abi.rpctls import CERTNAME_MAX, PROBE_TIMEOUT
from umktls.errors import CallerError
from umktls.ktls.engines import get_engine
from umktls.ktls.engines.choice import DEFAULT_ENGINE, EngineChoice, named_engines

__all__ = ["OPTIONS", "MountOptions", "Option", "engine_fields", "parse_options"]

_MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class MountOptions:
    """Everything that a mount can be told. Times are seconds, sizes bytes."""

    security: str = "tls"  # "tls", "mtls" or "none"
    certs: Path | None = None
    certname: str | None = None
    crl: Path | None = None
    alpn: str = "strict"
    reverse_dns: bool = False
    tls1_2: bool = False
    keylog: Path | None = None
    port: int | None = None
    engine_tx: str | None = None
    engine_rx: str | None = None
    bounce: bool = False
    personality: str = DEFAULT_PERSONALITY.name
    daemon_seconds: float = 15.0
    upcall_seconds: float | None = None
    probe_seconds: float = PROBE_TIMEOUT
    rsize: int = _MEBIBYTE
    wsize: int = _MEBIBYTE
    timeo: float = 60.0
    retrans: int = 2
    recovery: str = "softerr"  # "hard", "soft" or "softerr"
    acregmin: float = 3.0
    acregmax: float = 60.0
    acdirmin: float = 3.0
    acdirmax: float = 60.0
    noac: bool = False
    lookupcache: str = "positive"  # "all", "positive" or "none"
    sync: bool = False
    read_only: bool = False
    readahead: int = 8 * _MEBIBYTE
    allow_other: bool | None = None  # None: as it suits who mounts
    default_permissions: bool = False
    fuse: frozenset[str] = field(default_factory=frozenset)

    @property
    def engine(self) -> EngineChoice:
        """What seals and opens, by direction."""
        return EngineChoice(self.engine_tx or DEFAULT_ENGINE, self.engine_rx or DEFAULT_ENGINE)

    @property
    def daemon_arguments(self) -> tuple[str, ...]:
        """What rpctlscd is to be told beside the certificates."""
        arguments = ["--alpn", self.alpn]
        if self.crl is not None:
            arguments += ["--crl", str(self.crl)]
        if self.reverse_dns:
            arguments.append("--reverse-dns")
        if self.tls1_2:
            arguments.append("--usetls1_2")
        return tuple(arguments)

    @property
    def deadline(self) -> float:
        """Seconds after which an RPC fails. Never infinite: a process that waits for a FUSE
        request cannot be killed, so even ``hard`` only means ten times as long."""
        patience = self.timeo * (self.retrans + 1)
        return patience * 10 if self.recovery == "hard" else patience

    @property
    def timeout_errno(self) -> int:
        """What a call without an answer is to the process that waits for it (nfs(5))."""
        return errno.EIO if self.recovery == "soft" else errno.ETIMEDOUT

    @property
    def missing_seconds(self) -> float | None:
        """How long a missing name may be taken to stay missing; None: not at all."""
        return self.acdirmin if self.lookupcache == "all" and not self.noac else None


_Convert = Callable[[str, str], Any]


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table: what ``name`` or ``name=value`` does to `MountOptions`.

    sets: the field; None for an option that is accepted and has no effect here.
    value: for an option without ``=``, what the field becomes.
    convert: for an option with ``=``, makes the field's value of (option's name, text); where an
        option sets several fields to different values, a dictionary of them.
    """

    name: str
    help: str
    sets: tuple[str, ...] = ()
    value: Any = None
    convert: _Convert | None = None


def _decimal(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise CallerError(f"mount option {name}={text}: a whole number is wanted")
    return int(text)


def _number(low: int, high: int) -> _Convert:
    def convert(name: str, text: str) -> int:
        number = _decimal(name, text)
        if not low <= number <= high:
            raise CallerError(f"mount option {name}={text}: must be from {low} to {high}")
        return number

    return convert


def _seconds(name: str, text: str) -> float:
    return float(_number(0, 86400)(name, text))


def _deciseconds(name: str, text: str) -> float:
    return float(_number(1, 36000)(name, text)) / 10


def _transfer_size(name: str, text: str) -> int:
    """As nfs(5): rounded down to a multiple of 4096, at least that, at most 1 MiB."""
    return max(4096, min(_decimal(name, text) // 4096 * 4096, _MEBIBYTE))


def _one_of(choices: dict[str, Any]) -> _Convert:
    def convert(name: str, text: str) -> Any:
        if text not in choices:
            known = ", ".join(choices)
            raise CallerError(f"mount option {name}={text}: not supported here, only {known}")
        return choices[text]

    return convert


def _text(name: str, text: str) -> str:
    if not text:
        raise CallerError(f"mount option {name}= needs a value")
    return text


def _certname(name: str, text: str) -> str:
    length = len(os.fsencode(_text(name, text)))
    if length > CERTNAME_MAX:
        raise CallerError(f"mount option {name}= has {length} bytes; {CERTNAME_MAX} is the limit")
    return text


def _path(name: str, text: str) -> Path:
    return Path(_text(name, text)).expanduser().absolute()


def engine_fields(text: str) -> dict[str, str]:
    """The fields that ``--engine TEXT`` sets."""
    served = named_engines(text)
    return {f"engine_{direction}": name for direction, name in served.items()}


def _engines(name: str, text: str) -> dict[str, str]:
    return engine_fields(_text(name, text))


def _engine(name: str, text: str) -> str:
    return get_engine(_text(name, text)).name


_ATTRIBUTE_TIMES = ("acregmin", "acregmax", "acdirmin", "acdirmax")
_LOOKUPCACHE = {"all": "all", "pos": "positive", "positive": "positive", "none": "none"}

_TABLE = (
    Option("tls", "protect the connection by TLS (the default)", ("security",), "tls"),
    Option("mtls", "TLS, and show the server a client certificate", ("security",), "mtls"),
    Option("notls", "no TLS: everything goes in clear", ("security",), "none"),
    Option(
        "xprtsec",
        "none, tls or mtls, as nfs(5)",
        ("security",),
        convert=_one_of({"none": "none", "tls": "tls", "mtls": "mtls"}),
    ),
    Option("certs", "directory made by `umktls certs`", ("certs",), convert=_path),
    Option("tlscertname", "which client certificate, by name", ("certname",), convert=_certname),
    Option("crl", "revocation lists for the server's CAs", ("crl",), convert=_path),
    Option(
        "alpn",
        "what of servers that do not say `sunrpc`, as FreeBSD's and Linux's: strict (the default) "
        "turns them down, compat bears with them",
        ("alpn",),
        convert=_one_of({"strict": "strict", "compat": "compat"}),
    ),
    Option("reversedns", "a server's address stands for its name in DNS", ("reverse_dns",), True),
    Option("tls1_2", "TLS 1.2, for servers that have nothing newer", ("tls1_2",), True),
    Option("keylog", "file to append the TLS secrets to", ("keylog",), convert=_path),
    Option("port", "the server's port (2049)", ("port",), convert=_number(1, 65535)),
    Option(
        "engine",
        "what seals and opens, see `umktls engines`",
        ("engine_tx", "engine_rx"),
        convert=_engines,
    ),
    Option("engine_tx", "the same for sending only", ("engine_tx",), convert=_engine),
    Option("engine_rx", "the same for receiving only", ("engine_rx",), convert=_engine),
    Option(
        "bounce",
        "what the engine does not take the daemon bounces (allow), or not (refuse, the default)",
        ("bounce",),
        convert=_one_of({"allow": True, "refuse": False}),
    ),
    Option(
        "personality",
        f"whose kernel TLS is emulated ({DEFAULT_PERSONALITY.name}): {', '.join(PERSONALITIES)}",
        ("personality",),
        convert=_one_of({name: name for name in PERSONALITIES}),
    ),
    Option(
        "daemonwait",
        "seconds to wait for an rpctlscd that is started by hand (15)",
        ("daemon_seconds",),
        convert=_seconds,
    ),
    Option(
        "upcall_timeout",
        "seconds that rpctlscd may take for a handshake (15, linux: 10)",
        ("upcall_seconds",),
        convert=_number(1, 600),
    ),
    Option(
        "probe_timeout",
        f"seconds to wait for the answer to the AUTH_TLS probe ({PROBE_TIMEOUT:g})",
        ("probe_seconds",),
        convert=_number(1, 600),
    ),
    Option("rsize", "bytes of a READ at most", ("rsize",), convert=_transfer_size),
    Option("wsize", "bytes of a WRITE at most", ("wsize",), convert=_transfer_size),
    Option("timeo", "tenths of a second per try", ("timeo",), convert=_deciseconds),
    Option("retrans", "tries after the first", ("retrans",), convert=_number(0, 100)),
    Option("hard", "wait ten times as long for the server", ("recovery",), "hard"),
    Option("soft", "EIO when the server stays away", ("recovery",), "soft"),
    Option("softerr", "ETIMEDOUT when the server stays away", ("recovery",), "softerr"),
    *(
        Option(name, "seconds that attributes are cached", (name,), convert=_seconds)
        for name in _ATTRIBUTE_TIMES
    ),
    Option("actimeo", "all four ac times at once", _ATTRIBUTE_TIMES, convert=_seconds),
    Option("noac", "cache no attributes and write at once", ("noac",), True),
    Option("ac", "cache attributes", ("noac",), False),
    Option(
        "lookupcache",
        "all (missing names too), positive (the default) or none",
        ("lookupcache",),
        convert=_one_of(_LOOKUPCACHE),
    ),
    Option("readahead", "bytes read ahead per file", ("readahead",), convert=_number(0, 1 << 26)),
    Option("sync", "write at once, not behind", ("sync",), True),
    Option("async", "write behind", ("sync",), False),
    Option("ro", "read only", ("read_only",), True),
    Option("rw", "read and write", ("read_only",), False),
    Option("allow_other", "other users may use the mount", ("allow_other",), True),
    Option("default_permissions", "check modes here too", ("default_permissions",), True),
    Option("vers", "NFS version: 3", convert=_one_of({"3": 3})),
    Option("nfsvers", "NFS version: 3", convert=_one_of({"3": 3})),
    Option("nfsv3", "NFS version 3"),
    Option("proto", "transport: tcp", convert=_one_of({"tcp": "tcp", "tcp6": "tcp6"})),
    Option("tcp", "transport: TCP"),
    Option("sec", "RPC credentials: sys", convert=_one_of({"sys": "sys"})),
    Option("nolock", "locks are local to this machine (always so)"),
    Option("local_lock", "which locks are local: all", convert=_one_of({"all": "all"})),
)

# Handed on to FUSE as they are (fuse(8), mount(8)).
_FUSE_FLAGS = (
    *("suid", "nosuid", "dev", "nodev", "exec", "noexec", "atime", "noatime", "dirsync"),
    *("allow_root", "auto_unmount"),
)
_FUSE_VALUES = ("fsname", "subtype", "context", "fscontext", "defcontext", "rootcontext")

# What mount(8), fstab(5) and automounters add for their own use.
_IGNORED = (
    *("defaults", "user", "users", "nouser", "owner", "group", "auto", "noauto", "nofail"),
    *("_netdev", "relatime", "norelatime", "strictatime", "nodiratime", "diratime"),
)
_IGNORED_PREFIXES = ("x-", "X-", "comment=")

OPTIONS: dict[str, Option] = {option.name: option for option in _TABLE}


def _split(texts: Iterable[str]) -> list[str]:
    return [word for text in texts for word in text.split(",") if word]


def _is_ignored(word: str) -> bool:
    return word in _IGNORED or word.startswith(_IGNORED_PREFIXES)


def _is_fuse(name: str, equals: str) -> bool:
    return name in (_FUSE_VALUES if equals else _FUSE_FLAGS)


def _value(option: Option, word: str, text: str, has_value: bool) -> Any:
    if option.convert is None:
        if has_value:
            raise CallerError(f"mount option {option.name} takes no value ({word!r})")
        return option.value
    if not has_value:
        raise CallerError(f"mount option {option.name} needs a value: {option.name}=...")
    return option.convert(option.name, text)


class _Reader:
    """Collects what the words set, and who set it first."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.setters: dict[str, str] = {}
        self.fuse: set[str] = set()

    def read(self, word: str) -> None:
        name, equals, text = word.partition("=")
        if _is_ignored(word):
            return
        if _is_fuse(name, equals):
            self.fuse.add(word)
            return
        option = OPTIONS.get(name)
        if option is None:
            raise CallerError(f"unknown mount option {name!r}; see `umktls mount --help`")
        value = _value(option, word, text, bool(equals))
        values = value if isinstance(value, dict) else dict.fromkeys(option.sets, value)
        for target, one in values.items():
            self.set(target, one, word)

    def set(self, target: str, value: Any, word: str) -> None:
        known = self.values.setdefault(target, value)
        first = self.setters.setdefault(target, word)
        if known != value:
            raise CallerError(f"mount options {first!r} and {word!r} contradict each other")


def parse_options(texts: Iterable[str], **given: Any) -> MountOptions:
    """Read ``-o`` texts, each a comma-separated list. Raises CallerError with a line for people.

    given: fields that were set on the command line in another way (``--certs``); None means not
    set. They may not contradict the options either.
    """
    reader = _Reader()
    for target, value in given.items():
        if value is not None:
            reader.set(target, value, f"--{target.partition('_')[0]}")
    for word in _split(texts):
        reader.read(word)
    options = replace(MountOptions(), **reader.values, fuse=frozenset(reader.fuse))
    return replace(
        options,
        acregmax=max(options.acregmin, options.acregmax),
        acdirmax=max(options.acdirmin, options.acdirmax),
    )
