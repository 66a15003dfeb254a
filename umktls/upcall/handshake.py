"""Linux's handshake upcall: the netlink family `handshake`, as a table (Documentation/netlink/
specs/handshake.yaml of Linux; net/handshake/genl.c).

The kernel has a connection on which a handshake is to be made. It tells whoever is a member of the
group `tlshd` that there is work (READY), an agent comes for it (ACCEPT), gets the socket with the
answer, and says in the end how it went (DONE).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from umktls.abi import handshake as linux
from umktls.abi.handshake import AuthMode, MessageType
from umktls.upcall.genl import Attribute, Command, GenericFamily, encode

__all__ = [
    "ACCEPT",
    "DONE",
    "HANDSHAKE",
    "READY",
    "encode_ready",
    "task_of",
]

_ACCEPTS = linux.GENL_ADMIN_PERM | linux.GENL_CMD_CAP_DO | linux.GENL_CMD_CAP_HASPOL
_CLASS = Attribute(
    "HANDLER_CLASS",
    linux.HANDSHAKE_A_ACCEPT_HANDLER_CLASS,
    most=linux.HANDSHAKE_HANDLER_CLASS_MAX,
)
_CERTIFICATE = (
    Attribute("CERT", linux.HANDSHAKE_A_X509_CERT, "s32"),
    Attribute("PRIVKEY", linux.HANDSHAKE_A_X509_PRIVKEY, "s32"),
)

READY = Command("READY", linux.HANDSHAKE_CMD_READY, gives=(_CLASS,))
ACCEPT = Command(
    "ACCEPT",
    linux.HANDSHAKE_CMD_ACCEPT,
    _ACCEPTS,
    (_CLASS,),
    (
        Attribute("SOCKFD", linux.HANDSHAKE_A_ACCEPT_SOCKFD, "s32"),
        Attribute("MESSAGE_TYPE", linux.HANDSHAKE_A_ACCEPT_MESSAGE_TYPE),
        Attribute("PEERNAME", linux.HANDSHAKE_A_ACCEPT_PEERNAME, "string"),
        Attribute("TIMEOUT", linux.HANDSHAKE_A_ACCEPT_TIMEOUT),
        Attribute("AUTH_MODE", linux.HANDSHAKE_A_ACCEPT_AUTH_MODE),
        Attribute("PEER_IDENTITY", linux.HANDSHAKE_A_ACCEPT_PEER_IDENTITY, many=True),
        Attribute(
            "CERTIFICATE",
            linux.HANDSHAKE_A_ACCEPT_CERTIFICATE,
            "nest",
            many=True,
            inside=_CERTIFICATE,
        ),
        Attribute("KEYRING", linux.HANDSHAKE_A_ACCEPT_KEYRING),
    ),
)
# A SOCKFD of -1 is what an agent sends that asks which attributes are known.
DONE = Command(
    "DONE",
    linux.HANDSHAKE_CMD_DONE,
    _ACCEPTS,
    (
        Attribute("STATUS", linux.HANDSHAKE_A_DONE_STATUS),
        Attribute("SOCKFD", linux.HANDSHAKE_A_DONE_SOCKFD, "s32"),
        Attribute("REMOTE_AUTH", linux.HANDSHAKE_A_DONE_REMOTE_AUTH, many=True),
    ),
)

HANDSHAKE = GenericFamily(
    linux.HANDSHAKE_FAMILY,
    linux.HANDSHAKE_FAMILY_ID,
    linux.HANDSHAKE_FAMILY_VERSION,
    (READY, ACCEPT, DONE),
    linux.HANDSHAKE_GROUPS,
)


def encode_ready() -> bytes:
    """READY, to each member of the group."""
    return encode(HANDSHAKE, READY, {"HANDLER_CLASS": linux.HANDSHAKE_HANDLER_CLASS_TLSHD})


def task_of(role: str, security: str, peername: str, timeout_ms: int) -> Mapping[str, Any]:
    """What ACCEPT's answer says of the work, besides the socket (tls_handshake_put_accept_req of
    net/handshake/tlshd.c).

    A server asks for a certificate, whatever its exports want of it, as Linux's does; a client
    shows one where the mount is `mtls`. timeout_ms: 0 for the agent's own.
    """
    client = role == "client"
    x509 = not client or security == "mtls"
    said: dict[str, Any] = {
        "MESSAGE_TYPE": MessageType.CLIENTHELLO if client else MessageType.SERVERHELLO,
        "AUTH_MODE": AuthMode.X509 if x509 else AuthMode.UNAUTH,
    }
    if client and peername:
        said["PEERNAME"] = peername
    if timeout_ms:
        said["TIMEOUT"] = timeout_ms
    return said
