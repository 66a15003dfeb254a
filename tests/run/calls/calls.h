/* What the files of this program share. Begin with main.c. */
#ifndef CALLS_H
#define CALLS_H

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
#include <sys/syscall.h>
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

extern int failed;
#define CHECK(what)                                                              \
    do {                                                                         \
        if (!(what)) {                                                           \
            printf(" [%s, line %d: %s; errno %d]", __FILE__, __LINE__, #what, errno);          \
            failed = 1;                                                          \
        }                                                                        \
    } while (0)
#define FAILS(call, number) (errno = 0, (call) == -1 && errno == (number))

void tcp_of(int family, int *one, int *other);
void tcp(int *one, int *other);
int ulp(int fd);
struct tls12_crypto_info_aes_gcm_128 info_of(int version, int fill);
int key(int fd, int direction, int version, int fill);
void keyed(int version, int a, int b);
void tls(int *a, int *b);
void end(int a, int b);
ssize_t send_type(int fd, int type, const void *data, size_t length, int flags);
ssize_t receive_type(int fd, int *type, void *data, size_t length, int *flags);
int gets_type(int fd, int wanted, const char *text);
int gets(int fd, const char *text);
int is_ready(int fd, int events, int milliseconds);
void ulp_errors(void);
void key_errors(void);
void new_key(void);
void tcp_is_still_asked(void);
void ways_to_send(void);
void record_types(void);
void much_with_a_thread(void);
void no_room_in_time(void);
void files(void);
void ways_to_receive(void);
void several_at_once(void);
void control_records_need_room(void);
void waiting_for_data(void);
void epoll_levels(void);
void epoll_levels_from_before(void);
void epoll_edges(void);
void epoll_edges_from_before(void);
void copies(void);
void a_first_thread_that_ended(void);
void before_the_key(void);
void passed_on(void);
void shut(void);
void receives_no_more(void);
void closed(void);
void reset_by_the_peer(void);
void half_a_record(void);
void a_bad_record(void);
void a_signal_interrupts(void);
void bad_addresses(void);
void six(void);
void two_hundred(void);

#endif
