/* Every call that writes, record types, much at once, files. */
#include "calls.h"

void ways_to_send(void) {
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

void record_types(void) {
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

void much_with_a_thread(void) {
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

void files(void) {
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

void no_room_in_time(void) {
    int a, b;
    char *data = pattern(200000);
    struct iovec vector = {data, 200000};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    struct timeval little = {0, 50000};
    tls(&a, &b);
    CHECK(setsockopt(a, SOL_SOCKET, SO_SNDTIMEO, &little, sizeof little) == 0);
    ssize_t count;
    while ((count = sendmsg(a, &message, 0)) > 0)
        ;
    CHECK(count == -1 && errno == EAGAIN);
    free(data);
    end(a, b);
}
