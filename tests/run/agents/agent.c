/* A handshake agent for Linux's netlink family `handshake`, by libnl-genl-3 and GnuTLS: it would run
 * on a real kernel as it is. As tlshd of ktls-utils it forks for each READY, and has a socket of its
 * own for ACCEPT and for DONE. Without -k it only joins the group and says so.
 *
 *   agent [-a] [-t TRUST.pem] [-c CERT.pem -k KEY.pem]     -a: with ALPN, as RFC 9289 wants it
 */
#include <errno.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netlink/genl/ctrl.h>
#include <netlink/genl/genl.h>
#include <netlink/netlink.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef SOL_TLS
#define SOL_TLS 282
#endif

/* linux/handshake.h of Linux 6.12; Debian 12's headers have none. */
enum { CMD_READY = 1, CMD_ACCEPT, CMD_DONE };
enum { ACCEPT_SOCKFD = 1, ACCEPT_HANDLER_CLASS, ACCEPT_MESSAGE_TYPE, ACCEPT_TIMEOUT,
       ACCEPT_AUTH_MODE, ACCEPT_PEER_IDENTITY, ACCEPT_CERTIFICATE, ACCEPT_PEERNAME,
       ACCEPT_KEYRING };
enum { DONE_STATUS = 1, DONE_SOCKFD, DONE_REMOTE_AUTH };
enum { CLASS_TLSHD = 1 };
enum { TYPE_CLIENTHELLO = 1, TYPE_SERVERHELLO };
enum { AUTH_UNAUTH = 1, AUTH_PSK, AUTH_X509 };

static const char *trust, *certificate, *key;
static int alpn;

struct request {
    int fd, type, auth;
    unsigned timeout;
    char peername[256];
};

static void die(const char *what, int error)
{
    fprintf(stderr, "agent: %s: %s\n", what, nl_geterror(error));
    exit(1);
}

static struct nl_sock *connected(int *family)
{
    struct nl_sock *sock = nl_socket_alloc();
    int error = genl_connect(sock);

    if (error < 0)
        die("genl_connect", error);
    *family = genl_ctrl_resolve(sock, "handshake");
    if (*family < 0)
        die("family handshake", *family);
    return sock;
}

/* ---- ACCEPT and DONE */

static int accepted(struct nl_msg *msg, void *arg)
{
    struct request *request = arg;
    struct nlattr *attrs[ACCEPT_KEYRING + 1];
    int error = genlmsg_parse(nlmsg_hdr(msg), 0, attrs, ACCEPT_KEYRING, NULL);

    if (error < 0)
        die("ACCEPT's answer", error);
    if (attrs[ACCEPT_SOCKFD])
        request->fd = nla_get_u32(attrs[ACCEPT_SOCKFD]);
    if (attrs[ACCEPT_MESSAGE_TYPE])
        request->type = nla_get_u32(attrs[ACCEPT_MESSAGE_TYPE]);
    if (attrs[ACCEPT_AUTH_MODE])
        request->auth = nla_get_u32(attrs[ACCEPT_AUTH_MODE]);
    if (attrs[ACCEPT_TIMEOUT])
        request->timeout = nla_get_u32(attrs[ACCEPT_TIMEOUT]);
    if (attrs[ACCEPT_PEERNAME])
        snprintf(request->peername, sizeof request->peername, "%s",
                 nla_get_string(attrs[ACCEPT_PEERNAME]));
    return NL_OK;
}

static int accept_request(struct request *request)
{
    int family, error;
    struct nl_sock *sock = connected(&family);
    struct nl_msg *msg = nlmsg_alloc();

    request->fd = -1;
    nl_socket_disable_auto_ack(sock);
    nl_socket_modify_cb(sock, NL_CB_VALID, NL_CB_CUSTOM, accepted, request);
    genlmsg_put(msg, NL_AUTO_PORT, NL_AUTO_SEQ, family, 0, 0, CMD_ACCEPT, 0);
    nla_put_u32(msg, ACCEPT_HANDLER_CLASS, CLASS_TLSHD);
    error = nl_send_auto(sock, msg);
    if (error >= 0)
        error = nl_recvmsgs_default(sock);
    nlmsg_free(msg);
    nl_socket_free(sock);
    return error;
}

static void done(const struct request *request, int status, unsigned remote)
{
    int family, error;
    struct nl_sock *sock = connected(&family);
    struct nl_msg *msg = nlmsg_alloc();

    genlmsg_put(msg, NL_AUTO_PORT, NL_AUTO_SEQ, family, 0, 0, CMD_DONE, 0);
    nla_put_u32(msg, DONE_STATUS, status);
    nla_put_u32(msg, DONE_SOCKFD, request->fd);
    if (!status && remote)
        nla_put_u32(msg, DONE_REMOTE_AUTH, remote);
    error = nl_send_sync(sock, msg); /* frees it, and waits for the acknowledgement */
    printf("done %d: %s\n", status, error < 0 ? nl_geterror(error) : "ok");
    nl_socket_free(sock);
}

/* ---- the handshake */

static int try(int number, const char *what)
{
    if (number < 0)
        fprintf(stderr, "agent: %s: %s\n", what, gnutls_strerror(number));
    return number;
}

static int handshake(gnutls_session_t session, int fd)
{
    for (;;) {
        int error = gnutls_handshake(session);

        if (error == GNUTLS_E_AGAIN || error == GNUTLS_E_INTERRUPTED) {
            short events = gnutls_record_get_direction(session) ? POLLOUT : POLLIN;
            struct pollfd poller = {.fd = fd, .events = events};

            poll(&poller, 1, 10000);
        } else if (error == GNUTLS_E_SUCCESS || gnutls_error_is_fatal(error))
            return error;
    }
}

static int give_key(gnutls_session_t session, int fd, int name)
{
    struct tls12_crypto_info_aes_gcm_256 info = {
        .info = {.version = TLS_1_3_VERSION, .cipher_type = TLS_CIPHER_AES_GCM_256}};
    gnutls_datum_t mac, iv, secret;
    unsigned char seq[8];

    if (try(gnutls_record_get_state(session, name == TLS_RX, &mac, &iv, &secret, seq), "keys") < 0)
        return EIO;
    memcpy(info.salt, iv.data, sizeof info.salt);
    memcpy(info.iv, iv.data + sizeof info.salt, sizeof info.iv);
    memcpy(info.key, secret.data, sizeof info.key);
    memcpy(info.rec_seq, seq, sizeof info.rec_seq);
    return setsockopt(fd, SOL_TLS, name, &info, sizeof info) ? errno : 0;
}

static int give_keys(gnutls_session_t session, int fd)
{
    int error = setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof "tls") ? errno : 0;

    error = error ? error : give_key(session, fd, TLS_TX);
    return error ? error : give_key(session, fd, TLS_RX);
}

static unsigned peer_certificates(gnutls_session_t session)
{
    unsigned count = 0;

    gnutls_certificate_get_peers(session, &count);
    return count;
}

static void shake(const struct request *request)
{
    int server = request->type == TYPE_SERVERHELLO, status = EACCES;
    gnutls_certificate_credentials_t credentials;
    gnutls_session_t session;
    unsigned remote = 0;

    gnutls_certificate_allocate_credentials(&credentials);
    if (trust)
        try(gnutls_certificate_set_x509_trust_file(credentials, trust, GNUTLS_X509_FMT_PEM), trust);
    if (key && request->auth == AUTH_X509)
        try(gnutls_certificate_set_x509_key_file(credentials, certificate, key,
                                                 GNUTLS_X509_FMT_PEM), key);
    gnutls_init(&session, (server ? GNUTLS_SERVER : GNUTLS_CLIENT) | GNUTLS_NONBLOCK);
    try(gnutls_priority_set_direct(session, "NORMAL:-VERS-ALL:+VERS-TLS1.3:%NO_TICKETS:"
                                   "-CIPHER-ALL:+AES-256-GCM", NULL), "priority");
    gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials);
    gnutls_transport_set_int(session, request->fd);
    if (alpn) {
        const gnutls_datum_t name = {(unsigned char *)"sunrpc", 6};

        gnutls_alpn_set_protocols(session, &name, 1, 0);
    }
    if (server) {
        gnutls_certificate_server_set_request(session, GNUTLS_CERT_REQUEST);
        gnutls_session_set_verify_cert(session, NULL, 0);
    } else {
        gnutls_server_name_set(session, GNUTLS_NAME_DNS, request->peername,
                               strlen(request->peername));
        gnutls_session_set_verify_cert(session, request->peername, 0);
    }
    if (try(handshake(session, request->fd), "handshake") == GNUTLS_E_SUCCESS) {
        remote = peer_certificates(session) ? 0xffffffff : 0;
        status = give_keys(session, request->fd);
    }
    done(request, status, remote);
    gnutls_deinit(session);
}

/* ---- READY */

static int ready(struct nl_msg *msg, void *arg)
{
    struct genlmsghdr *header = nlmsg_data(nlmsg_hdr(msg));
    struct request request = {0};
    int error;

    (void)arg;
    if (header->cmd != CMD_READY)
        return NL_SKIP;
    printf("ready\n");
    if (fork())
        return NL_OK;
    error = accept_request(&request);
    if (error < 0)
        printf("accept: %s\n", nl_geterror(error));
    else {
        printf("accept fd>2:%d cloexec:%d type:%d auth:%d peername:%s\n", request.fd > 2,
               !!(fcntl(request.fd, F_GETFD) & FD_CLOEXEC), request.type, request.auth,
               request.peername);
        shake(&request);
    }
    exit(0);
}

int main(int argc, char **argv)
{
    int family, group, error, option;
    struct nl_sock *sock;

    while ((option = getopt(argc, argv, "at:c:k:")) != -1)
        switch (option) {
        case 'a': alpn = 1; break;
        case 't': trust = optarg; break;
        case 'c': certificate = optarg; break;
        case 'k': key = optarg; break;
        default: return 2;
        }
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGCHLD, SIG_IGN);
    sock = connected(&family);
    group = genl_ctrl_resolve_grp(sock, "handshake", "tlshd");
    if (group < 0)
        die("group tlshd", group);
    nl_socket_disable_seq_check(sock);
    nl_socket_modify_cb(sock, NL_CB_VALID, NL_CB_CUSTOM, ready, NULL);
    error = nl_socket_add_membership(sock, group);
    if (error < 0)
        die("membership", error);
    printf("member of %d, family %d\n", group, family);
    for (;;) {
        error = nl_recvmsgs_default(sock);
        if (error < 0)
            die("nl_recvmsgs", error);
    }
}
