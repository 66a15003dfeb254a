/* Sessions: RFC 8446 section 7 from the traffic secrets on. */
#include <openssl/crypto.h>
#include <openssl/hmac.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "cdaemon.h"

static struct session *sessions;
static pthread_mutex_t session_lock = PTHREAD_MUTEX_INITIALIZER;

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
uint32_t enable(const struct session *s, uint32_t option, const unsigned char *secret)
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

/* From now on upcalls find it. `cookie` is its number in version 2. */
void keep_session(struct session *s, uint64_t cookie)
{
    static uint64_t numbers;
    pthread_mutex_lock(&session_lock);
    s->number = VERSION == 1 ? ++numbers : cookie;
    s->next = sessions;
    sessions = s;
    pthread_mutex_unlock(&session_lock);
}

uint32_t session_upcall(uint32_t procedure, struct xdr *x)
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
