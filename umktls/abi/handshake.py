"""Linux's generic netlink, as far as FreeBSD's has other or no words for it, and the handshake
upcall's family `handshake`.

Names and values of include/uapi/linux/netlink.h, genetlink.h and handshake.h. All integers are in
the machine's order. A kernel hands out the numbers of families and groups as it comes; those at the
end are ours, and an agent has to ask for them.
"""

from __future__ import annotations

from enum import IntEnum

AF_NETLINK = 16
SOCK_DGRAM = 2

NLMSG_DONE = 3
NLMSG_MIN_TYPE = 0x10
NLM_F_MULTI = 0x02
NLM_F_CAPPED = 0x100  # of an NLMSG_ERROR: of the request, there is the header only
NLM_F_DUMP = 0x300
NLA_F_NESTED = 0x8000

# nlctrl, besides what umktls.abi.netlink has.
CTRL_VERSION = 2
CTRL_ATTR_VERSION = 3
CTRL_ATTR_HDRSIZE = 4
CTRL_ATTR_MAXATTR = 5
CTRL_ATTR_OPS = 6
CTRL_ATTR_OP_ID = 1
CTRL_ATTR_OP_FLAGS = 2
CTRL_ATTR_MAX = 10
GENL_NAMSIZ = 16

# Of an operation: CTRL_ATTR_OP_FLAGS.
GENL_ADMIN_PERM = 0x01
GENL_CMD_CAP_DO = 0x02
GENL_CMD_CAP_DUMP = 0x04
GENL_CMD_CAP_HASPOL = 0x08

HANDSHAKE_FAMILY = "handshake"
HANDSHAKE_FAMILY_VERSION = 1
HANDSHAKE_GROUP = "tlshd"

HANDSHAKE_CMD_READY = 1
HANDSHAKE_CMD_ACCEPT = 2
HANDSHAKE_CMD_DONE = 3

HANDSHAKE_A_X509_CERT = 1
HANDSHAKE_A_X509_PRIVKEY = 2

HANDSHAKE_A_ACCEPT_SOCKFD = 1
HANDSHAKE_A_ACCEPT_HANDLER_CLASS = 2
HANDSHAKE_A_ACCEPT_MESSAGE_TYPE = 3
HANDSHAKE_A_ACCEPT_TIMEOUT = 4
HANDSHAKE_A_ACCEPT_AUTH_MODE = 5
HANDSHAKE_A_ACCEPT_PEER_IDENTITY = 6
HANDSHAKE_A_ACCEPT_CERTIFICATE = 7
HANDSHAKE_A_ACCEPT_PEERNAME = 8
HANDSHAKE_A_ACCEPT_KEYRING = 9

HANDSHAKE_A_DONE_STATUS = 1
HANDSHAKE_A_DONE_SOCKFD = 2
HANDSHAKE_A_DONE_REMOTE_AUTH = 3

HANDSHAKE_HANDLER_CLASS_TLSHD = 1
HANDSHAKE_HANDLER_CLASS_MAX = 2


class MessageType(IntEnum):
    """Which side of the handshake the agent is to play."""

    UNSPEC = 0
    CLIENTHELLO = 1
    SERVERHELLO = 2


class AuthMode(IntEnum):
    """What the agent is to show, and a server's to ask for."""

    UNSPEC = 0
    UNAUTH = 1
    PSK = 2
    X509 = 3


# handshake_net_init: so many requests wait at most (from 3 to 50, by memory).
HANDSHAKE_PENDING_MAX = 50

# Ours: what stat and trace have for a version of the upcall, where 1 and 2 are FreeBSD's.
HANDSHAKE_VERSION = 3
HANDSHAKE_FAMILY_ID = 0x16
HANDSHAKE_GROUPS = {"none": 0x23, "tlshd": 0x24}
