/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The purses: a direct-mapped table in shared memory. Each has a flag that is taken without
 * waiting: whoever finds it taken asks Redis, as it does when another key has the place. A process
 * killed within these few instructions costs its place until the next start, and nothing else.
 */
#include "mcp_rl_purse.h"

#include <stddef.h>
#include <string.h>

#define PURSES 16384
/* A key that asked Redis less than this ago asks all the time. */
#define BUSY apr_time_from_msec(100)
#define FIRST_LOAN 4
/* A loan is asked for by one request at a time; one whose answer was lost blocks no longer. */
#define PATIENCE apr_time_from_msec(200)

typedef struct purse_t {
    apr_uint32_t taken;
    apr_uint32_t reserved;
    apr_uint64_t key[2];
    apr_time_t asked;         /* the last round trip */
    apr_time_t lending;       /* a loan is being asked for, since then; 0: no */
    apr_time_t until;         /* of what is in it */
    apr_time_t reset_at;
    apr_int64_t tokens;
    apr_int64_t owed;         /* lent and not settled yet, spent or not */
    apr_int64_t size;         /* of the next loan */
    apr_int64_t generation;
    apr_int64_t remaining;    /* in the bucket, after the loan */
} purse_t;

struct mcp_rl_purses_t {
    purse_t purse[PURSES];
};

apr_size_t mcp_rl_purses_size(void)
{
    return sizeof(mcp_rl_purses_t);
}

mcp_rl_purses_t *mcp_rl_purses_at(void *mem)
{
    return mem;
}

int mcp_rl_purse_is_for(const mcp_rl_ask_t *ask)
{
    return ask->rule->kind == MCP_RL_BUCKET && ask->mode == MCP_RL_TAKE
        && ask->rule->burst >= MCP_RL_LEND_MIN_BURST;
}

static purse_t *take(mcp_rl_purses_t *purses, const mcp_rl_ask_t *ask, apr_uint64_t key[2])
{
    const mcp_rl_rule_t *rule = ask->rule;
    purse_t *purse;

    memcpy(key, ask->digest, MCP_RL_DIGEST);
    key[1] ^= (apr_uint64_t)rule->amount * 0x9e3779b97f4a7c15u;
    key[1] ^= (apr_uint64_t)rule->period * 0xc2b2ae3d27d4eb4fu;
    key[1] ^= (apr_uint64_t)rule->burst * 0x165667b19e3779f9u;
    purse = &purses->purse[key[0] % PURSES];
    return __atomic_exchange_n(&purse->taken, 1, __ATOMIC_ACQUIRE) ? NULL : purse;
}

static void give(purse_t *purse)
{
    __atomic_store_n(&purse->taken, 0, __ATOMIC_RELEASE);
}

static void consider_loan(purse_t *purse, const mcp_rl_ask_t *ask, apr_time_t now,
                          mcp_rl_loan_t *loan)
{
    apr_int64_t most = ask->rule->burst / MCP_RL_LEND_PART;

    most = most < MCP_RL_LEND_MOST ? most : MCP_RL_LEND_MOST;
    if (now - purse->asked < BUSY && now - purse->lending > PATIENCE) {
        if (!purse->size) {
            purse->size = FIRST_LOAN;
        }
        else if (purse->owed) {
            /* Spent in time: twice as much. Else what was spent, and one. */
            purse->size = purse->until > now ? 2 * purse->size : purse->owed - purse->tokens + 1;
        }
        purse->size = purse->size < most ? purse->size : most;
        if (purse->until <= now) {
            purse->tokens = 0;
        }
        loan->want = purse->size;
        loan->settle = purse->owed - purse->tokens;
        loan->generation = purse->generation;
        purse->owed = purse->tokens;
        purse->lending = now;
    }
    purse->asked = now;
}

int mcp_rl_purse_pay(mcp_rl_purses_t *purses, const mcp_rl_ask_t *ask, apr_time_t now,
                     mcp_rl_verdict_t *verdict, mcp_rl_loan_t *loan)
{
    apr_uint64_t key[2];
    purse_t *purse = take(purses, ask, key);
    int paid = 0;

    memset(loan, 0, sizeof(*loan));
    if (!purse) {
        return 0;
    }
    if (memcmp(purse->key, key, sizeof(purse->key)) != 0) {
        /* One that is in use keeps its place; what it was lent is void with it otherwise. */
        if (now - purse->asked > BUSY && purse->until <= now) {
            memset(&purse->key, 0, sizeof(*purse) - offsetof(purse_t, key));
            memcpy(purse->key, key, sizeof(purse->key));
            purse->asked = now;
        }
    }
    /* One asks for more while the others still live on the rest. */
    else if (purse->until > now && purse->tokens >= ask->cost
             && (purse->tokens > purse->size / 2 || now - purse->lending <= PATIENCE)) {
        purse->tokens -= ask->cost;
        verdict->allowed = paid = 1;
        verdict->remaining = purse->remaining + purse->tokens;
        verdict->wait = verdict->wait_one = 0;
        verdict->reset = purse->reset_at > now ? purse->reset_at - now : 0;
    }
    else {
        consider_loan(purse, ask, now, loan);
    }
    give(purse);
    return paid;
}

void mcp_rl_purse_fill(mcp_rl_purses_t *purses, const mcp_rl_ask_t *ask, apr_time_t sent,
                       const mcp_rl_verdict_t *verdict, const mcp_rl_loan_t *loan)
{
    apr_uint64_t key[2];
    purse_t *purse = take(purses, ask, key);

    /* A loan that finds no purse is void, and expires in Redis. */
    if (!purse) {
        return;
    }
    if (memcmp(purse->key, key, sizeof(purse->key)) == 0 && purse->lending) {
        purse->lending = 0;
        if (purse->generation != loan->generation) {
            purse->tokens = purse->owed = 0;
        }
        if (loan->given) {
            purse->tokens += loan->given;
            purse->owed += loan->given;
            purse->generation = loan->generation;
            purse->until = sent + loan->left - loan->left / 15; /* clocks differ in pace */
        }
        purse->remaining = verdict->remaining;
        purse->reset_at = sent + verdict->reset;
    }
    give(purse);
}
