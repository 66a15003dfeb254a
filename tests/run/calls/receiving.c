/* Every call that reads, and every way to wait for data. */
#include "calls.h"

void ways_to_receive(void) {
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

void control_records_need_room(void) {
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

/* sendmmsg and recvmmsg: each message is as by itself, and may be the only one that is done. */
void several_at_once(void) {
    int a, b;
    char data[64], control[CMSG_SPACE(1)] = {0};
    pthread_t thread;
    struct iovec in = {data, sizeof data}, out[2] = {{"data", 4}, {"hand", 4}};
    struct mmsghdr received[2] = {{{.msg_iov = &in, .msg_iovlen = 1}, 0}};
    struct mmsghdr sent[2] = {{{.msg_iov = &out[0], .msg_iovlen = 1}, 0},
                              {{.msg_iov = &out[1], .msg_iovlen = 1}, 0}};
    sent[1].msg_hdr.msg_control = control, sent[1].msg_hdr.msg_controllen = sizeof control;
    *CMSG_FIRSTHDR(&sent[1].msg_hdr) = (struct cmsghdr){CMSG_LEN(1), SOL_TLS, TLS_SET_RECORD_TYPE};
    *CMSG_DATA(CMSG_FIRSTHDR(&sent[1].msg_hdr)) = 22;
    tls(&a, &b);
    for (int done = 0, count; done < 2; done += count) {
        count = sendmmsg(a, sent + done, 2 - done, 0);
        CHECK(count > 0 && sent[done].msg_len == 4);
        if (count <= 0)
            break;
    }
    CHECK(gets_type(b, DATA, "data") && gets_type(b, 22, "hand"));
    pthread_create(&thread, NULL, write_soon, &a);
    CHECK(recvmmsg(b, received, 1, 0, NULL) == 1 && received[0].msg_len == 4);
    CHECK(!memcmp(data, "late", 4));
    pthread_join(thread, NULL);
    end(a, b);
}

void waiting_for_data(void) {
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

void epoll_levels(void) { epoll_of(0, 0); }
void epoll_levels_from_before(void) { epoll_of(0, 1); }
void epoll_edges(void) { epoll_of(EPOLLET, 0); }
void epoll_edges_from_before(void) { epoll_of(EPOLLET, 1); }
