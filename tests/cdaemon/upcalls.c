/* Upcalls and their answers. */
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "cdaemon.h"

static pthread_mutex_t reply_lock = PTHREAD_MUTEX_INITIALIZER;

/* The CONNECT upcall: a session, or NULL and the reterr. `cookie` is version 2's name of the socket. */
static struct session *connect_upcall(uint64_t cookie, uint32_t *reterr)
{
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
    keep_session(s, cookie);
    *reterr = RETERR_OK;
    return s;
}

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

void *serve_upcall(void *argument)
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
