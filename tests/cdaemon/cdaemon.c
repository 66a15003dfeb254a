/*
 * A handshake daemon in C, made from docs/wire.md: both roles, TLS 1.3 by OpenSSL.
 *
 *   cdaemon client|server CERTDIR CAFILE [CRLFILE]
 *
 * The run directory is in UMKTLS_RUNDIR_HOST or UMKTLS_RUNDIR. CERTDIR has cert.pem and certkey.pem.
 *
 * OpenSSL is needed for the handshake only. It works on memory BIOs, fed one TLS record at a time, so
 * that nothing is read too far. Both sequence numbers are then 0: a server here sends no tickets
 * (SSL_CTX_set_num_tickets), and a client has not read the server's yet. After the handshake the traffic
 * secrets from the key log callback are all that is left: they are enough for key updates, and alerts
 * are two bytes that the kernel seals.
 *
 * Compiled with -DVERSION=2 it speaks version 2 of the upcall; otherwise 1.
 *
 * Threads: one per upcall. `kernel_lock` makes a system call and its answer one step; `session_lock` makes
 * the handling of a session's record, rekeying or end one step.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <openssl/err.h>
#include <openssl/hmac.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifndef VERSION
#define VERSION 1
#endif

enum { SYS_CLOSE = 6, SYS_RECVMSG = 27, SYS_SENDMSG = 28, SYS_SETSOCKOPT = 105, SYS_GETSOCKOPT = 118,
       SYS_SHUTDOWN = 134, SYS_UTRACE = 335, SYS_RPCTLS = 576, SYS_RPCTLS_15 = 1002 };
enum { CLSETPATH = 1, CLSOCKET = 2, SRVSETPATH = 4, SRVSOCKET = 5 };
enum { TXTLS_ENABLE = 39, TXTLS_MODE = 40, RXTLS_ENABLE = 41, RXTLS_MODE = 42, TCP = 6 };
enum { SOL_UMKTLS = 0x756D6B74, PEERNAME = 1, XPRTSEC = 2, DEADLINE = 3 };
enum { ALERT = 21, HANDSHAKE = 22, KEY_UPDATE = 24, DONTWAIT = 0x80 };
enum { CONNECT = 1, HANDLERECORD = 2, DISCONNECT = 3, REKEY = 4 };
enum { RETERR_OK = 0, NOCLOSE = 1, NOSSL = 2, NOSOCKET = 3 };
enum { FLAG_HANDSHAKE = 1, FLAG_GOTCERT = 2, FLAG_VERIFIED = 8 };
enum { PROC_UNAVAIL = 3, PROG_UNAVAIL = 1, MESSAGE = 9000, RECORD = 5 + 16384 + 256 };

static bool is_server;
static int kernel = -1;
static SSL_CTX *context;
static uint32_t program;
static struct timespec started;
static pthread_mutex_t kernel_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t session_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t reply_lock = PTHREAD_MUTEX_INITIALIZER;

static void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("cdaemon: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

/* ---- XDR: a buffer that is written at its end and read from `at`. `bad` once it was read too far. */

struct xdr {
    unsigned char data[20480];
    size_t length, at;
    bool bad;
};

static void put(struct xdr *x, uint32_t value)
{
    unsigned char *to = x->data + x->length;
    to[0] = value >> 24, to[1] = value >> 16, to[2] = value >> 8, to[3] = value;
    x->length += 4;
}

static void put_hyper(struct xdr *x, uint64_t value)
{
    put(x, value >> 32);
    put(x, value);
}

static void put_opaque(struct xdr *x, const void *data, size_t length)
{
    put(x, length);
    memcpy(x->data + x->length, data, length);
    memset(x->data + x->length + length, 0, 3);
    x->length += (length + 3) / 4 * 4;
}

static uint32_t get(struct xdr *x)
{
    const unsigned char *from = x->data + x->at;
    if (x->bad || x->length - x->at < 4) {
        x->bad = true;
        return 0;
    }
    x->at += 4;
    return (uint32_t)from[0] << 24 | from[1] << 16 | from[2] << 8 | from[3];
}

static uint64_t get_hyper(struct xdr *x)
{
    uint64_t high = get(x);
    return high << 32 | get(x);
}

/* The bytes stay in the buffer. */
static const unsigned char *get_opaque(struct xdr *x, size_t *length)
{
    size_t count = get(x);
    const unsigned char *data = x->data + x->at;
    if (x->bad || count > x->length - x->at) {
        x->bad = true;
        *length = 0;
        return x->data;
    }
    *length = count;
    x->at += (count + 3) / 4 * 4;
    return data;
}

/* ---- System calls */

static void begin(struct xdr *x, uint32_t number)
{
    x->length = x->at = 0;
    x->bad = false;
    put(x, 0);
    put(x, number);
}

/* Receive the answer into `x`; the descriptor that came beside it, or -1. */
static int receive_answer(struct xdr *x)
{
    union { char space[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control;
    struct iovec vector = { x->data, sizeof x->data };
    struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control,
                              .msg_controllen = sizeof control };
    ssize_t count = recvmsg(kernel, &message, MSG_CMSG_CLOEXEC);
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    int descriptor = -1;
    if (count < 8)
        die("the kernel is gone");
    x->length = count;
    if (head != NULL && head->cmsg_type == SCM_RIGHTS)
        memcpy(&descriptor, CMSG_DATA(head), sizeof descriptor);
    return descriptor;
}

/* Make the call that stands in `x`; its errno. The result is read from `x` then. */
static uint32_t call(struct xdr *x, int *descriptor)
{
    static uint32_t sequence;
    int passed;
    uint32_t mine;
    pthread_mutex_lock(&kernel_lock);
    mine = htonl(++sequence);
    memcpy(x->data, &mine, sizeof mine);
    if (send(kernel, x->data, x->length, MSG_NOSIGNAL) < 0)
        die("the kernel is gone");
    passed = receive_answer(x);
    pthread_mutex_unlock(&kernel_lock);
    x->at = 4;
    if (descriptor != NULL)
        *descriptor = passed;
    return get(x);
}

static uint32_t rpctls_syscall(uint32_t operation, const char *path, int *number, int *descriptor)
{
    struct xdr x;
    uint32_t error;
    begin(&x, SYS_RPCTLS);
    put(&x, operation);
    put_opaque(&x, path, strlen(path));
    error = call(&x, descriptor);
    *number = error ? -1 : (int)get(&x);
    return error;
}

/* The socket that a CONNECT offers; in version 2 the cookie says which. */
static uint32_t take_socket(uint64_t cookie, int *number, int *descriptor)
{
    struct xdr x;
    uint32_t error;
    if (VERSION == 1)
        return rpctls_syscall(is_server ? SRVSOCKET : CLSOCKET, "", number, descriptor);
    begin(&x, SYS_RPCTLS_15);
    put_hyper(&x, cookie);
    error = call(&x, descriptor);
    *number = error ? -1 : (int)get(&x);
    return error;
}

static void call_fd(uint32_t number, int fd, int how)
{
    struct xdr x;
    begin(&x, number);
    put(&x, fd);
    if (number == SYS_SHUTDOWN)
        put(&x, how);
    call(&x, NULL);
}

/* The option's value in `value` (`room` bytes and a NUL); its length, 0 if the kernel has none. */
static size_t getsockopt_kernel(int fd, uint32_t level, uint32_t name, char *value, size_t room)
{
    struct xdr x;
    size_t length = 0;
    const unsigned char *data;
    begin(&x, SYS_GETSOCKOPT);
    put(&x, fd), put(&x, level), put(&x, name), put(&x, room);
    value[0] = '\0';
    if (call(&x, NULL) != 0)
        return 0;
    data = get_opaque(&x, &length);
    length = length < room ? length : room;
    memcpy(value, data, length);
    value[length] = '\0';
    return length;
}

static uint32_t send_record(int fd, unsigned char type, const void *data, size_t length)
{
    /* struct cmsghdr of FreeBSD: length 17, level TCP, type TLS_SET_RECORD_TYPE */
    unsigned char control[24] = { 17, 0, 0, 0, TCP, 0, 0, 0, 1, [16] = type };
    struct xdr x;
    begin(&x, SYS_SENDMSG);
    put(&x, fd);
    put_opaque(&x, data, length);
    put_opaque(&x, control, sizeof control);
    put(&x, DONTWAIT);
    return call(&x, NULL);
}

/* A text as it may stand in JSON. */
static void escape(char *to, size_t room, const char *from)
{
    size_t length = 0;
    for (; *from != '\0' && length + 2 < room; from++) {
        if (*from == '"' || *from == '\\')
            to[length++] = '\\';
        to[length++] = *from >= ' ' && *from < 127 ? *from : '?';
    }
    to[length] = '\0';
}

static void utrace(const char *format, ...)
{
    char text[2048];
    struct xdr x;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "cdaemon: %s\n", text);
    begin(&x, SYS_UTRACE);
    put_opaque(&x, text, strlen(text));
    call(&x, NULL);
}

/* ---- Sessions: RFC 8446 section 7 from the traffic secrets on */

struct session {
    uint64_t number;
    int fd;
    const EVP_MD *hash;
    uint32_t algorithm, key_length;
    unsigned char tx[EVP_MAX_MD_SIZE], rx[EVP_MAX_MD_SIZE];
    bool said_goodbye, verified;
    struct session *next;
};
static struct session *sessions;

/* HKDF-Expand-Label with an empty context; `length` is at most the hash's: one round does. */
static void expand(const struct session *s, const unsigned char *secret, const char *label, size_t length,
                   unsigned char *to)
{
    unsigned char info[64], block[EVP_MAX_MD_SIZE];
    size_t size = snprintf((char *)info + 3, sizeof info - 3, "tls13 %s", label);
    info[0] = 0, info[1] = length, info[2] = size;
    info[3 + size] = 0; /* the context's length */
    info[4 + size] = 1; /* the first round */
    HMAC(s->hash, secret, EVP_MD_get_size(s->hash), info, size + 5, block, NULL);
    memcpy(to, block, length);
}

static void next_secret(const struct session *s, unsigned char *secret)
{
    expand(s, secret, "traffic upd", EVP_MD_get_size(s->hash), secret);
}

static void little(unsigned char *to, uint32_t value)
{
    to[0] = value, to[1] = value >> 8, to[2] = value >> 16, to[3] = value >> 24;
}

/* TCP_TXTLS_ENABLE or TCP_RXTLS_ENABLE with the keys of a secret, from record 0 on. */
static uint32_t enable(const struct session *s, uint32_t option, const unsigned char *secret)
{
    unsigned char value[64] = { [1] = 1, [9] = 2, [48] = 3, [49] = 4 }; /* addresses 0x100, 0x200 */
    unsigned char key[32], iv[12];
    struct xdr x;
    uint32_t error;
    expand(s, secret, "key", s->key_length, key);
    expand(s, secret, "iv", sizeof iv, iv);
    little(value + 24, s->algorithm);
    little(value + 28, s->key_length);
    little(value + 32, sizeof iv);
    begin(&x, SYS_SETSOCKOPT);
    put(&x, s->fd), put(&x, TCP), put(&x, option);
    put_opaque(&x, value, sizeof value);
    put(&x, 2);
    put_hyper(&x, 0x100), put_opaque(&x, key, s->key_length);
    put_hyper(&x, 0x200), put_opaque(&x, iv, sizeof iv);
    error = call(&x, NULL);
    OPENSSL_cleanse(key, sizeof key);
    OPENSSL_cleanse(&x, sizeof x);
    return error;
}

static struct session **find(uint64_t sec, uint64_t usec, uint64_t number)
{
    struct session **at = &sessions;
    bool mine = sec == (uint64_t)started.tv_sec && usec == (uint64_t)started.tv_nsec / 1000;
    while (mine && *at != NULL && (*at)->number != number)
        at = &(*at)->next;
    return mine && *at != NULL ? at : NULL;
}

static void renew_sending(struct session *s, bool request)
{
    unsigned char message[5] = { KEY_UPDATE, 0, 0, 1, request };
    send_record(s->fd, HANDSHAKE, message, sizeof message);
    next_secret(s, s->tx);
    enable(s, TXTLS_ENABLE, s->tx);
    utrace("{\"event\": \"key-update\", \"fd\": %d, \"direction\": \"sent\"}", s->fd);
}

static void say_goodbye(struct session *s)
{
    if (!s->said_goodbye)
        send_record(s->fd, ALERT, "\1\0", 2);
    s->said_goodbye = true;
    call_fd(SYS_SHUTDOWN, s->fd, 1);
}

static void on_alert(struct session *s, unsigned char description)
{
    if (description == 0) {
        say_goodbye(s);
        return;
    }
    utrace("{\"event\": \"alert\", \"fd\": %d, \"level\": \"fatal\", \"description\": \"%d\", "
           "\"reason\": \"the peer ended the session with alert %d\"}", s->fd, description, description);
    s->said_goodbye = true;
    call_fd(SYS_SHUTDOWN, s->fd, 1);
}

/* The messages of one record; ones that are cut over two records are not for a daemon this small. */
static void on_handshake(struct session *s, const unsigned char *data, size_t length)
{
    while (length >= 4) {
        size_t size = 4 + ((size_t)data[1] << 16 | data[2] << 8 | data[3]);
        if (size > length)
            return;
        if (data[0] == KEY_UPDATE && size == 5) {
            next_secret(s, s->rx);
            enable(s, RXTLS_ENABLE, s->rx);
            utrace("{\"event\": \"key-update\", \"fd\": %d, \"direction\": \"received\"}", s->fd);
            if (data[4] == 1)
                renew_sending(s, false);
        }
        data += size;
        length -= size;
    }
}

static void handle_record(struct session *s)
{
    struct xdr x;
    size_t length, control_length;
    const unsigned char *data, *control;
    begin(&x, SYS_RECVMSG);
    put(&x, s->fd), put(&x, 16384), put(&x, 24), put(&x, DONTWAIT);
    if (call(&x, NULL) != 0)
        return;
    data = get_opaque(&x, &length);
    control = get_opaque(&x, &control_length);
    if (control_length < 22)
        return;
    if (control[16] == ALERT && length == 2)
        on_alert(s, data[1]);
    else if (control[16] == HANDSHAKE)
        on_handshake(s, data, length);
}

/* ---- The handshake */

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
static const char *establish(struct session *s, int descriptor)
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

/* The CONNECT upcall: a session, or NULL and the reterr. `cookie` is version 2's name of the socket. */
static struct session *connect_upcall(uint64_t cookie, uint32_t *reterr)
{
    static uint64_t numbers;
    struct session *s = calloc(1, sizeof *s);
    int descriptor;
    const char *problem = "no descriptor came beside the answer";
    if (take_socket(cookie, &s->fd, &descriptor) != 0) {
        *reterr = NOSOCKET;
        free(s);
        return NULL;
    }
    *reterr = descriptor < 0 ? NOSOCKET : NOSSL;
    if (descriptor >= 0) {
        problem = establish(s, descriptor);
        close(descriptor);
    }
    if (problem != NULL) {
        utrace("{\"event\": \"handshake-failed\", \"fd\": %d, \"phase\": \"tls\", \"reason\": \"%s\", "
               "\"advice\": \"look into the log of both daemons\"}", s->fd, problem);
        call_fd(SYS_SHUTDOWN, s->fd, 1);
        call_fd(SYS_CLOSE, s->fd, 0);
        OPENSSL_clear_free(s, sizeof *s);
        return NULL;
    }
    pthread_mutex_lock(&session_lock);
    s->number = VERSION == 1 ? ++numbers : cookie;
    s->next = sessions;
    sessions = s;
    pthread_mutex_unlock(&session_lock);
    *reterr = RETERR_OK;
    return s;
}

/* ---- Upcalls */

struct upcall {
    int stream;
    struct xdr message;
};

static void answer_connect(struct xdr *x, struct xdr *reply)
{
    uint32_t reterr = RETERR_OK;
    struct session *s = connect_upcall(VERSION == 1 ? 0 : get_hyper(x), &reterr);
    uint32_t flags = s == NULL ? 0 : FLAG_HANDSHAKE | (s->verified ? FLAG_GOTCERT | FLAG_VERIFIED : 0);
    put(reply, is_server ? flags : reterr);
    if (VERSION == 1) {
        put_hyper(reply, s == NULL ? 0 : started.tv_sec);
        put_hyper(reply, s == NULL ? 0 : started.tv_nsec / 1000);
        put_hyper(reply, s == NULL ? 0 : s->number);
    }
    if (is_server)
        put(reply, 0), put(reply, 0); /* uid, and no gids */
}

static uint32_t session_upcall(uint32_t procedure, struct xdr *x)
{
    uint64_t sec = VERSION == 1 ? get_hyper(x) : (uint64_t)started.tv_sec;
    uint64_t usec = VERSION == 1 ? get_hyper(x) : (uint64_t)started.tv_nsec / 1000;
    uint64_t number = get_hyper(x);
    struct session **at, *s;
    uint32_t reterr = procedure == DISCONNECT ? NOCLOSE : NOSSL;
    pthread_mutex_lock(&session_lock);
    at = find(sec, usec, number);
    if (at != NULL) {
        s = *at;
        reterr = RETERR_OK;
        if (procedure == HANDLERECORD)
            handle_record(s);
        if (procedure == REKEY)
            renew_sending(s, true);
        if (procedure == DISCONNECT) {
            say_goodbye(s);
            call_fd(SYS_CLOSE, s->fd, 0);
            *at = s->next;
            OPENSSL_clear_free(s, sizeof *s);
        }
    }
    pthread_mutex_unlock(&session_lock);
    return reterr;
}

static void send_reply(const struct upcall *upcall, uint32_t xid, const unsigned char *reply, size_t length);

static void *serve_upcall(void *argument)
{
    struct upcall *upcall = argument;
    struct xdr *x = &upcall->message, reply = { .length = 0 };
    uint32_t words[10], index;
    for (index = 0; index < 10; index++)
        words[index] = get(x);
    put(&reply, words[0]), put(&reply, 1), put(&reply, 0), put(&reply, 0), put(&reply, 0);
    if (words[3] != program || words[4] != VERSION) {
        put(&reply, PROG_UNAVAIL);
    } else if (words[5] > REKEY) {
        put(&reply, PROC_UNAVAIL);
    } else {
        put(&reply, 0);
        if (words[5] == CONNECT)
            answer_connect(x, &reply);
        else if (words[5] != 0)
            put(&reply, session_upcall(words[5], x));
    }
    pthread_mutex_lock(&reply_lock);
    send_reply(upcall, words[0], reply.data, reply.length);
    pthread_mutex_unlock(&reply_lock);
    free(upcall);
    return NULL;
}

static void spawn(void *(*work)(void *), void *argument)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, work, argument) != 0)
        die("no more threads");
    pthread_detach(thread);
}

static int unix_socket(int kind, const char *path, bool listening)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, kind | SOCK_CLOEXEC, 0), failed;
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    umask(0177);
    failed = listening ? bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 16)
                       : connect(fd, (struct sockaddr *)&address, sizeof address);
    if (failed)
        die("%s: %s", path, strerror(errno));
    return fd;
}

#if VERSION == 2
/* Version 2: netlink messages. Linux's own headers have the layouts; the numbers are those of docs/wire.md. */
enum { SYS_SOCKET = 97, FREEBSD_AF_NETLINK = 38, SOL_NETLINK_ = 270, ADD_MEMBERSHIP = 1 };
enum { RPCNL_REQUEST = 1, RPCNL_REPLY = 2, GROUP = 1, BODY = 2 };

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
static void become_known(const char *path)
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

static void send_reply(const struct upcall *upcall, uint32_t xid, const unsigned char *reply, size_t length)
{
    struct netlink_message message = { .header.nlmsg_len = NLMSG_HDRLEN + GENL_HDRLEN };
    (void)upcall;
    add_attribute(&message, GROUP, &group, sizeof group);
    add_attribute(&message, BODY, reply, length);
    send_netlink(&message, family, RPCNL_REPLY, xid);
}

static void serve(void)
{
    struct netlink_message message;
    ssize_t length;
    while ((length = receive_netlink(&message)) >= 0) {
        size_t size = length;
        const unsigned char *body = attribute(message.attributes, &size, BODY);
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
#else

static void send_reply(const struct upcall *upcall, uint32_t xid, const unsigned char *reply, size_t length)
{
    uint32_t mark = htonl(0x80000000u | length);
    unsigned char message[sizeof mark + MESSAGE];
    (void)xid;
    memcpy(message, &mark, sizeof mark);
    memcpy(message + sizeof mark, reply, length);
    if (send(upcall->stream, message, sizeof mark + length, MSG_NOSIGNAL) < 0)
        fprintf(stderr, "cdaemon: an answer came too late\n");
}

/* One connection from the kernel. It stays open to the end of the process: threads may answer on it. */
static void *serve_stream(void *argument)
{
    int stream = (int)(intptr_t)argument;
    for (;;) {
        uint32_t mark;
        struct upcall *upcall;
        if (recv(stream, &mark, sizeof mark, MSG_WAITALL) != sizeof mark)
            return NULL;
        mark = ntohl(mark) & 0x7FFFFFFF;
        if (mark > MESSAGE)
            die("an upcall of %u bytes", mark);
        upcall = calloc(1, sizeof *upcall);
        upcall->stream = stream;
        upcall->message.length = mark;
        if (recv(stream, upcall->message.data, mark, MSG_WAITALL) != (ssize_t)mark) {
            free(upcall);
            return NULL;
        }
        spawn(serve_upcall, upcall);
    }
}

static int listener;

static void become_known(const char *path)
{
    int number;
    listener = unix_socket(SOCK_STREAM, path, true);
    if (rpctls_syscall(is_server ? SRVSETPATH : CLSETPATH, path, &number, NULL) != 0)
        die("the kernel does not want another daemon");
}

static void serve(void)
{
    for (;;) {
        struct pollfd wait[] = { { listener, POLLIN, 0 }, { kernel, 0, 0 } };
        if (poll(wait, 2, -1) < 0 || wait[1].revents != 0)
            return;
        spawn(serve_stream, (void *)(intptr_t)accept(listener, NULL, NULL));
    }
}
#endif

/* ---- Start */

static void make_context(const char *certdir, const char *cafile, const char *crlfile)
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

int main(int argc, char **argv)
{
    const char *rundir = getenv("UMKTLS_RUNDIR_HOST");
    char path[100];
    if (rundir == NULL)
        rundir = getenv("UMKTLS_RUNDIR");
    if (argc < 4 || rundir == NULL)
        die("usage: UMKTLS_RUNDIR=DIR cdaemon client|server CERTDIR CAFILE [CRLFILE]");
    is_server = strcmp(argv[1], "server") == 0;
    program = is_server ? 0x40677375 : 0x40677374;
    clock_gettime(CLOCK_REALTIME, &started);
    make_context(argv[2], argv[3], argc > 4 ? argv[4] : NULL);
    snprintf(path, sizeof path, "%s/syscall.sock", rundir);
    kernel = unix_socket(SOCK_SEQPACKET, path, false);
    snprintf(path, sizeof path, "%s/cdaemon-%d.sock", rundir, (int)getpid());
    become_known(path);
    serve();
    unlink(path);
    return 0;
}
