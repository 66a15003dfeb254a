/* The handshake, by OpenSSL. */
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cdaemon.h"

static SSL_CTX *context;

static int milliseconds_left(const struct timespec *end)
{
    struct timespec now;
    long left;
    clock_gettime(CLOCK_MONOTONIC, &now);
    left = (end->tv_sec - now.tv_sec) * 1000 + (end->tv_nsec - now.tv_nsec) / 1000000;
    return left > 0 ? (int)left : 0;
}

/* Read or write `length` bytes before `end`; whether that worked. */
static bool transfer(int fd, unsigned char *data, size_t length, const struct timespec *end, short way)
{
    while (length > 0) {
        struct pollfd wait = { fd, way, 0 };
        ssize_t count;
        if (poll(&wait, 1, milliseconds_left(end)) <= 0)
            return false;
        count = way == POLLIN ? read(fd, data, length) : send(fd, data, length, MSG_NOSIGNAL);
        if (count <= 0 && errno != EAGAIN)
            return false;
        if (count == 0)
            return false;
        if (count > 0)
            data += count, length -= count;
    }
    return true;
}

static bool flush(SSL *ssl, int fd, const struct timespec *end)
{
    char *data;
    long length = BIO_get_mem_data(SSL_get_wbio(ssl), &data);
    bool done = transfer(fd, (unsigned char *)data, length, end, POLLOUT);
    (void)BIO_reset(SSL_get_wbio(ssl));
    return done;
}

/* One TLS record from the socket to OpenSSL, and not a byte more. */
static const char *feed(SSL *ssl, int fd, const struct timespec *end)
{
    unsigned char record[RECORD];
    size_t length;
    if (!transfer(fd, record, 5, end, POLLIN))
        return "the peer closed the connection or fell silent in the handshake";
    length = record[3] << 8 | record[4];
    if (record[0] < 20 || record[0] > 23 || record[1] != 3 || length > sizeof record - 5)
        return "the peer sent bytes that are no TLS record";
    if (!transfer(fd, record + 5, length, end, POLLIN))
        return "the peer closed the connection or fell silent in the middle of a record";
    BIO_write(SSL_get_rbio(ssl), record, 5 + length);
    return NULL;
}

/* NULL when the handshake is done, else why it failed. */
static const char *shake_hands(SSL *ssl, int fd, const struct timespec *end)
{
    for (;;) {
        const char *problem;
        const unsigned char *protocol;
        unsigned length;
        int done;
        ERR_clear_error();
        done = SSL_do_handshake(ssl);
        if (!flush(ssl, fd, end) && done == 1)
            return "the peer closed the connection at the end of the handshake";
        if (done == 1) {
            SSL_get0_alpn_selected(ssl, &protocol, &length);
            return length == 6 ? NULL : "the peer did not agree on the ALPN protocol sunrpc";
        }
        if (SSL_get_error(ssl, done) != SSL_ERROR_WANT_READ) {
            long verified = SSL_get_verify_result(ssl);
            if (verified != X509_V_OK)
                return X509_verify_cert_error_string(verified);
            return ERR_reason_error_string(ERR_peek_error());
        }
        problem = feed(ssl, fd, end);
        if (problem != NULL)
            return problem;
    }
}

/* "LABEL random secret", both in hexadecimal: SSLKEYLOGFILE's format. */
static void on_keylog(const SSL *ssl, const char *line)
{
    struct session *s = SSL_get_app_data(ssl);
    bool client = strncmp(line, "CLIENT_TRAFFIC_SECRET_0 ", 24) == 0;
    const char *secret = strrchr(line, ' ') + 1;
    unsigned char *to = client == !is_server ? s->tx : s->rx;
    size_t index;
    unsigned value;
    if (!client && strncmp(line, "SERVER_TRAFFIC_SECRET_0 ", 24) != 0)
        return;
    for (index = 0; index < EVP_MAX_MD_SIZE && sscanf(secret + 2 * index, "%2x", &value) == 1; index++)
        to[index] = value;
}

static int choose_alpn(SSL *ssl, const unsigned char **out, unsigned char *length, const unsigned char *in,
                       unsigned in_length, void *argument)
{
    int found = SSL_select_next_proto((unsigned char **)out, length, (const unsigned char *)"\6sunrpc", 7, in,
                                      in_length);
    (void)ssl, (void)argument;
    return found == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

static void prepare(SSL *ssl, int fd)
{
    char name[256], security[16];
    getsockopt_kernel(fd, SOL_UMKTLS, PEERNAME, name, sizeof name - 1);
    getsockopt_kernel(fd, SOL_UMKTLS, XPRTSEC, security, sizeof security - 1);
    if (is_server) {
        int must = strcmp(security, "mtls") == 0 ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0;
        SSL_set_verify(ssl, SSL_VERIFY_PEER | must, NULL);
        SSL_set_accept_state(ssl);
        return;
    }
    if (strcmp(security, "mtls") != 0)
        SSL_certs_clear(ssl); /* with tls the client shows nothing, even if it is asked */
    SSL_set_verify(ssl, SSL_VERIFY_PEER, NULL);
    if (X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) != 1) {
        SSL_set_hostflags(ssl, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT | X509_CHECK_FLAG_NO_WILDCARDS);
        SSL_set1_host(ssl, name);
        SSL_set_tlsext_host_name(ssl, name);
    }
    SSL_set_connect_state(ssl);
}

static void choose_suite(struct session *s, const SSL *ssl)
{
    const SSL_CIPHER *cipher = SSL_get_current_cipher(ssl);
    int id = SSL_CIPHER_get_protocol_id(cipher);
    s->hash = SSL_CIPHER_get_handshake_digest(cipher);
    s->algorithm = id == 0x1303 ? 41 : 25;
    s->key_length = id == 0x1301 ? 16 : 32;
}

/* The keys go into the kernel; NULL when both directions work. */
static const char *set_keys(struct session *s)
{
    char mode[8];
    if (enable(s, TXTLS_ENABLE, s->tx) != 0 || enable(s, RXTLS_ENABLE, s->rx) != 0)
        return "the kernel does not take the keys";
    if (getsockopt_kernel(s->fd, TCP, TXTLS_MODE, mode, 4) != 4 || mode[0] == 0)
        return "kernel TLS does not work for sending";
    if (getsockopt_kernel(s->fd, TCP, RXTLS_MODE, mode, 4) != 4 || mode[0] == 0)
        return "kernel TLS does not work for receiving";
    return NULL;
}

static void report(const struct session *s, const SSL *ssl)
{
    X509 *certificate = SSL_get0_peer_certificate(ssl);
    char name[256] = "without a certificate", peer[512];
    if (certificate != NULL)
        X509_NAME_oneline(X509_get_subject_name(certificate), name, sizeof name);
    escape(peer, sizeof peer, name);
    utrace("{\"event\": \"handshake\", \"fd\": %d, \"version\": \"%s\", \"suite\": \"%s\", \"alpn\": \"sunrpc\", "
           "\"peer\": \"%s\", \"resumed\": false, \"verified\": %s}", s->fd, SSL_get_version(ssl),
           SSL_get_cipher_name(ssl), peer, certificate != NULL ? "true" : "false");
}

/* Handshake on a socket that was taken. NULL, or why it failed. */
const char *establish(struct session *s, int descriptor)
{
    char left[8];
    struct timespec end;
    const char *problem;
    uint32_t milliseconds = 15000;
    SSL *ssl = SSL_new(context);
    SSL_set_app_data(ssl, s);
    SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    if (getsockopt_kernel(s->fd, SOL_UMKTLS, DEADLINE, left, 4) == 4)
        memcpy(&milliseconds, left, 4);
    milliseconds -= milliseconds / 10; /* time to tell the kernel why */
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += milliseconds / 1000;
    end.tv_nsec += milliseconds % 1000 * 1000000L;
    prepare(ssl, s->fd);
    problem = shake_hands(ssl, descriptor, &end);
    if (problem == NULL) {
        choose_suite(s, ssl);
        s->verified = SSL_get0_peer_certificate(ssl) != NULL;
        report(s, ssl);
        problem = set_keys(s);
    }
    SSL_free(ssl);
    return problem;
}

void make_context(const char *certdir, const char *cafile, const char *crlfile)
{
    char certificate[512], key[512];
    snprintf(certificate, sizeof certificate, "%s/cert.pem", certdir);
    snprintf(key, sizeof key, "%s/certkey.pem", certdir);
    context = SSL_CTX_new(TLS_method());
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    SSL_CTX_set_num_tickets(context, 0);
    SSL_CTX_set_keylog_callback(context, on_keylog);
    SSL_CTX_set_alpn_protos(context, (const unsigned char *)"\6sunrpc", 7);
    SSL_CTX_set_alpn_select_cb(context, choose_alpn, NULL);
    if (SSL_CTX_load_verify_file(context, cafile) != 1)
        die("%s: no CA certificate", cafile);
    if (SSL_CTX_use_certificate_chain_file(context, certificate) != 1
        || SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1)
        die("%s: no certificate with a key", certdir);
    if (crlfile != NULL) {
        X509_STORE *store = SSL_CTX_get_cert_store(context);
        X509_LOOKUP *lookup = X509_STORE_add_lookup(store, X509_LOOKUP_file());
        if (X509_load_crl_file(lookup, crlfile, X509_FILETYPE_PEM) < 1)
            die("%s: no CRL", crlfile);
        X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK);
    }
}
