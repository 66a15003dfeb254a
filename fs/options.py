"""Reading the mount options (``-o``), which `optiontable.py` lists.

An option sets a field of `MountOptions`. A field that has been set to one value cannot be set to
another: of two options that contradict each other neither is obeyed and the mount is refused, above
all for the options that decide whether the connection is protected.
"""

from __future__ import annotations

import difflib
import errno
import math
import re
from collections.abc import Iterable
from dataclasses import field, replace
from pathlib import Path
from typing import Any

from umktls.abi.personality import DEFAULT_PERSONALITY
from umktls.abi.rpctls import PROBE_TIMEOUT
from umktls.dataclass import dataclass
from umktls.errors import CallerError
from umktls.ktls.engines.choice import DEFAULT_ENGINE, EngineChoice

from .optiontable import OPTIONS, Fate, Option
from .optionvalues import MEBIBYTE, Unheeded, engine_fields

__all__ = ["OPTIONS", "MountOptions", "Option", "engine_fields", "parse_options"]

_PREFIXES = [name for name in OPTIONS if name.endswith("*")]
_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class MountOptions:
    """Everything that a mount can be told. Times are seconds, sizes bytes."""

    security: str = "tls"  # "tls", "mtls" or "none"
    certs: Path | None = None
    certname: str | None = None
    crl: Path | None = None
    alpn: str = "auto"
    rekey: str = "auto"
    reverse_dns: bool = False
    tls1_2: bool = False
    keylog: Path | None = None
    port: int | None = None
    family: str | None = None  # "inet" or "inet6"; None: either
    reserved_port: bool | None = None  # None: as it suits who mounts
    mount_host: str | None = None  # None: the server's
    mount_port: int | None = None
    mount_protocol: str | None = None  # "tcp" or "udp"; None: as the server has it
    mount_tls: bool = False  # MOUNT by TLS too, where it is not on NFS's own connection
    nconnect: int = 1
    engine_tx: str | None = None
    engine_rx: str | None = None
    bounce: bool = False
    personality: str = DEFAULT_PERSONALITY.name
    daemon: tuple[str, ...] = ()  # an agent's command line, in place of rpctlscd
    daemon_seconds: float = 15.0
    upcall_seconds: float | None = None
    probe_seconds: float = PROBE_TIMEOUT
    rsize: int = MEBIBYTE
    wsize: int = MEBIBYTE
    max_read: int = MEBIBYTE
    max_write: int = MEBIBYTE
    timeo: float = 60.0
    retrans: int = 2
    recovery: str = "softerr"  # "hard", "soft" or "softerr"
    background: bool = False
    retry: float | None = None  # None: as it suits `background`
    acregmin: float = 3.0
    acregmax: float = 60.0
    acdirmin: float = 3.0
    acdirmax: float = 60.0
    noac: bool = False
    cto: bool = True
    rdirplus: bool = True
    lookupcache: str = "positive"  # "all", "positive" or "none"
    sync: bool = False
    read_only: bool | None = None  # None: no, or with remount as it is
    readahead: int = 8 * MEBIBYTE
    allow_other: bool | None = None  # None: as it suits who mounts
    default_permissions: bool | None = None  # None: where other users are let in
    uid: int | None = None  # shown as every file's
    gid: int | None = None
    umask: int | None = None
    idmap_user: bool = False
    remount: bool = False
    sloppy: bool = False
    fuse: frozenset[str] = field(default_factory=frozenset)
    unheeded: tuple[tuple[str, str], ...] = ()  # words without an effect, and why

    @property
    def retry_seconds(self) -> float:
        """How long to go on trying to mount while the server is not there.

        nfs(5) has 2 minutes in the foreground; here who waits there is told at once.
        """
        if self.retry is not None:
            return self.retry
        return 10_000 * _MINUTE if self.background else 0.0

    @property
    def warning(self) -> str | None:
        """One line about all options that have no effect here, if there are any."""
        if not self.unheeded:
            return None
        listed = "; ".join(f"{word} ({reason})" for word, reason in self.unheeded)
        return f"mount options without an effect here: {listed}"

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
        """Seconds after which an RPC fails, and what is made of several RPCs. With ``hard`` never,
        as nfs(5) has it; a process that waits can be killed (requests.py)."""
        return math.inf if self.recovery == "hard" else self.patience

    @property
    def patience(self) -> float:
        """Seconds for all tries of a call, where there is an end to them."""
        return self.timeo * (self.retrans + 1)

    @property
    def timeout_errno(self) -> int:
        """What a call without an answer is to the process that waits for it (nfs(5))."""
        return errno.EIO if self.recovery == "soft" else errno.ETIMEDOUT

    @property
    def ahead_seconds(self) -> float:
        """How long names and attributes that nobody has asked for yet are good; 0: not at all."""
        if self.noac or not self.rdirplus or self.lookupcache == "none":
            return 0.0
        return min(self.acregmin, self.acdirmin)

    @property
    def missing_seconds(self) -> float | None:
        """How long a missing name may be taken to stay missing; None: not at all."""
        return self.acdirmin if self.lookupcache == "all" and not self.noac else None


_WORD = re.compile(r'(?:"[^"]*"|[^,])+')


def _split(texts: Iterable[str]) -> list[str]:
    """At commas, but not inside quotation marks (mount(8): labels of SELinux have commas)."""
    return [word for text in texts for word in _WORD.findall(text)]


def _find(name: str) -> Option | None:
    option = OPTIONS.get(name)
    if option is None:
        option = next((OPTIONS[key] for key in _PREFIXES if name.startswith(key[:-1])), None)
    return option


def _value(option: Option, word: str, text: str, has_value: bool) -> Any:
    if option.convert is None:
        if has_value:
            raise CallerError(f"mount option {option.name} takes no value ({word!r})")
        return option.value
    if not has_value:
        if option.bare:
            return option.value
        raise CallerError(f"mount option {option.name} needs a value: {option.form}")
    return option.convert(option.name, text)


def unknown(name: str) -> str:
    """The line about an option that nobody knows, with what may have been meant."""
    known = [one for one in OPTIONS if not one.endswith("*")]
    close = difflib.get_close_matches(name, known, n=2, cutoff=0.7)
    meant = f"did you mean {' or '.join(close)}?" if close else "see `umktls mount --help`"
    return f"unknown mount option {name!r}; {meant}"


class _Reader:
    """Collects what the words set, and who set it first.

    unheeded: words without an effect of which whoever typed them should know, with the reason.
    """

    def __init__(self, sloppy: bool) -> None:
        self.values: dict[str, Any] = {}
        self.setters: dict[str, str] = {}
        self.fuse: dict[str, str] = {}
        self.unheeded: dict[str, str] = {}
        self._sloppy = sloppy

    def read(self, word: str) -> None:
        name, equals, text = word.partition("=")
        option = _find(name)
        if option is None:
            if not self._sloppy:
                raise CallerError(unknown(name))
            self.unheeded[word] = "it is unknown"
            return
        if option.fate is Fate.REFUSED:
            raise CallerError(f"mount option {word}: {option.help}")
        value = _value(option, word, text, bool(equals))
        if option.fate is Fate.IGNORED:
            self.unheeded[word] = option.help
        elif isinstance(value, Unheeded):
            self.unheeded[word] = value.reason
        elif option.fuse:
            self.hand_on(option.means or word, word)
        else:
            self.set_all(option, value, word)

    def set_all(self, option: Option, value: Any, word: str) -> None:
        values = value if isinstance(value, dict) else dict.fromkeys(option.sets, value)
        for target, one in values.items():
            self.set(target, one, word)

    def set(self, target: str, value: Any, word: str) -> None:
        self._agree(self.values, target, value, word)

    def hand_on(self, handed: str, word: str) -> None:
        """FUSE is told; a word with "no" in front is the opposite of the one without."""
        self._agree(self.fuse, handed.partition("=")[0].removeprefix("no"), handed, word)

    def _agree(self, values: dict[str, Any], target: str, value: Any, word: str) -> None:
        known = values.setdefault(target, value)
        first = self.setters.setdefault(target, word)
        if known != value:
            raise CallerError(f"mount options {first!r} and {word!r} contradict each other")


def parse_options(texts: Iterable[str], *, sloppy: bool = False, **given: Any) -> MountOptions:
    """Read ``-o`` texts, each a comma-separated list. Raises CallerError with a line for people.

    sloppy: options that nobody knows are no error. given: fields that were set on the command line
    in another way (``--certs``); None means not set. They may not contradict the options either.
    """
    words = _split(texts)
    reader = _Reader(sloppy or "sloppy" in words)
    for target, value in given.items():
        if value is not None:
            reader.set(target, value, f"--{target.partition('_')[0]}")
    for word in words:
        reader.read(word)
    options = replace(
        MountOptions(),
        **reader.values,
        fuse=frozenset(reader.fuse.values()),
        unheeded=tuple(reader.unheeded.items()),
    )
    return replace(
        options,
        acregmax=max(options.acregmin, options.acregmax),
        acdirmax=max(options.acdirmin, options.acdirmax),
        rsize=min(options.rsize, options.max_read),
        wsize=min(options.wsize, options.max_write),
    )
