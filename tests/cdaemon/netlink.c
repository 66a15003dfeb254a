/* Version 2 of the upcall: netlink messages. Linux's own headers have the layouts; the numbers are
 * those of docs/wire.md. */
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "cdaemon.h"

enum { SYS_SOCKET = 97, FREEBSD_AF_NETLINK = 38, SOL_NETLINK_ = 270, ADD_MEMBERSHIP = 1 };
enum { RPCNL_REQUEST = 1, RPCNL_REPLY = 2 };
enum { REQUEST_BODY = 2, REPLY_GROUP = 3, REPLY_BODY = 4 };

struct netlink_message {
    struct nlmsghdr header;
    struct genlmsghdr generic;
    unsigned char attributes[MESSAGE + 64];
};
static int netlink = -1;
static uint16_t family;
static uint32_t group;

/* The data of the attribute of that type, or NULL; `length` becomes its length. */
static const unsigned char *attribute(const unsigned char *data, size_t *length, int type)
{
    size_t left = *length, step;
    struct nlattr head;
    while (left >= sizeof head) {
        memcpy(&head, data, sizeof head);
        if (head.nla_len < sizeof head || head.nla_len > left)
            return NULL;
        if ((head.nla_type & NLA_TYPE_MASK) == type) {
            *length = head.nla_len - sizeof head;
            return data + sizeof head;
        }
        step = NLA_ALIGN(head.nla_len);
        left = step < left ? left - step : 0;
        data += step;
    }
    return NULL;
}

static void add_attribute(struct netlink_message *message, int type, const void *data, size_t length)
{
    struct nlattr head = { .nla_len = sizeof head + length, .nla_type = type };
    unsigned char *to = (unsigned char *)message + message->header.nlmsg_len;
    memcpy(to, &head, sizeof head);
    memcpy(to + sizeof head, data, length);
    message->header.nlmsg_len += NLA_ALIGN(head.nla_len);
}

static void send_netlink(struct netlink_message *message, uint16_t type, uint8_t command, uint32_t seq)
{
    message->header.nlmsg_type = type;
    message->header.nlmsg_flags = NLM_F_REQUEST;
    message->header.nlmsg_seq = seq;
    message->generic.cmd = command;
    message->generic.version = 1;
    if (send(netlink, message, message->header.nlmsg_len, MSG_NOSIGNAL) < 0)
        fprintf(stderr, "cdaemon: an answer came too late\n");
}

/* How many bytes of attributes came; -1 at the end. */
static ssize_t receive_netlink(struct netlink_message *message)
{
    ssize_t count = recv(netlink, message, sizeof *message, 0);
    size_t heads = offsetof(struct netlink_message, attributes);
    if (count <= 0)
        return -1;
    if ((size_t)count < heads || message->header.nlmsg_len != (size_t)count)
        die("a netlink message of %zd bytes", count);
    return count - heads;
}

/* The number of the group with that name, from nlctrl's list of them. */
static uint32_t find_group(const unsigned char *groups, size_t length, const char *name)
{
    uint32_t number = 0;
    for (int place = 1; number == 0; place++) {
        size_t size = length, part;
        const unsigned char *entry = attribute(groups, &size, place), *value;
        if (entry == NULL)
            die("the kernel has no group %s", name);
        part = size;
        value = attribute(entry, &part, CTRL_ATTR_MCAST_GRP_NAME);
        if (value == NULL || part != strlen(name) + 1 || memcmp(value, name, part) != 0)
            continue;
        part = size;
        value = attribute(entry, &part, CTRL_ATTR_MCAST_GRP_ID);
        if (value != NULL && part == sizeof number)
            memcpy(&number, value, sizeof number);
    }
    return number;
}

static void ask_for_numbers(void)
{
    struct netlink_message message = { .header.nlmsg_len = NLMSG_HDRLEN + GENL_HDRLEN };
    const unsigned char *id, *groups;
    size_t length, id_length;
    add_attribute(&message, CTRL_ATTR_FAMILY_NAME, "rpc", 4);
    send_netlink(&message, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 1);
    id_length = length = receive_netlink(&message);
    id = attribute(message.attributes, &id_length, CTRL_ATTR_FAMILY_ID);
    groups = attribute(message.attributes, &length, CTRL_ATTR_MCAST_GROUPS);
    if (message.header.nlmsg_type != GENL_ID_CTRL || id == NULL || groups == NULL)
        die("the kernel has no family rpc");
    memcpy(&family, id, sizeof family);
    group = find_group(groups, length, is_server ? "tlsserv" : "tlsclnt");
}

/* socket(2), what the numbers are, and the membership. */
void become_known(const char *path)
{
    struct xdr x;
    int number;
    (void)path;
    begin(&x, SYS_SOCKET);
    put(&x, FREEBSD_AF_NETLINK), put(&x, 3), put(&x, 16);
    if (call(&x, &netlink) != 0 || netlink < 0)
        die("the kernel has no version 2 of the upcall");
    number = get(&x);
    ask_for_numbers();
    begin(&x, SYS_SETSOCKOPT);
    put(&x, number), put(&x, SOL_NETLINK_), put(&x, ADD_MEMBERSHIP);
    put_opaque(&x, &group, sizeof group);
    put(&x, 0);
    if (call(&x, NULL) != 0)
        die("the kernel does not want another daemon");
}

void send_reply(const struct upcall *upcall, uint32_t xid, const unsigned char *reply, size_t length)
{
    struct netlink_message message = { .header.nlmsg_len = NLMSG_HDRLEN + GENL_HDRLEN };
    (void)upcall;
    add_attribute(&message, REPLY_GROUP, &group, sizeof group);
    add_attribute(&message, REPLY_BODY, reply, length);
    send_netlink(&message, family, RPCNL_REPLY, xid);
}

void serve(void)
{
    struct netlink_message message;
    ssize_t length;
    while ((length = receive_netlink(&message)) >= 0) {
        size_t size = length;
        const unsigned char *body = attribute(message.attributes, &size, REQUEST_BODY);
        struct upcall *upcall = calloc(1, sizeof *upcall);
        if (message.header.nlmsg_type != family || message.generic.cmd != RPCNL_REQUEST || body == NULL) {
            fprintf(stderr, "cdaemon: the kernel did not take an answer\n");
            free(upcall);
            continue;
        }
        memcpy(upcall->message.data, body, size);
        upcall->message.length = size;
        spawn(serve_upcall, upcall);
    }
}
