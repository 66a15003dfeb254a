/* A socket under several numbers, in several processes. */
#include "calls.h"

void copies(void) {
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

void before_the_key(void) {
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

void passed_on(void) {
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

static void *without_the_first(void *argument) {
    int a, b, epoll = epoll_create1(0);
    struct epoll_event event = {EPOLLIN, {.fd = 7}}, got;
    (void)argument;
    /* A zombie, while the process goes on. */
    char path[64], state = 0;
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", getpid());
    while (state != 'Z') {
        FILE *file = fopen(path, "r");
        if (!file || fscanf(file, "%*d (%*[^)]) %c", &state) != 1)
            _exit(2);
        fclose(file);
    }
    tcp(&a, &b);
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, b, &event) == 0);
    keyed(TLS_1_3_VERSION, a, b);
    CHECK(write(a, "still", 5) == 5);
    CHECK(epoll_wait(epoll, &got, 1, 5000) == 1 && got.data.fd == 7);
    CHECK(gets_type(b, DATA, "still"));
    end(a, b);
    _exit(failed);
}

void a_first_thread_that_ended(void) {
    pthread_t thread;
    int status = -1;
    pid_t child = fork();
    if (!child) {
        alarm(15);
        pthread_create(&thread, NULL, without_the_first, NULL);
        syscall(SYS_exit, 0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}
