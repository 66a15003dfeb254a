/* What a program can do with kernel TLS, by system calls: a program of the tests, which knows
 * nothing of umktls. Each case says "NAME ok", or what was not so. Expectations are Linux's
 * (tools/testing/selftests/net/tls.c has the same subjects; docs/compatibility.md has the rest). */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SOL_TLS
#define SOL_TLS 282
#endif
#ifndef TCP_ULP
#define TCP_ULP 31
#endif
#define DATA 23

static int failed;
#define CHECK(what)                                                              \
    do {                                                                         \
        if (!(what)) {                                                           \
            printf(" [line %d: %s; errno %d]", __LINE__, #what, errno);          \
            failed = 1;                                                          \
        }                                                                        \
    } while (0)
#define FAILS(call, number) (errno = 0, (call) == -1 && errno == (number))

/* ---- connections */

static void tcp_of(int family, int *one, int *other) {
    struct sockaddr_storage address = {.ss_family = family};
    socklen_t length = sizeof address;
    if (family == AF_INET)
        ((struct sockaddr_in *)&address)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    else
        ((struct sockaddr_in6 *)&address)->sin6_addr = in6addr_loopback;
    int server = socket(family, SOCK_STREAM, 0);
    bind(server, (struct sockaddr *)&address, sizeof address);
    listen(server, 5);
    getsockname(server, (struct sockaddr *)&address, &length);
    *one = socket(family, SOCK_STREAM, 0);
    connect(*one, (struct sockaddr *)&address, length);
    *other = accept(server, NULL, NULL);
    close(server);
}

static void tcp(int *one, int *other) { tcp_of(AF_INET, one, other); }

static int ulp(int fd) { return setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof "tls"); }

static struct tls12_crypto_info_aes_gcm_128 info_of(int version, int fill) {
    struct tls12_crypto_info_aes_gcm_128 info;
    memset(&info, fill, sizeof info);
    memset(info.rec_seq, 0, sizeof info.rec_seq);
    info.info.version = version;
    info.info.cipher_type = TLS_CIPHER_AES_GCM_128;
    return info;
}

static int key(int fd, int direction, int version, int fill) {
    struct tls12_crypto_info_aes_gcm_128 info = info_of(version, fill);
    return setsockopt(fd, SOL_TLS, direction, &info, sizeof info);
}

/* Both ways, with a key for each. */
static void keyed(int version, int a, int b) {
    CHECK(ulp(a) == 0 && ulp(b) == 0);
    CHECK(key(a, TLS_TX, version, 1) == 0 && key(b, TLS_RX, version, 1) == 0);
    CHECK(key(b, TLS_TX, version, 2) == 0 && key(a, TLS_RX, version, 2) == 0);
}

static void tls(int *a, int *b) {
    tcp(a, b);
    keyed(TLS_1_3_VERSION, *a, *b);
}

static void end(int a, int b) {
    close(a);
    close(b);
}

/* ---- messages */

static ssize_t send_type(int fd, int type, const void *data, size_t length, int flags) {
    char control[CMSG_SPACE(1)] = {0};
    struct iovec vector = {(void *)data, length};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_TLS;
    header->cmsg_type = TLS_SET_RECORD_TYPE;
    header->cmsg_len = CMSG_LEN(1);
    *CMSG_DATA(header) = type;
    return sendmsg(fd, &message, flags);
}

/* `type` is -1 where no control message came; `flags` goes in and comes out. */
static ssize_t receive_type(int fd, int *type, void *data, size_t length, int *flags) {
    char control[CMSG_SPACE(1)];
    struct iovec vector = {data, length};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    ssize_t count = recvmsg(fd, &message, *flags);
    struct cmsghdr *header = count < 0 ? NULL : CMSG_FIRSTHDR(&message);
    *type = -1;
    if (header && header->cmsg_level == SOL_TLS && header->cmsg_type == TLS_GET_RECORD_TYPE)
        *type = *CMSG_DATA(header);
    *flags = message.msg_flags;
    return count;
}

static int gets_type(int fd, int wanted, const char *text) {
    char data[20000];
    int type, flags = 0;
    ssize_t count = receive_type(fd, &type, data, sizeof data, &flags);
    return count == (ssize_t)strlen(text) && type == wanted && !memcmp(data, text, count);
}

static int gets(int fd, const char *text) {
    char data[20000];
    size_t got = 0, wanted = strlen(text);
    while (got < wanted) {
        ssize_t count = read(fd, data + got, wanted - got);
        if (count <= 0)
            return 0;
        got += count;
    }
    return !memcmp(data, text, wanted);
}

static int is_ready(int fd, int events, int milliseconds) {
    struct pollfd waiting = {fd, events, 0};
    return poll(&waiting, 1, milliseconds) == 1 && (waiting.revents & events);
}

/* ---- cases: options */

static void ulp_errors(void) {
    int a, b, lone = socket(AF_INET, SOCK_STREAM, 0);
    tcp(&a, &b);
    CHECK(FAILS(ulp(lone), ENOTCONN));
    CHECK(FAILS(setsockopt(a, IPPROTO_TCP, TCP_ULP, "none", 4), ENOENT));
    CHECK(FAILS(setsockopt(a, IPPROTO_TCP, TCP_ULP, "tls", 0), EINVAL));
    CHECK(FAILS(setsockopt(a, IPPROTO_TCP, TCP_ULP, (void *)8, 4), EFAULT));
    CHECK(FAILS(key(a, TLS_TX, TLS_1_2_VERSION, 1), ENOPROTOOPT));
    CHECK(ulp(a) == 0);
    CHECK(FAILS(ulp(a), EEXIST));
    char name[16] = "";
    socklen_t length = sizeof name;
    CHECK(getsockopt(a, IPPROTO_TCP, TCP_ULP, name, &length) == 0 && !strcmp(name, "tls"));
    CHECK(write(a, "clear", 5) == 5 && gets(b, "clear"));
    close(lone);
    end(a, b);
}

static void key_errors(void) {
    int a, b;
    tcp(&a, &b);
    ulp(a);
    struct tls12_crypto_info_aes_gcm_128 info = info_of(TLS_1_2_VERSION, 1), other;
    CHECK(FAILS(setsockopt(a, SOL_TLS, TLS_TX, &info, 3), EINVAL));
    CHECK(FAILS(setsockopt(a, SOL_TLS, TLS_TX, &info, sizeof info - 1), EINVAL));
    CHECK(FAILS(setsockopt(a, SOL_TLS, TLS_TX, (void *)8, sizeof info), EFAULT));
    CHECK(FAILS(setsockopt(a, SOL_TLS, 99, &info, sizeof info), ENOPROTOOPT));
    info.info.version = 0x0301;
    CHECK(FAILS(setsockopt(a, SOL_TLS, TLS_TX, &info, sizeof info), EINVAL));
    info.info.version = TLS_1_2_VERSION;
    info.info.cipher_type = 1000;
    CHECK(FAILS(setsockopt(a, SOL_TLS, TLS_TX, &info, sizeof info), EINVAL));
    socklen_t length = sizeof other;
    CHECK(FAILS(getsockopt(a, SOL_TLS, TLS_TX, &other, &length), EBUSY));
    CHECK(key(a, TLS_TX, TLS_1_2_VERSION, 1) == 0);
    CHECK(FAILS(key(a, TLS_TX, TLS_1_2_VERSION, 1), EBUSY));
    CHECK(FAILS(key(a, TLS_RX, TLS_1_3_VERSION, 1), EINVAL));
    length = 4;
    CHECK(getsockopt(a, SOL_TLS, TLS_TX, &other, &length) == 0 && length == 4);
    CHECK(other.info.cipher_type == TLS_CIPHER_AES_GCM_128);
    length = sizeof other - 1;
    CHECK(FAILS(getsockopt(a, SOL_TLS, TLS_TX, &other, &length), EINVAL));
    CHECK(write(a, "x", 1) == 1 && send_type(a, 22, "y", 1, 0) == 1);
    length = sizeof other;
    CHECK(getsockopt(a, SOL_TLS, TLS_TX, &other, &length) == 0 && other.rec_seq[7] == 2);
    end(a, b);
}

static void new_key(void) {
    int a, b;
    tls(&a, &b);
    CHECK(write(a, "old", 3) == 3);
    CHECK(send_type(a, 22, "\x18\0\0\1\0", 5, 0) == 5);
    CHECK(key(a, TLS_TX, TLS_1_3_VERSION, 7) == 0);
    CHECK(write(a, "new", 3) == 3);
    CHECK(gets_type(b, DATA, "old"));
    char data[64];
    int type, flags = 0;
    CHECK(receive_type(b, &type, data, sizeof data, &flags) == 5 && type == 22);
    flags = 0;
    CHECK(FAILS(receive_type(b, &type, data, sizeof data, &flags), EKEYEXPIRED));
    CHECK(!is_ready(b, POLLIN, 50));
    CHECK(key(b, TLS_RX, TLS_1_3_VERSION, 7) == 0);
    CHECK(is_ready(b, POLLIN, 5000));
    CHECK(gets_type(b, DATA, "new"));
    end(a, b);
}

static void tcp_is_still_asked(void) {
    int a, b, value = 0;
    struct sockaddr_in was_name, was_peer, name, peer;
    socklen_t length = sizeof name;
    tcp(&a, &b);
    getsockname(a, (struct sockaddr *)&was_name, &length);
    getpeername(a, (struct sockaddr *)&was_peer, &length);
    keyed(TLS_1_2_VERSION, a, b);
    CHECK(getsockname(a, (struct sockaddr *)&name, &length) == 0 && length == sizeof name);
    CHECK(getpeername(a, (struct sockaddr *)&peer, &length) == 0);
    CHECK(!memcmp(&name, &was_name, sizeof name) && !memcmp(&peer, &was_peer, sizeof peer));
    value = 1, length = sizeof value;
    CHECK(setsockopt(a, IPPROTO_TCP, TCP_NODELAY, &value, sizeof value) == 0);
    CHECK(setsockopt(a, IPPROTO_TCP, TCP_CORK, &value, sizeof value) == 0);
    value = 0;
    CHECK(getsockopt(a, IPPROTO_TCP, TCP_CORK, &value, &length) == 0 && value == 1);
    CHECK(getsockopt(a, SOL_SOCKET, SO_DOMAIN, &value, &length) == 0 && value == AF_INET);
    CHECK(getsockopt(a, SOL_SOCKET, SO_PROTOCOL, &value, &length) == 0 && value == IPPROTO_TCP);
    CHECK(getsockopt(a, SOL_SOCKET, SO_ERROR, &value, &length) == 0 && value == 0);
    length = 0;
    CHECK(getsockopt(a, IPPROTO_TCP, TCP_NODELAY, &value, &length) == 0 && length == 0);
    struct tcp_info info;
    length = sizeof info;
    CHECK(getsockopt(a, IPPROTO_TCP, TCP_INFO, &info, &length) == 0);
    CHECK(info.tcpi_state == TCP_ESTABLISHED);
    value = 0;
    setsockopt(a, IPPROTO_TCP, TCP_CORK, &value, sizeof value);
    CHECK(write(a, "12345", 5) == 5 && is_ready(b, POLLIN, 5000));
    CHECK(ioctl(b, FIONREAD, &value) == 0 && value == 5 + 29);
    end(a, b);
}

/* ---- cases: sending */

static void ways_to_send(void) {
    int a, b;
    tls(&a, &b);
    struct iovec vector[2] = {{"wri", 3}, {"tev", 3}};
    CHECK(write(a, "write", 5) == 5 && gets(b, "write"));
    CHECK(writev(a, vector, 2) == 6 && gets(b, "writev"));
    CHECK(send(a, "send", 4, MSG_NOSIGNAL) == 4 && gets(b, "send"));
    CHECK(send(a, "mo", 2, MSG_MORE) == 2 && send(a, "re", 2, 0) == 2 && gets(b, "more"));
    CHECK(send(a, "wi", 2, MSG_MORE) == 2 && write(a, "th", 2) == 2 && gets_type(b, DATA, "with"));
    CHECK(send(a, "open", 4, MSG_MORE) == 4 && !is_ready(b, POLLIN, 50));
    CHECK(send_type(a, 22, "type", 4, 0) == 4);
    CHECK(gets_type(b, DATA, "open") && gets_type(b, 22, "type"));
    CHECK(send(a, "eor", 3, MSG_EOR) == 3 && gets(b, "eor"));
    CHECK(send(a, "", 0, 0) == 0);
    struct msghdr message = {.msg_iov = vector, .msg_iovlen = 2};
    CHECK(sendmsg(a, &message, 0) == 6 && gets(b, "writev"));
    CHECK(FAILS(send(a, "x", 1, MSG_OOB), EOPNOTSUPP));
    CHECK(FAILS(send(a, "x", 1, MSG_MORE | MSG_EOR), EINVAL));
    end(a, b);
}

static void record_types(void) {
    int a, b;
    tls(&a, &b);
    CHECK(write(a, "first", 5) == 5);
    CHECK(send_type(a, 22, "hand", 4, 0) == 4);
    CHECK(send_type(a, 22, "shake", 5, 0) == 5);
    CHECK(write(a, "last", 4) == 4);
    CHECK(send_type(a, 100, "?", 1, 0) == 1);
    CHECK(gets_type(b, DATA, "first"));
    CHECK(gets_type(b, 22, "hand") && gets_type(b, 22, "shake"));
    CHECK(gets_type(b, DATA, "last"));
    CHECK(gets_type(b, 100, "?"));
    char control[CMSG_SPACE(1)] = {0};
    struct msghdr message = {.msg_control = control, .msg_controllen = sizeof control};
    CMSG_FIRSTHDR(&message)->cmsg_len = CMSG_LEN(1);
    CMSG_FIRSTHDR(&message)->cmsg_level = SOL_TLS;
    CMSG_FIRSTHDR(&message)->cmsg_type = 77;
    CHECK(FAILS(sendmsg(a, &message, 0), EINVAL));
    CHECK(FAILS(send_type(a, 22, "x", 1, MSG_MORE), EINVAL));
    message.msg_control = (void *)8;
    CHECK(FAILS(sendmsg(a, &message, 0), EFAULT));
    end(a, b);
}

static void *read_all(void *argument) {
    int *two = argument; /* a descriptor, and how many bytes are to come; then how many did */
    char *data = malloc(65536);
    int got = 0;
    while (got < two[1]) {
        ssize_t count = read(two[0], data, 65536);
        if (count <= 0)
            break;
        for (ssize_t i = 0; i < count; i++)
            if (data[i] != (char)((got + i) % 251))
                count = -1;
        if (count < 0)
            break;
        got += count;
    }
    free(data);
    two[1] = got;
    return NULL;
}

static char *pattern(int length) {
    char *data = malloc(length);
    for (int i = 0; i < length; i++)
        data[i] = i % 251;
    return data;
}

static void much_with_a_thread(void) {
    enum { MUCH = 3000000 };
    int a, b;
    tls(&a, &b);
    int two[2] = {b, MUCH}, sent = 0;
    char *data = pattern(MUCH);
    pthread_t thread;
    pthread_create(&thread, NULL, read_all, two);
    while (sent < MUCH) {
        ssize_t count = write(a, data + sent, MUCH - sent);
        CHECK(count > 0);
        sent += count;
    }
    pthread_join(thread, NULL);
    CHECK(two[1] == MUCH);
    free(data);
    end(a, b);
}

static void files(void) {
    enum { SIZE = 100000 };
    int a, b, ends[2];
    tls(&a, &b);
    char *data = pattern(SIZE), name[] = "callsXXXXXX";
    int file = mkstemp(name);
    unlink(name);
    CHECK(write(file, data, SIZE) == SIZE);
    off_t offset = 0;
    int two[2] = {b, SIZE};
    CHECK(sendfile(a, file, &offset, SIZE) == SIZE);
    read_all(two);
    CHECK(two[1] == SIZE);
    CHECK(pipe(ends) == 0 && write(ends[1], "into", 4) == 4);
    CHECK(splice(ends[0], NULL, a, NULL, 4, 0) == 4 && gets(b, "into"));
    CHECK(write(b, "out of", 6) == 6);
    CHECK(splice(a, NULL, ends[1], NULL, 100, 0) == 6 && gets(ends[0], "out of"));
    close(ends[0]), close(ends[1]), close(file);
    free(data);
    end(a, b);
}

/* ---- cases: receiving */

static void ways_to_receive(void) {
    int a, b, type, flags;
    char data[64] = "", more[64] = "";
    struct iovec vector[2] = {{data, 2}, {more, 60}};
    tls(&a, &b);
    CHECK(write(a, "readv", 5) == 5 && readv(b, vector, 2) == 5 && !memcmp(more, "adv", 3));
    CHECK(write(a, "recv", 4) == 4 && recv(b, data, 64, 0) == 4 && !memcmp(data, "recv", 4));
    CHECK(write(a, "peek", 4) == 4 && recv(b, data, 64, MSG_PEEK) == 4);
    CHECK(recv(b, data, 2, MSG_PEEK) == 2 && !memcmp(data, "pe", 2));
    CHECK(gets_type(b, DATA, "peek"));
    CHECK(write(a, "partly", 6) == 6);
    flags = 0;
    CHECK(receive_type(b, &type, data, 4, &flags) == 4 && type == DATA && !(flags & MSG_EOR));
    CHECK(is_ready(b, POLLIN, 0));
    flags = 0;
    CHECK(receive_type(b, &type, data, 4, &flags) == 2 && type == DATA && (flags & MSG_EOR));
    CHECK(FAILS(recv(b, data, 64, MSG_DONTWAIT), EAGAIN));
    CHECK(FAILS(recv(b, data, 64, MSG_DONTWAIT | MSG_PEEK), EAGAIN));
    flags = MSG_DONTWAIT;
    CHECK(FAILS(receive_type(b, &type, data, 64, &flags), EAGAIN));
    CHECK(write(a, "12", 2) == 2 && write(a, "34", 2) == 2);
    CHECK(recv(b, data, 4, MSG_WAITALL) == 4 && !memcmp(data, "1234", 4));
    struct timeval little = {0, 50000};
    setsockopt(b, SOL_SOCKET, SO_RCVTIMEO, &little, sizeof little);
    CHECK(FAILS(recv(b, data, 64, 0), EAGAIN));
    flags = 0;
    CHECK(FAILS(receive_type(b, &type, data, 64, &flags), EAGAIN));
    CHECK(fcntl(b, F_SETFL, O_NONBLOCK) == 0);
    CHECK(FAILS(read(b, data, 64), EAGAIN));
    flags = 0;
    CHECK(FAILS(receive_type(b, &type, data, 64, &flags), EAGAIN));
    end(a, b);
}

static void control_records_need_room(void) {
    int a, b;
    char data[64];
    struct iovec vector = {data, sizeof data};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    tls(&a, &b);
    CHECK(send_type(a, 21, "\1\0", 2, 0) == 2 && is_ready(b, POLLIN, 5000));
    CHECK(FAILS(recvmsg(b, &message, 0), EIO));
    CHECK(FAILS(recv(b, data, sizeof data, MSG_PEEK), EIO));
    int type, flags = 0;
    CHECK(receive_type(b, &type, data, sizeof data, &flags) == 2 && type == 21);
    end(a, b);
}

static void *write_soon(void *argument) {
    usleep(50000);
    CHECK(write(*(int *)argument, "late", 4) == 4);
    return NULL;
}

static void waiting_for_data(void) {
    int a, b, type, flags;
    char data[64];
    pthread_t thread;
    tls(&a, &b);
    for (int way = 0; way < 5; way++) {
        struct timeval seconds = {5, 0};
        struct timespec also = {5, 0};
        struct pollfd waiting = {b, POLLIN, 0};
        fd_set set;
        FD_ZERO(&set);
        FD_SET(b, &set);
        pthread_create(&thread, NULL, write_soon, &a);
        if (way == 0)
            CHECK(poll(&waiting, 1, 5000) == 1 && waiting.revents == POLLIN);
        if (way == 1)
            CHECK(ppoll(&waiting, 1, &also, NULL) == 1);
        if (way == 2)
            CHECK(select(b + 1, &set, NULL, NULL, &seconds) == 1 && FD_ISSET(b, &set));
        flags = 0;
        if (way == 4) /* nothing but read */
            CHECK(read(b, data, sizeof data) == 4);
        else
            CHECK(receive_type(b, &type, data, sizeof data, &flags) == 4 && type == DATA);
        pthread_join(thread, NULL);
        CHECK(!is_ready(b, POLLIN, 0) && is_ready(b, POLLOUT, 0));
    }
    end(a, b);
}

static void epoll_of(int edges, int before) {
    int a, b, type, flags, epoll = epoll_create1(0);
    char data[64];
    struct epoll_event event = {EPOLLIN | edges, {.u64 = 0x1122334455667788}}, got;
    tcp(&a, &b);
    if (before)
        CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, b, &event) == 0);
    keyed(TLS_1_3_VERSION, a, b);
    if (!before)
        CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, b, &event) == 0);
    CHECK(epoll_wait(epoll, &got, 1, 0) == 0);
    for (int round = 0; round < 3; round++) {
        CHECK(write(a, "12345678", 8) == 8);
        CHECK(epoll_wait(epoll, &got, 1, 5000) == 1 && got.data.u64 == event.data.u64);
        flags = 0;
        CHECK(receive_type(b, &type, data, 4, &flags) == 4);
        CHECK(epoll_wait(epoll, &got, 1, 50) == (edges ? 0 : 1));
        flags = 0;
        CHECK(receive_type(b, &type, data, 4, &flags) == 4);
        CHECK(epoll_wait(epoll, &got, 1, 50) == 0);
    }
    event.events = EPOLLOUT;
    CHECK(epoll_ctl(epoll, EPOLL_CTL_MOD, b, &event) == 0);
    CHECK(epoll_wait(epoll, &got, 1, 5000) == 1 && (got.events & EPOLLOUT));
    CHECK(epoll_ctl(epoll, EPOLL_CTL_DEL, b, &event) == 0);
    close(epoll);
    end(a, b);
}

static void epoll_levels(void) { epoll_of(0, 0); }
static void epoll_levels_from_before(void) { epoll_of(0, 1); }
static void epoll_edges(void) { epoll_of(EPOLLET, 0); }
static void epoll_edges_from_before(void) { epoll_of(EPOLLET, 1); }

/* ---- cases: sharing */

static void copies(void) {
    int a, b, other, status;
    tls(&a, &b);
    other = dup(a);
    close(a);
    CHECK(write(other, "dup", 3) == 3 && gets_type(b, DATA, "dup"));
    if (!fork()) {
        int good = write(other, "fork", 4) == 4 && send_type(other, 22, "ed", 2, 0) == 2;
        _exit(good ? 0 : 1);
    }
    CHECK(wait(&status) > 0 && status == 0);
    CHECK(gets_type(b, DATA, "fork") && gets_type(b, 22, "ed"));
    end(other, b);
}

static void before_the_key(void) {
    int a, b, other;
    tcp(&a, &b);
    other = dup(a);
    fcntl(other, F_SETFD, FD_CLOEXEC);
    fcntl(a, F_SETFL, O_NONBLOCK);
    keyed(TLS_1_2_VERSION, a, b);
    CHECK(fcntl(other, F_GETFD) == FD_CLOEXEC && fcntl(a, F_GETFD) == 0);
    CHECK(fcntl(other, F_GETFL) & O_NONBLOCK);
    close(a);
    CHECK(write(other, "dup", 3) == 3 && gets_type(b, DATA, "dup"));
    end(other, b);
}

static void passed_on(void) {
    int a, b, pair[2], status;
    char control[CMSG_SPACE(sizeof(int))] = {0}, byte = 'x';
    struct iovec vector = {&byte, 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    message.msg_control = control, message.msg_controllen = sizeof control;
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    pid_t child = fork(); /* before there is a socket */
    if (!child) {
        int fd;
        if (recvmsg(pair[1], &message, 0) != 1)
            _exit(1);
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
        _exit(write(fd, "passed", 6) == 6 && send_type(fd, 22, "on", 2, 0) == 2 ? 0 : 2);
    }
    tls(&a, &b);
    CMSG_FIRSTHDR(&message)->cmsg_level = SOL_SOCKET;
    CMSG_FIRSTHDR(&message)->cmsg_type = SCM_RIGHTS;
    CMSG_FIRSTHDR(&message)->cmsg_len = CMSG_LEN(sizeof a);
    memcpy(CMSG_DATA(CMSG_FIRSTHDR(&message)), &a, sizeof a);
    CHECK(sendmsg(pair[0], &message, 0) == 1);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(gets_type(b, DATA, "passed") && gets_type(b, 22, "on"));
    close(pair[0]), close(pair[1]);
    end(a, b);
}

/* ---- cases: ends */

static void shut(void) {
    int a, b;
    char data[8];
    tls(&a, &b);
    CHECK(write(a, "end", 3) == 3 && shutdown(a, SHUT_WR) == 0);
    CHECK(gets_type(b, DATA, "end") && read(b, data, 8) == 0);
    CHECK(write(b, "back", 4) == 4 && gets_type(a, DATA, "back"));
    CHECK(FAILS(send(a, "x", 1, MSG_NOSIGNAL), EPIPE));
    end(a, b);
}

static void closed(void) {
    int a, b, type, flags = 0;
    char data[8];
    tls(&a, &b);
    CHECK(write(a, "end", 3) == 3 && close(a) == 0);
    CHECK(gets_type(b, DATA, "end"));
    CHECK(receive_type(b, &type, data, 8, &flags) == 0 && type == -1);
    CHECK(is_ready(b, POLLIN, 0) && is_ready(b, POLLRDHUP, 0));
    close(b);
}

static void reset_by_the_peer(void) {
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

static void half_a_record(void) {
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

static void a_bad_record(void) {
    int a, c, d, type, flags = 0;
    char wire[64], data[8];
    ssize_t count = caught(&a, &c, &d, wire, sizeof wire);
    wire[10] ^= 1;
    CHECK(write(c, wire, count) == count && is_ready(d, POLLIN, 5000));
    CHECK(FAILS(receive_type(d, &type, data, sizeof data, &flags), EBADMSG));
    end(a, c), close(d);
}

static void on_a_signal(int number) { (void)number; }

static void a_signal_interrupts(void) {
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

static void bad_addresses(void) {
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
    end(a, b);
}

static void six(void) {
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

static void two_hundred(void) {
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

#define CASE(name) {#name, name}
static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    CASE(ulp_errors), CASE(key_errors), CASE(new_key), CASE(tcp_is_still_asked),
    CASE(ways_to_send), CASE(record_types), CASE(much_with_a_thread), CASE(files),
    CASE(ways_to_receive), CASE(control_records_need_room), CASE(waiting_for_data),
    CASE(epoll_levels), CASE(epoll_levels_from_before), CASE(epoll_edges),
    CASE(epoll_edges_from_before), CASE(copies), CASE(before_the_key), CASE(passed_on),
    CASE(shut), CASE(closed), CASE(reset_by_the_peer), CASE(half_a_record), CASE(a_bad_record),
    CASE(a_signal_interrupts), CASE(bad_addresses), CASE(six), CASE(two_hundred),
};

int main(int count, char **names) {
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IONBF, 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (count > 1 && strcmp(names[1], cases[i].name))
            continue;
        failed = 0;
        printf("%s", cases[i].name);
        alarm(20);
        cases[i].run();
        alarm(0);
        printf(failed ? "\n" : " ok\n");
    }
    return 0;
}
