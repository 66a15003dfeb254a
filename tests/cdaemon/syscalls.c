/* The kernel's system calls. */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "cdaemon.h"

int kernel = -1;
static pthread_mutex_t kernel_lock = PTHREAD_MUTEX_INITIALIZER;

void begin(struct xdr *x, uint32_t number)
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
uint32_t call(struct xdr *x, int *descriptor)
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

uint32_t rpctls_syscall(uint32_t operation, const char *path, int *number, int *descriptor)
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
uint32_t take_socket(uint64_t cookie, int *number, int *descriptor)
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

void call_fd(uint32_t number, int fd, int how)
{
    struct xdr x;
    begin(&x, number);
    put(&x, fd);
    if (number == SYS_SHUTDOWN)
        put(&x, how);
    call(&x, NULL);
}

/* The option's value in `value` (`room` bytes and a NUL); its length, 0 if the kernel has none. */
size_t getsockopt_kernel(int fd, uint32_t level, uint32_t name, char *value, size_t room)
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

uint32_t send_record(int fd, unsigned char type, const void *data, size_t length)
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
void escape(char *to, size_t room, const char *from)
{
    size_t length = 0;
    for (; *from != '\0' && length + 2 < room; from++) {
        if (*from == '"' || *from == '\\')
            to[length++] = '\\';
        to[length++] = *from >= ' ' && *from < 127 ? *from : '?';
    }
    to[length] = '\0';
}

void utrace(const char *format, ...)
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
