/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two segments of anonymous shared memory. The first has a fixed size and holds what streams that
 * are open need, so it must be the same one before and after a graceful restart; the second, with
 * the buckets, is made anew when the configured size changes.
 */
#include "mcp_rl_shared.h"

#include <apr_general.h>
#include <apr_strings.h>
#include <stdio.h>
#include <string.h>

#include "mcp_lasting.h"

#define MAIN_KEY "mcp_ratelimit.main/2"
#define TABLE_KEY "mcp_ratelimit.table/2"
#define ROWS 32768
#define ALIGN 64

typedef struct main_t {
    unsigned char secret[MCP_RL_SECRET];
    char store_name[256];
    mcp_breaker_t breaker;
    mcp_rl_epoch_t epoch;
    mcp_rl_counters_t counters;
} main_t;

static apr_size_t aligned(apr_size_t size)
{
    return (size + ALIGN - 1) / ALIGN * ALIGN;
}

static apr_status_t make_instance(char *text)
{
    unsigned char random[8];
    apr_status_t rv = apr_generate_random_bytes(random, sizeof(random));
    apr_size_t i;

    for (i = 0; i < sizeof(random); i++) {
        snprintf(text + 2 * i, 3, "%02x", random[i]);
    }
    return rv;
}

static apr_status_t open_main(mcp_rl_shared_t *s, const char *store_name, apr_pool_t *process)
{
    apr_size_t deny_at = aligned(sizeof(main_t));
    apr_size_t purses_at = deny_at + aligned(mcp_rl_deny_size());
    apr_size_t leases_at = purses_at + aligned(mcp_rl_purses_size());
    char instance[20];
    main_t *main;
    void *mem;
    int is_new;
    apr_status_t rv = mcp_lasting_memory(&mem, &is_new, MAIN_KEY,
                                         leases_at + mcp_rl_leases_size(ROWS), process);

    if (rv != APR_SUCCESS) {
        return rv;
    }
    main = mem;
    s->counters = &main->counters;
    s->breaker = &main->breaker;
    s->epoch = &main->epoch;
    s->deny = mcp_rl_deny_at((char *)mem + deny_at);
    s->purses = mcp_rl_purses_at((char *)mem + purses_at);
    s->leases = mcp_rl_leases_at((char *)mem + leases_at);
    if (is_new) {
        rv = apr_generate_random_bytes(main->secret, sizeof(main->secret));
        if (rv == APR_SUCCESS) {
            rv = make_instance(instance);
        }
        if (rv == APR_SUCCESS) {
            rv = mcp_rl_leases_init(&s->leases, s->leases, ROWS, instance);
        }
    }
    mcp_rl_set_secret(main->secret);
    if (strncmp(main->store_name, store_name, sizeof(main->store_name) - 1) != 0) {
        memset(&main->breaker, 0, sizeof(main->breaker));
        memset(&main->epoch, 0, sizeof(main->epoch));
        apr_cpystrn(main->store_name, store_name, sizeof(main->store_name));
    }
    return rv;
}

apr_status_t mcp_rl_shared_open(mcp_rl_shared_t **shared, apr_int64_t entries,
                                const char *store_name, apr_pool_t *process, apr_pool_t *p)
{
    mcp_rl_shared_t *s = apr_pcalloc(p, sizeof(*s));
    const char *key = apr_psprintf(p, "%s:%" APR_INT64_T_FMT, TABLE_KEY, entries);
    void *mem;
    int is_new;
    apr_status_t rv = open_main(s, store_name, process);

    if (rv == APR_SUCCESS) {
        rv = mcp_lasting_memory(&mem, &is_new, key, mcp_rl_shm_size(entries), process);
    }
    if (rv == APR_SUCCESS) {
        s->shm = mcp_rl_shm_at(mem);
        if (is_new) {
            rv = mcp_rl_shm_init(&s->shm, mem, entries);
        }
    }
    *shared = s;
    return rv;
}
