/* Connections, keys and messages: what the cases begin with. */
#include "calls.h"

void tcp_of(int family, int *one, int *other) {
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

void tcp(int *one, int *other) { tcp_of(AF_INET, one, other); }

int ulp(int fd) { return setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof "tls"); }

struct tls12_crypto_info_aes_gcm_128 info_of(int version, int fill) {
    struct tls12_crypto_info_aes_gcm_128 info;
    memset(&info, fill, sizeof info);
    memset(info.rec_seq, 0, sizeof info.rec_seq);
    info.info.version = version;
    info.info.cipher_type = TLS_CIPHER_AES_GCM_128;
    return info;
}

int key(int fd, int direction, int version, int fill) {
    struct tls12_crypto_info_aes_gcm_128 info = info_of(version, fill);
    return setsockopt(fd, SOL_TLS, direction, &info, sizeof info);
}

/* Both ways, with a key for each. */
void keyed(int version, int a, int b) {
    CHECK(ulp(a) == 0 && ulp(b) == 0);
    CHECK(key(a, TLS_TX, version, 1) == 0 && key(b, TLS_RX, version, 1) == 0);
    CHECK(key(b, TLS_TX, version, 2) == 0 && key(a, TLS_RX, version, 2) == 0);
}

void tls(int *a, int *b) {
    tcp(a, b);
    keyed(TLS_1_3_VERSION, *a, *b);
}

void end(int a, int b) {
    close(a);
    close(b);
}

ssize_t send_type(int fd, int type, const void *data, size_t length, int flags) {
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
ssize_t receive_type(int fd, int *type, void *data, size_t length, int *flags) {
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

int gets_type(int fd, int wanted, const char *text) {
    char data[20000];
    int type, flags = 0;
    ssize_t count = receive_type(fd, &type, data, sizeof data, &flags);
    return count == (ssize_t)strlen(text) && type == wanted && !memcmp(data, text, count);
}

int gets(int fd, const char *text) {
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

int is_ready(int fd, int events, int milliseconds) {
    struct pollfd waiting = {fd, events, 0};
    return poll(&waiting, 1, milliseconds) == 1 && (waiting.revents & events);
}
