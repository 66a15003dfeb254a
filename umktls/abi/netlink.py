"""Netlink as FreeBSD has it: message layouts, generic netlink's controller, the family `rpc`.

Names and values of sys/netlink/netlink.h, netlink_generic.h and sys/rpc/clnt_nl.h; AF_NETLINK is
FreeBSD's and not this machine's. All integers are in the machine's order: little-endian here, as
in all structures of this ABI. A kernel hands out the numbers of families and groups as it comes;
those at the end are ours, and a daemon has to ask for them.
"""

from __future__ import annotations

import struct

AF_NETLINK = 38
SOCK_RAW = 3
NETLINK_GENERIC = 16

SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
NETLINK_DROP_MEMBERSHIP = 2

# struct nlmsghdr: nlmsg_len (with itself), nlmsg_type, nlmsg_flags, nlmsg_seq, nlmsg_pid.
NLMSGHDR = struct.Struct("<IHHII")
NLMSG_ERROR = 2
NLM_F_REQUEST = 0x01
NLM_F_ACK = 0x04
# struct nlmsgerr: the error, and the header of the message that it is about.
NLMSGERR = struct.Struct("<iIHHII")

# struct genlmsghdr: cmd, version, reserved.
GENLMSGHDR = struct.Struct("<BBH")
# struct nlattr: nla_len (with itself), nla_type; the data is padded to a multiple of four.
NLATTR = struct.Struct("<HH")
NLA_ALIGNTO = 4
NLA_TYPE_MASK = 0x3FFF

# nlctrl, generic netlink's own family.
GENL_ID_CTRL = 0x10
CTRL_CMD_NEWFAMILY = 1
CTRL_CMD_GETFAMILY = 3
CTRL_ATTR_FAMILY_ID = 1
CTRL_ATTR_FAMILY_NAME = 2
CTRL_ATTR_MCAST_GROUPS = 7
CTRL_ATTR_MCAST_GRP_NAME = 1
CTRL_ATTR_MCAST_GRP_ID = 2

# The family of the kernel's RPC clients: clnt_nl.h.
RPC_FAMILY = "rpc"
RPC_FAMILY_VERSION = 1
RPCNL_REQUEST = 1
RPCNL_REPLY = 2
RPCNL_REQUEST_GROUP = 1
RPCNL_REQUEST_BODY = 2
RPCNL_REPLY_GROUP = 3
RPCNL_REPLY_BODY = 4

# Ours.
RPC_FAMILY_ID = 0x15
RPC_GROUPS = {"tlsclnt": 0x21, "tlsserv": 0x22}
# Of an upcall: the control record that it is about.
UMKTLS_REQUEST_RECORD = 0x100
# Of a CONNECT: the replies to what the daemon asks first, its socket's descriptor beside them.
UMKTLS_REQUEST_REPLIES = 0x101
