/* What a program can do with kernel TLS, by system calls: a program of the tests, which knows
 * nothing of umktls. Each case says "NAME ok", or what was not so. Expectations are Linux's
 * (tools/testing/selftests/net/tls.c has the same subjects; docs/compatibility.md has the rest). */
#include "calls.h"

int failed;

#define CASE(name) {#name, name}
static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    CASE(ulp_errors), CASE(key_errors), CASE(new_key), CASE(tcp_is_still_asked),
    CASE(ways_to_send), CASE(record_types), CASE(much_with_a_thread), CASE(no_room_in_time), CASE(files),
    CASE(ways_to_receive), CASE(several_at_once), CASE(control_records_need_room), CASE(waiting_for_data),
    CASE(epoll_levels), CASE(epoll_levels_from_before), CASE(epoll_edges),
    CASE(epoll_edges_from_before), CASE(a_first_thread_that_ended), CASE(copies), CASE(before_the_key), CASE(passed_on),
    CASE(shut), CASE(receives_no_more), CASE(closed), CASE(reset_by_the_peer), CASE(half_a_record), CASE(a_bad_record),
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
