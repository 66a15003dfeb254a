"""What differs between kernels, as data: one record of values per kernel.

`freebsd13` is 13.2 and later; 13.0 and 13.1, which could not yet receive TLS 1.3, are
`freebsd13.0`. `linux` is 6.19: it can rekey (since 6.14) and knows TLS_TX_MAX_PAYLOAD_LEN (since
6.19); `linux6.12` does neither. `umktls` is our own: the best of all of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from umktls.abi.freebsd import (
    CRYPTO_AES_CBC,
    CRYPTO_AES_CCM_16,
    CRYPTO_AES_NIST_GCM_16,
    CRYPTO_CHACHA20_POLY1305,
    TLS_MINOR_VER_ONE,
    TLS_MINOR_VER_THREE,
    TLS_MINOR_VER_TWO,
    to_freebsd,
)
from umktls.abi.linux import TLS_STAT_NAMES, TLS_STAT_NAMES_6_12
from umktls.abi.messages import FREEBSD_MESSAGES, LINUX_MESSAGES, UMKTLS_MESSAGES, MessageAbi
from umktls.abi.rpctls import UPCALL_TIMEOUT
from umktls.dataclass import dataclass
from umktls.errors import CallerError

Kernel = Literal["freebsd", "linux"]

FREEBSD_ALGORITHMS = frozenset({CRYPTO_AES_NIST_GCM_16, CRYPTO_CHACHA20_POLY1305, CRYPTO_AES_CBC})
SEQUENCE_END = 2**64
# Linux: xprtsock.c and svcsock.c.
XS_TLS_HANDSHAKE_TO = 10.0
SVC_HANDSHAKE_TO = 5.0


@dataclass(frozen=True, slots=True)
class KeyRules:
    """What setting a key by socket option can do.

    Attributes:
        interfaces: whose socket options there are.
        lacks: names of those that there are not yet.
        algorithms: the values of cipher_algorithm that struct tls_enable may have.
        rekey: a second TLS 1.3 key is taken, and a KeyUpdate stops reception until then.
        limits: no key seals more records than is safe (RFC 8446 section 5.5).
        sequence_end: the sequence number with which no record is sent any more; None where the
            numbers begin anew behind 2^64 - 1, and nonces with them, in either direction.
        rx_cbc: the oldest TLS minor version whose CBC suites can be received, None for none.
        rx_newest: the newest TLS minor version that can be received.
        rx_struct_v0: the 56-byte struct tls_enable is taken for reception too.
        unknown_level: what getsockopt gives for a level that there is not (set: ENOPROTOOPT); on
            Linux SOL_TLS is none without the ULP.
    """

    interfaces: tuple[Kernel, ...] = ("freebsd",)
    lacks: frozenset[str] = frozenset()
    algorithms: frozenset[int] = FREEBSD_ALGORITHMS
    rekey: bool = False
    limits: bool = False
    sequence_end: int | None = None
    rx_cbc: int | None = TLS_MINOR_VER_ONE
    rx_newest: int = TLS_MINOR_VER_THREE
    rx_struct_v0: bool = False
    unknown_level: Literal["ENOPROTOOPT", "EOPNOTSUPP"] = "ENOPROTOOPT"


@dataclass(frozen=True, slots=True)
class SendRules:
    """sendmsg(2).

    Attributes:
        kernel: whose checks, in whose order. FreeBSD makes each call records of its own, all or
            nothing where a type is given; Linux can keep a record open (MSG_MORE).
        clear_control: what becomes of a record type on a socket that sends in clear.
        shares_errors: what breaks one direction breaks the other (sk_err): a bad header that was
            received, a send beyond the last sequence number, a reset.
        unconnected: what a send gives on a socket that is not connected.
        over: what becomes of records when nothing can be sent any more: Linux goes on to seal them,
            says that they were sent, and has nobody to give them to (found on 6.12).
        seal_failed: what is told when the engine cannot make a record. EIO costs the connection.
            FreeBSD finds out after the call that had it sealed has returned.
    """

    kernel: Kernel = "freebsd"
    clear_control: Literal["refused", "ignored"] = "refused"
    shares_errors: bool = False
    unconnected: Literal["ENOTCONN", "EPIPE"] = "ENOTCONN"
    over: Literal["EPIPE", "lost"] = "EPIPE"
    seal_failed: Literal["EIO later", "EIO", "EBADMSG"] = "EIO later"


@dataclass(frozen=True, slots=True)
class ReceiveRules:
    """recvmsg(2), poll(2), and what bad records do.

    Attributes:
        kernel: FreeBSD gives one record a call, Linux as much application data as there is.
        framing: which lengths and types of a header are refused, and how.
        decrypts_ahead: records are opened as they arrive and not as they are read, so that good
            ones behind a bad one are read before its error.
        early_header: a header is judged before the rest of its record is there.
        bad_record: one that does not verify is dropped, or stays and fails every read.
        bad_header: costs the connection, or only stops reception.
        fault_told: what the peer hears of either: the alert that RFC 8446 has for it, or nothing of
            it. FreeBSD resets the connection of a bad header, and its daemon says close_notify
            where a record did not verify; Linux's RPC says close_notify (tls_handshake_close).
        interleaved: a record of another type in the middle of a handshake message (RFC 8446 section
            5.1). Real kernels do not follow messages, and pass it on.
        reset_waits: options and sendmsg know of a reset only when all that came before it was
            read. The alert in front of it, which says why, is heard then, even if it comes before
            the key that opens it was set.
        truncated: at an end of the stream inside a record, recvmsg fails once and then tells the
            end, or then waits for ever, or tells the end at once.
        control_needed: EIO for a record of another type without room for its control message.
        empty_is_record_end: MSG_EOR is set for a record without payload.
        app_data_stops: what MSG_TLSAPPDATA leaves in the queue, with ENXIO.
        handed_up: the control records that RPC has the daemon take (HANDLERECORD). Where these are
            alerts only, a ticket or a KeyUpdate is dropped, and nobody hears of it.
        handed_up_ends_client: one of them costs a client its connection, whatever the daemon makes
            of it (clnt_vc.c takes ENXIO for the error of a broken socket). A server goes on.
        key_update: where one that stops reception is looked for, if any does (`KeyRules.rekey`): in
            all handshake messages, or in a record's first byte.
        key_update_hides_end: EKEYEXPIRED even where nothing more will come.
        key_update_hides_records: poll(2) is silent from the KeyUpdate on, even about itself.
    """

    kernel: Kernel = "freebsd"
    framing: Literal["strict", "freebsd", "linux"] = "freebsd"
    decrypts_ahead: bool = True
    early_header: bool = False
    bad_record: Literal["dropped", "stays"] = "dropped"
    bad_header: Literal["drops", "stops"] = "drops"
    fault_told: Literal["alert", "no"] = "no"
    interleaved: Literal["refused", "passed"] = "passed"
    reset_waits: bool = False
    truncated: Literal["error, then end", "error, then wait", "end"] = "error, then wait"
    control_needed: bool = False
    empty_is_record_end: bool = False
    app_data_stops: Literal["alert", "control"] = "alert"
    handed_up: Literal["alerts", "control"] = "alerts"
    handed_up_ends_client: bool = True
    key_update: Literal["messages", "first byte"] = "messages"
    key_update_hides_end: bool = False
    key_update_hides_records: bool = False


@dataclass(frozen=True, slots=True)
class Personality:
    """How one kernel behaves where kernels differ.

    Attributes:
        name: what a user types.
        rpctls_versions: versions of the upcall's programs and of its transport that there are, the
            best first.
        handshake_family: there is Linux's handshake upcall, the netlink family `handshake`.
        client_upcall_seconds, server_upcall_seconds: the deadline of an upcall.
        probe_needs_daemon: the AUTH_TLS probe is refused while no daemon is there; otherwise the
            CONNECT upcall fails behind it, which the peer sees as a handshake that stalls.
        errno_map: whose errno numbers the system calls return.
        tls_stat: the names in /proc/net/tls_stat, in their order.
        messages: flags and control messages of sendmsg and recvmsg.
        keys, sending, receiving: see their classes.
    """

    name: str
    rpctls_versions: tuple[int, ...] = (1,)
    handshake_family: bool = False
    client_upcall_seconds: float = UPCALL_TIMEOUT
    server_upcall_seconds: float = UPCALL_TIMEOUT
    probe_needs_daemon: bool = True
    errno_map: Literal["host", "freebsd"] = "freebsd"
    tls_stat: tuple[str, ...] = TLS_STAT_NAMES
    messages: MessageAbi = FREEBSD_MESSAGES
    keys: KeyRules = KeyRules()
    sending: SendRules = SendRules()
    receiving: ReceiveRules = ReceiveRules()

    def upcall_seconds(self, role: str) -> float:
        """The deadline of an upcall on a "client" or a "server"."""
        return self.client_upcall_seconds if role == "client" else self.server_upcall_seconds

    def errno(self, host_errno: int) -> int:
        """This machine's errno as the number that this kernel's system calls return."""
        return to_freebsd(host_errno) if self.errno_map == "freebsd" else host_errno


_FREEBSD13 = KeyRules(rx_cbc=None)
_LINUX = Personality(
    name="linux",
    rpctls_versions=(2, 1),
    handshake_family=True,
    client_upcall_seconds=XS_TLS_HANDSHAKE_TO,
    server_upcall_seconds=SVC_HANDSHAKE_TO,
    errno_map="host",
    messages=LINUX_MESSAGES,
    keys=KeyRules(
        interfaces=("linux",),
        rekey=True,
        sequence_end=SEQUENCE_END - 1,
        unknown_level="EOPNOTSUPP",
    ),
    sending=SendRules(
        kernel="linux",
        clear_control="ignored",
        shares_errors=True,
        unconnected="EPIPE",
        over="lost",
        seal_failed="EBADMSG",
    ),
    receiving=ReceiveRules(
        kernel="linux",
        framing="linux",
        decrypts_ahead=False,
        early_header=True,
        bad_record="stays",
        bad_header="stops",
        truncated="end",
        control_needed=True,
        empty_is_record_end=True,
        handed_up="control",
        handed_up_ends_client=False,
        key_update="first byte",
        key_update_hides_end=True,
        key_update_hides_records=True,
    ),
)
PERSONALITIES = {
    personality.name: personality
    for personality in (
        Personality(
            name="freebsd13.0",
            keys=replace(_FREEBSD13, rx_newest=TLS_MINOR_VER_TWO),
            receiving=ReceiveRules(app_data_stops="control", handed_up="control"),
        ),
        Personality(name="freebsd13", keys=_FREEBSD13),
        Personality(name="freebsd14"),
        Personality(
            name="freebsd15",
            rpctls_versions=(2,),
            probe_needs_daemon=False,
            keys=KeyRules(rx_struct_v0=True),
        ),
        replace(
            _LINUX,
            name="linux6.12",
            tls_stat=TLS_STAT_NAMES_6_12,
            keys=replace(_LINUX.keys, rekey=False, lacks=frozenset({"TLS_TX_MAX_PAYLOAD_LEN"})),
        ),
        _LINUX,
        Personality(
            name="umktls",
            rpctls_versions=(2, 1),
            handshake_family=True,
            errno_map="host",
            messages=UMKTLS_MESSAGES,
            keys=KeyRules(
                interfaces=("freebsd", "linux"),
                algorithms=FREEBSD_ALGORITHMS | {CRYPTO_AES_CCM_16},
                rekey=True,
                limits=True,
                sequence_end=SEQUENCE_END,
                rx_struct_v0=True,
            ),
            sending=SendRules(kernel="linux", seal_failed="EIO"),
            receiving=ReceiveRules(
                framing="strict",
                decrypts_ahead=False,
                early_header=True,
                fault_told="alert",
                interleaved="refused",
                reset_waits=True,
                truncated="error, then end",
                control_needed=True,
                empty_is_record_end=True,
                handed_up="control",
                handed_up_ends_client=False,
            ),
        ),
    )
}
DEFAULT_PERSONALITY = PERSONALITIES["umktls"]


def personality(name: str) -> Personality:
    """The personality of that name. Raises CallerError, naming those there are."""
    try:
        return PERSONALITIES[name]
    except KeyError:
        known = ", ".join(sorted(PERSONALITIES))
        raise CallerError(f"no personality {name!r}: there are {known}") from None
