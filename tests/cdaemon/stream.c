/* Version 1 of the upcall: ONC RPC on a stream, with this daemon as the server. */
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "cdaemon.h"

void send_reply(const struct upcall *upcall, uint32_t xid, const unsigned char *reply, size_t length)
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

void become_known(const char *path)
{
    int number;
    listener = unix_socket(SOCK_STREAM, path, true);
    if (rpctls_syscall(is_server ? SRVSETPATH : CLSETPATH, path, &number, NULL) != 0)
        die("the kernel does not want another daemon");
}

void serve(void)
{
    for (;;) {
        struct pollfd wait[] = { { listener, POLLIN, 0 }, { kernel, 0, 0 } };
        if (poll(wait, 2, -1) < 0 || wait[1].revents != 0)
            return;
        spawn(serve_stream, (void *)(intptr_t)accept(listener, NULL, NULL));
    }
}
