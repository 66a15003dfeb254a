/* How connections end; what is broken, interrupted, or many. */
#include "calls.h"
#include <stdint.h>

void shut(void) {
    int a, b;
    char data[8];
    tls(&a, &b);
    CHECK(write(a, "end", 3) == 3 && shutdown(a, SHUT_WR) == 0);
    CHECK(gets_type(b, DATA, "end") && read(b, data, 8) == 0);
    CHECK(write(b, "back", 4) == 4 && gets_type(a, DATA, "back"));
    CHECK(FAILS(send(a, "x", 1, MSG_NOSIGNAL), EPIPE));
    end(a, b);
}

void closed(void) {
    int a, b, type, flags = 0;
    char data[8];
    tls(&a, &b);
    CHECK(write(a, "end", 3) == 3 && close(a) == 0);
    CHECK(gets_type(b, DATA, "end"));
    CHECK(receive_type(b, &type, data, 8, &flags) == 0 && type == -1);
    CHECK(is_ready(b, POLLIN, 0) && is_ready(b, POLLRDHUP, 0));
    close(b);
}

void reset_by_the_peer(void) {
    int a, b, type, flags = 0;
    char data[8];
    struct linger now = {1, 0};
    tls(&a, &b);
    CHECK(setsockopt(a, SOL_SOCKET, SO_LINGER, &now, sizeof now) == 0 && close(a) == 0);
    CHECK(FAILS(receive_type(b, &type, data, 8, &flags), ECONNRESET));
    close(b);
}

/* A record on its way: sealed by `*a`, to be handed on to `*d` by `*c` in pieces. */
static ssize_t caught(int *a, int *c, int *d, char *wire, size_t length) {
    int raw;
    tcp(a, &raw);
    tcp(c, d);
    CHECK(ulp(*a) == 0 && key(*a, TLS_TX, TLS_1_3_VERSION, 3) == 0);
    CHECK(ulp(*d) == 0 && key(*d, TLS_RX, TLS_1_3_VERSION, 3) == 0);
    CHECK(write(*a, "hello", 5) == 5);
    ssize_t count = recv(raw, wire, length, 0);
    CHECK(count == 5 + 22);
    close(raw);
    return count;
}

void half_a_record(void) {
    int a, c, d;
    char wire[64], data[8];
    ssize_t count = caught(&a, &c, &d, wire, sizeof wire);
    CHECK(write(c, wire, 20) == 20 && !is_ready(d, POLLIN, 100));
    CHECK(write(c, wire + 20, count - 20) == count - 20 && is_ready(d, POLLIN, 5000));
    CHECK(gets_type(d, DATA, "hello"));
    CHECK(write(c, wire, 20) == 20 && close(c) == 0);
    CHECK(read(d, data, sizeof data) == 0);
    end(a, d);
}

void a_bad_record(void) {
    int a, c, d, type, flags = 0;
    char wire[64], data[8];
    ssize_t count = caught(&a, &c, &d, wire, sizeof wire);
    wire[10] ^= 1;
    CHECK(write(c, wire, count) == count && is_ready(d, POLLIN, 5000));
    CHECK(FAILS(receive_type(d, &type, data, sizeof data, &flags), EBADMSG));
    end(a, c), close(d);
}

static void on_a_signal(int number) { (void)number; }

void a_signal_interrupts(void) {
    int a, b, type, flags = 0;
    char data[8];
    struct sigaction action = {.sa_handler = on_a_signal};
    tls(&a, &b);
    sigaction(SIGALRM, &action, NULL);
    ualarm(50000, 0);
    CHECK(FAILS(receive_type(b, &type, data, 8, &flags), EINTR));
    CHECK(write(a, "on", 2) == 2 && gets_type(b, DATA, "on"));
    end(a, b);
}

void bad_addresses(void) {
    int a, b;
    char control[CMSG_SPACE(1)];
    struct iovec vector = {(void *)8, 64};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    message.msg_control = control, message.msg_controllen = sizeof control;
    tls(&a, &b);
    CHECK(write(a, "kept", 4) == 4 && is_ready(b, POLLIN, 5000));
    CHECK(FAILS(recvmsg(b, (void *)8, 0), EFAULT));
    CHECK(FAILS(recvmsg(b, &message, 0), EFAULT));
    CHECK(gets_type(b, DATA, "kept"));
    vector.iov_len = SIZE_MAX / 4;
    CHECK(FAILS(sendmsg(a, &message, MSG_MORE), EFAULT));
    CHECK(FAILS(send(a, (void *)8, vector.iov_len, MSG_MORE), EFAULT));
    end(a, b);
}

void six(void) {
    int a, b;
    struct sockaddr_in6 name;
    socklen_t length = sizeof name;
    tcp_of(AF_INET6, &a, &b);
    keyed(TLS_1_3_VERSION, a, b);
    CHECK(getpeername(a, (struct sockaddr *)&name, &length) == 0 && length == sizeof name);
    CHECK(name.sin6_family == AF_INET6);
    CHECK(write(a, "six", 3) == 3 && gets_type(b, DATA, "six"));
    end(a, b);
}

void two_hundred(void) {
    enum { MANY = 100 };
    int a[MANY], b[MANY];
    for (int i = 0; i < MANY; i++)
        tls(&a[i], &b[i]);
    for (int i = 0; i < MANY; i++)
        CHECK(write(a[i], "many", 4) == 4 && write(b[i], "more", 4) == 4);
    for (int i = MANY; i--;)
        CHECK(gets_type(b[i], DATA, "many") && gets(a[i], "more"));
    for (int i = 0; i < MANY; i++)
        end(a[i], b[i]);
}

static void *shut_soon(void *argument) {
    usleep(50000);
    CHECK(shutdown(*(int *)argument, SHUT_RD) == 0);
    return NULL;
}

void receives_no_more(void) {
    int a, b, type, flags = 0;
    char data[8];
    pthread_t thread;
    tls(&a, &b);
    pthread_create(&thread, NULL, shut_soon, &b);
    CHECK(receive_type(b, &type, data, sizeof data, &flags) == 0);
    pthread_join(thread, NULL);
    flags = 0;
    CHECK(receive_type(b, &type, data, sizeof data, &flags) == 0);
    CHECK(write(b, "sends", 5) == 5 && gets_type(a, DATA, "sends"));
    end(a, b);
}
