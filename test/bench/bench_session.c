/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a look-up in the session table costs, in nanoseconds, with 1 and with 4 processes on a table
 * of 65,536 sessions that all are looked up in random order. The clock moves on as it would at a
 * hundred thousand look-ups a second, so that uses are noted as often as there.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "mcp_clock.h"
#include "mcp_proxy_session.h"

#define SESSIONS 65536
#define OWNERS 1000
#define FINDS 1000000
#define TTL (4 * 3600 * (apr_interval_time_t)APR_USEC_PER_SEC)

static apr_uint64_t next_random(apr_uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static mcp_session_key_t make_key(apr_uint64_t session)
{
    apr_uint64_t words[4], state = session * 2 + 1;
    mcp_session_key_t key;

    words[0] = next_random(&state) * 0x9e3779b97f4a7c15u >> 7;
    words[1] = session;
    words[2] = (session % OWNERS + 1) * 0x9e3779b97f4a7c15u >> 7;
    words[3] = session % OWNERS;
    memcpy(&key, words, sizeof(key));
    return key;
}

static void look_up(mcp_session_table_t *table, const mcp_session_key_t *keys, apr_uint64_t seed)
{
    const apr_time_t start = mcp_clock_now();
    apr_uint64_t state = seed, member;
    int i;

    for (i = 0; i < FINDS; i++) {
        const mcp_session_key_t *key = &keys[next_random(&state) % SESSIONS];

        if (mcp_session_find(table, key, start + i * 10, &member) != APR_SUCCESS) {
            fprintf(stderr, "a session is missing\n");
            _exit(EXIT_FAILURE);
        }
    }
}

static int measure(mcp_session_table_t *table, const mcp_session_key_t *keys, int processes)
{
    const apr_time_t start = mcp_clock_now();
    int i, status, failed = 0;

    for (i = 0; i < processes; i++) {
        if (!fork()) {
            look_up(table, keys, (apr_uint64_t)i + 88172645463325252u);
            _exit(EXIT_SUCCESS);
        }
    }
    for (i = 0; i < processes; i++) {
        wait(&status);
        failed |= status;
    }
    printf("%d process%s: %.0f ns a find\n", processes, processes == 1 ? "" : "es",
           (double)(mcp_clock_now() - start) * 1000 / FINDS / processes);
    return failed;
}

int main(void)
{
    const apr_size_t size = mcp_session_table_size(SESSIONS);
    void *mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    mcp_session_key_t *keys = calloc(SESSIONS, sizeof(*keys));
    mcp_session_table_t *table;
    apr_time_t start;
    int i;

    if (mem == MAP_FAILED || !keys) {
        return EXIT_FAILURE;
    }
    table = mcp_session_table_init(mem, SESSIONS, TTL);
    start = mcp_clock_now();
    for (i = 0; i < SESSIONS; i++) {
        keys[i] = make_key((apr_uint64_t)i);
        mcp_session_learn(table, &keys[i], 1, start);
    }
    printf("%d sessions, %.1f MB: %.0f ns to learn one\n", SESSIONS, (double)size / 1e6,
           (double)(mcp_clock_now() - start) * 1000 / SESSIONS);
    return measure(table, keys, 1) || measure(table, keys, 4) ? EXIT_FAILURE : EXIT_SUCCESS;
}
