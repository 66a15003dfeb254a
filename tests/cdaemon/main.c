/* The program. */
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "cdaemon.h"

bool is_server;
uint32_t program;
struct timespec started;

void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("cdaemon: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

void spawn(void *(*work)(void *), void *argument)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, work, argument) != 0)
        die("no more threads");
    pthread_detach(thread);
}

int unix_socket(int kind, const char *path, bool listening)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, kind | SOCK_CLOEXEC, 0), failed;
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    umask(0177);
    failed = listening ? bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 16)
                       : connect(fd, (struct sockaddr *)&address, sizeof address);
    if (failed)
        die("%s: %s", path, strerror(errno));
    return fd;
}

int main(int argc, char **argv)
{
    const char *rundir = getenv("UMKTLS_RUNDIR_HOST");
    char path[100];
    if (rundir == NULL)
        rundir = getenv("UMKTLS_RUNDIR");
    if (argc < 4 || rundir == NULL)
        die("usage: UMKTLS_RUNDIR=DIR cdaemon client|server CERTDIR CAFILE [CRLFILE]");
    is_server = strcmp(argv[1], "server") == 0;
    program = is_server ? 0x40677375 : 0x40677374;
    clock_gettime(CLOCK_REALTIME, &started);
    make_context(argv[2], argv[3], argc > 4 ? argv[4] : NULL);
    snprintf(path, sizeof path, "%s/syscall.sock", rundir);
    kernel = unix_socket(SOCK_SEQPACKET, path, false);
    snprintf(path, sizeof path, "%s/cdaemon-%d.sock", rundir, (int)getpid());
    become_known(path);
    serve();
    unlink(path);
    return 0;
}
