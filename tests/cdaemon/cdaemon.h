/*
 * A handshake daemon in C, made from docs/wire.md: both roles, TLS 1.3 by OpenSSL.
 *
 *   cdaemon client|server CERTDIR CAFILE [CRLFILE]
 *
 * The run directory is in UMKTLS_RUNDIR_HOST or UMKTLS_RUNDIR. CERTDIR has cert.pem and certkey.pem.
 *
 * OpenSSL is needed for the handshake only. It works on memory BIOs, fed one TLS record at a time, so
 * that nothing is read too far. Both sequence numbers are then 0: a server here sends no tickets
 * (SSL_CTX_set_num_tickets), and a client has not read the server's yet. After the handshake the traffic
 * secrets from the key log callback are all that is left: they are enough for key updates, and alerts
 * are two bytes that the kernel seals.
 *
 * Compiled with -DVERSION=2 it speaks version 2 of the upcall, with netlink.c; otherwise 1, with stream.c.
 *
 * Threads: one per upcall. `kernel_lock` makes a system call and its answer one step; `session_lock` makes
 * the handling of a session's record, rekeying or end one step.
 */
#ifndef CDAEMON_H
#define CDAEMON_H

#include <openssl/evp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#ifndef VERSION
#define VERSION 1
#endif

enum { SYS_CLOSE = 6, SYS_RECVMSG = 27, SYS_SENDMSG = 28, SYS_SETSOCKOPT = 105, SYS_GETSOCKOPT = 118,
       SYS_SHUTDOWN = 134, SYS_UTRACE = 335, SYS_RPCTLS = 576, SYS_RPCTLS_15 = 1002 };
enum { CLSETPATH = 1, CLSOCKET = 2, SRVSETPATH = 4, SRVSOCKET = 5 };
enum { TXTLS_ENABLE = 39, TXTLS_MODE = 40, RXTLS_ENABLE = 41, RXTLS_MODE = 42, TCP = 6 };
enum { SOL_UMKTLS = 0x756D6B74, PEERNAME = 1, XPRTSEC = 2, DEADLINE = 3 };
enum { ALERT = 21, HANDSHAKE = 22, KEY_UPDATE = 24, DONTWAIT = 0x80 };
enum { CONNECT = 1, HANDLERECORD = 2, DISCONNECT = 3, REKEY = 4 };
enum { RETERR_OK = 0, NOCLOSE = 1, NOSSL = 2, NOSOCKET = 3 };
enum { FLAG_HANDSHAKE = 1, FLAG_GOTCERT = 2, FLAG_VERIFIED = 8 };
enum { PROC_UNAVAIL = 3, PROG_UNAVAIL = 1, MESSAGE = 9000, RECORD = 5 + 16384 + 256 };

/* A buffer for XDR: it is written at its end and read from `at`. `bad` once it was read too far. */
struct xdr {
    unsigned char data[20480];
    size_t length, at;
    bool bad;
};

struct session {
    uint64_t number;
    int fd;
    const EVP_MD *hash;
    uint32_t algorithm, key_length;
    unsigned char tx[EVP_MAX_MD_SIZE], rx[EVP_MAX_MD_SIZE];
    bool said_goodbye, verified;
    struct session *next;
};

struct upcall {
    int stream;
    struct xdr message;
};

/* main.c */
extern bool is_server;
extern uint32_t program;
extern struct timespec started; /* names this daemon's sessions in version 1 */
void die(const char *format, ...);
void spawn(void *(*work)(void *), void *argument);
int unix_socket(int kind, const char *path, bool listening);

/* xdr.c */
void put(struct xdr *x, uint32_t value);
void put_hyper(struct xdr *x, uint64_t value);
void put_opaque(struct xdr *x, const void *data, size_t length);
uint32_t get(struct xdr *x);
uint64_t get_hyper(struct xdr *x);
const unsigned char *get_opaque(struct xdr *x, size_t *length);

/* syscalls.c */
extern int kernel;
void begin(struct xdr *x, uint32_t number);
uint32_t call(struct xdr *x, int *descriptor);
uint32_t rpctls_syscall(uint32_t operation, const char *path, int *number, int *descriptor);
uint32_t take_socket(uint64_t cookie, int *number, int *descriptor);
void call_fd(uint32_t number, int fd, int how);
size_t getsockopt_kernel(int fd, uint32_t level, uint32_t name, char *value, size_t room);
uint32_t send_record(int fd, unsigned char type, const void *data, size_t length);
void escape(char *to, size_t room, const char *from);
void utrace(const char *format, ...);

/* session.c */
uint32_t enable(const struct session *s, uint32_t option, const unsigned char *secret);
void keep_session(struct session *s, uint64_t cookie);
uint32_t session_upcall(uint32_t procedure, struct xdr *x);

/* handshake.c */
void make_context(const char *certdir, const char *cafile, const char *crlfile);
const char *establish(struct session *s, int descriptor);

/* upcalls.c */
void *serve_upcall(void *argument);

/* stream.c in version 1, netlink.c in version 2 */
void become_known(const char *path);
void serve(void);
void send_reply(const struct upcall *upcall, uint32_t xid, const unsigned char *reply, size_t length);

#endif
