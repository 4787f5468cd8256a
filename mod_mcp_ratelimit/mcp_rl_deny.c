/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The deny cache: sets of four rows. A row has a sequence number, odd while somebody writes it;
 * readers never wait, and a writer that finds a row busy lets it be. The rule's numbers are mixed
 * into what a row is found by, so that a changed configuration starts with a clean table.
 */
#include "mcp_rl_deny.h"

#include <string.h>

#define SETS 8192
#define WAYS 4
/* A slot may come free on another machine at any moment. */
#define SLOT_TTL apr_time_from_msec(250)

typedef struct row_t {
    apr_uint32_t sequence;
    apr_uint32_t reserved;
    apr_uint64_t key[2];
    apr_time_t until;
    apr_time_t reset_at;
    apr_time_t retry_at;
} row_t;

struct mcp_rl_deny_t {
    row_t rows[SETS][WAYS];
};

apr_size_t mcp_rl_deny_size(void)
{
    return sizeof(mcp_rl_deny_t);
}

mcp_rl_deny_t *mcp_rl_deny_at(void *mem)
{
    return mem;
}

static void key_of(const mcp_rl_ask_t *ask, apr_uint64_t key[2])
{
    const mcp_rl_rule_t *rule = ask->rule;

    memcpy(key, ask->digest, MCP_RL_DIGEST);
    key[1] ^= (apr_uint64_t)rule->amount * 0x9e3779b97f4a7c15u;
    key[1] ^= (apr_uint64_t)rule->period * 0xc2b2ae3d27d4eb4fu;
    key[1] ^= (apr_uint64_t)rule->burst * 0x165667b19e3779f9u;
    key[1] ^= (apr_uint64_t)rule->block * 0x27d4eb2f165667c5u;
}

static int read_row(const row_t *row, row_t *copy)
{
    copy->sequence = __atomic_load_n(&row->sequence, __ATOMIC_ACQUIRE);
    copy->key[0] = __atomic_load_n(&row->key[0], __ATOMIC_RELAXED);
    copy->key[1] = __atomic_load_n(&row->key[1], __ATOMIC_RELAXED);
    copy->until = __atomic_load_n(&row->until, __ATOMIC_RELAXED);
    copy->reset_at = __atomic_load_n(&row->reset_at, __ATOMIC_RELAXED);
    copy->retry_at = __atomic_load_n(&row->retry_at, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return !(copy->sequence & 1)
        && __atomic_load_n(&row->sequence, __ATOMIC_RELAXED) == copy->sequence;
}

static void write_row(row_t *row, apr_uint32_t sequence, const row_t *value)
{
    if ((sequence & 1)
        || !__atomic_compare_exchange_n(&row->sequence, &sequence, sequence + 1, 0,
                                        __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
        return;
    }
    __atomic_store_n(&row->key[0], value->key[0], __ATOMIC_RELAXED);
    __atomic_store_n(&row->key[1], value->key[1], __ATOMIC_RELAXED);
    __atomic_store_n(&row->until, value->until, __ATOMIC_RELAXED);
    __atomic_store_n(&row->reset_at, value->reset_at, __ATOMIC_RELAXED);
    __atomic_store_n(&row->retry_at, value->retry_at, __ATOMIC_RELAXED);
    __atomic_store_n(&row->sequence, sequence + 2, __ATOMIC_RELEASE);
}

void mcp_rl_deny_put(mcp_rl_deny_t *deny, const mcp_rl_ask_t *ask, const mcp_rl_verdict_t *verdict,
                     apr_time_t now)
{
    row_t value = { 0 }, seen;
    row_t *set, *victim = NULL;
    apr_uint32_t sequence = 1;
    apr_time_t oldest = APR_INT64_MAX;
    int i;

    key_of(ask, value.key);
    value.until = now + verdict->wait_one;
    value.retry_at = now + verdict->wait_one;
    value.reset_at = now + verdict->reset;
    if (ask->rule->kind == MCP_RL_SLOTS && verdict->wait_one > SLOT_TTL) {
        value.until = now + SLOT_TTL;
    }
    set = deny->rows[value.key[0] % SETS];
    for (i = 0; i < WAYS && oldest; i++) {
        if (!read_row(&set[i], &seen)) {
            continue;
        }
        if (memcmp(seen.key, value.key, sizeof(seen.key)) == 0) {
            seen.until = 0;
        }
        if (seen.until < oldest) {
            oldest = seen.until;
            victim = &set[i];
            sequence = seen.sequence;
        }
    }
    if (victim && verdict->wait_one > 0) {
        write_row(victim, sequence, &value);
    }
}

int mcp_rl_deny_get(const mcp_rl_deny_t *deny, const mcp_rl_ask_t *ask, apr_time_t now,
                    mcp_rl_verdict_t *verdict)
{
    apr_uint64_t key[2];
    const row_t *set;
    row_t seen;
    int i;

    key_of(ask, key);
    set = deny->rows[key[0] % SETS];
    for (i = 0; i < WAYS; i++) {
        if (__atomic_load_n(&set[i].key[0], __ATOMIC_RELAXED) != key[0]
            || !read_row(&set[i], &seen) || memcmp(seen.key, key, sizeof(key)) != 0
            || seen.until <= now) {
            continue;
        }
        verdict->allowed = 0;
        verdict->remaining = 0;
        verdict->wait = verdict->wait_one = seen.retry_at - now;
        verdict->reset = seen.reset_at - now;
        return 1;
    }
    return 0;
}

void mcp_rl_deny_forget(mcp_rl_deny_t *deny, const mcp_rl_ask_t *ask)
{
    apr_uint64_t key[2];
    row_t *set, seen, none = { 0 };
    int i;

    key_of(ask, key);
    set = deny->rows[key[0] % SETS];
    for (i = 0; i < WAYS; i++) {
        if (read_row(&set[i], &seen) && memcmp(seen.key, key, sizeof(key)) == 0) {
            write_row(&set[i], seen.sequence, &none);
        }
    }
}
