/* setsockopt and getsockopt, and what is still asked of TCP. */
#include "calls.h"

void ulp_errors(void) {
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

void key_errors(void) {
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

void new_key(void) {
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

void tcp_is_still_asked(void) {
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
