/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The purses: a table in shared memory, in sets of WAYS places. A set has a flag that is taken
 * without waiting: whoever finds it taken asks Redis, as it does when other keys have all places. A
 * process killed within these few instructions costs its set until the next start, no more.
 */
#include "mcp_rl_purse.h"

#include <sched.h>
#include <string.h>

#define SETS 16384
#define WAYS 4
#define FIRST_LOAN 8
/* Of a loan this large one asks for more while the others still live on the rest. */
#define SHARED_LOAN 64
/* A loan is asked for by one request at a time; one whose answer was lost blocks no longer. */
#define PATIENCE apr_time_from_msec(200)
#define SPINS 1000

/* A key asks all the time if it has asked so often in a row, each time within SLOW of the last. */
#define STREAK 10
#define SLOW apr_time_from_sec(2)
/* Or, where a loan is too small a part of the bucket to be missed, once within this. */
#define QUICK apr_time_from_msec(100)

typedef struct purse_t {
    apr_uint64_t key[2];
    apr_uint64_t streak;
    apr_time_t seen;          /* the last request */
    apr_time_t lending;       /* a loan is being asked for, since then; 0: no */
    apr_time_t until;         /* of what is in it */
    apr_time_t reset_at;
    apr_int64_t tokens;
    apr_int64_t owed;         /* lent and not settled yet, spent or not */
    apr_int64_t size;         /* of the next loan */
    apr_int64_t generation;
    apr_int64_t remaining;    /* in the bucket, after the loan */
} purse_t;

typedef struct set_t {
    apr_uint32_t taken;
    apr_uint32_t reserved;
    purse_t purse[WAYS];
} set_t;

struct mcp_rl_purses_t {
    apr_time_t listening;     /* until; atomic, as what follows */
    apr_time_t claimed;
    set_t set[SETS];
};

apr_size_t mcp_rl_purses_size(void)
{
    return sizeof(mcp_rl_purses_t);
}

mcp_rl_purses_t *mcp_rl_purses_at(void *mem)
{
    return mem;
}

void mcp_rl_purses_listen(mcp_rl_purses_t *purses, apr_time_t until)
{
    __atomic_store_n(&purses->listening, until, __ATOMIC_RELAXED);
    __atomic_store_n(&purses->claimed, until, __ATOMIC_RELAXED);
}

int mcp_rl_purses_claim(mcp_rl_purses_t *purses, apr_time_t now, apr_time_t until)
{
    apr_time_t claimed = __atomic_load_n(&purses->claimed, __ATOMIC_RELAXED);

    return claimed <= now
        && __atomic_compare_exchange_n(&purses->claimed, &claimed, until, 0, __ATOMIC_RELAXED,
                                       __ATOMIC_RELAXED);
}

int mcp_rl_purse_is_for(const mcp_rl_ask_t *ask)
{
    return ask->rule->kind == MCP_RL_BUCKET && ask->mode == MCP_RL_TAKE
        && ask->rule->burst >= MCP_RL_LEND_LEAST_BURST;
}

static int is_large(const mcp_rl_rule_t *rule)
{
    return rule->burst >= MCP_RL_LEND_LARGE_BURST;
}

static apr_int64_t most_of(const mcp_rl_rule_t *rule)
{
    apr_int64_t most = rule->burst / (is_large(rule) ? 64 : 2);

    return most < 256 ? most : 256;
}

/* The set that a key's purse is in, to be given back; NULL: somebody has it. */
static set_t *take(mcp_rl_purses_t *purses, const mcp_rl_ask_t *ask, apr_uint64_t key[2])
{
    const mcp_rl_rule_t *rule = ask->rule;
    set_t *set;

    memcpy(key, ask->digest, MCP_RL_DIGEST);
    key[1] ^= (apr_uint64_t)rule->amount * 0x9e3779b97f4a7c15u;
    key[1] ^= (apr_uint64_t)rule->period * 0xc2b2ae3d27d4eb4fu;
    key[1] ^= (apr_uint64_t)rule->burst * 0x165667b19e3779f9u;
    set = &purses->set[key[0] % SETS];
    return __atomic_exchange_n(&set->taken, 1, __ATOMIC_ACQUIRE) ? NULL : set;
}

/* The same for who has tokens to put in or take out: whoever has the set is done in a moment. */
static set_t *take_patiently(mcp_rl_purses_t *purses, const mcp_rl_ask_t *ask, apr_uint64_t key[2])
{
    set_t *set;
    int spins = 0;

    while ((set = take(purses, ask, key)) == NULL && ++spins < SPINS) {
        sched_yield();
    }
    return set;
}

static void give(set_t *set)
{
    __atomic_store_n(&set->taken, 0, __ATOMIC_RELEASE);
}

static purse_t *find(set_t *set, const apr_uint64_t key[2])
{
    int i;

    for (i = 0; i < WAYS; i++) {
        if (memcmp(set->purse[i].key, key, sizeof(set->purse[i].key)) == 0) {
            return &set->purse[i];
        }
    }
    return NULL;
}

/* A place for a new key, if there is one: what is in use keeps its own. */
static void settle_in(set_t *set, const apr_uint64_t key[2], apr_time_t now)
{
    purse_t *purse = &set->purse[0];
    int i;

    for (i = 1; i < WAYS; i++) {
        if (set->purse[i].seen < purse->seen) {
            purse = &set->purse[i];
        }
    }
    if (now - purse->seen > SLOW && purse->until <= now) {
        memset(purse, 0, sizeof(*purse));
        memcpy(purse->key, key, sizeof(purse->key));
        purse->seen = now;
    }
}

static int is_busy(const mcp_rl_purses_t *purses, purse_t *purse, const mcp_rl_rule_t *rule,
                   apr_time_t now)
{
    purse->streak = now - purse->seen < SLOW ? purse->streak + 1 : 0;
    return (is_large(rule) && now - purse->seen < QUICK)
        || (purse->streak >= STREAK
            && __atomic_load_n(&purses->listening, __ATOMIC_RELAXED) > now);
}

static void ask_for_loan(purse_t *purse, apr_int64_t most, apr_time_t now, mcp_rl_loan_t *loan)
{
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

int mcp_rl_purse_pay(mcp_rl_purses_t *purses, const mcp_rl_ask_t *ask, apr_time_t now,
                     mcp_rl_verdict_t *verdict, mcp_rl_loan_t *loan)
{
    apr_uint64_t key[2];
    set_t *set = take(purses, ask, key);
    purse_t *purse;
    int paid = 0, is_asked;

    memset(loan, 0, sizeof(*loan));
    if (!set) {
        return 0;
    }
    purse = find(set, key);
    if (!purse) {
        settle_in(set, key, now);
        give(set);
        return 0;
    }
    is_asked = now - purse->lending <= PATIENCE;
    if (purse->until > now && purse->tokens >= ask->cost
        && (purse->size < SHARED_LOAN || purse->tokens > purse->size / 2 || is_asked)) {
        purse->tokens -= ask->cost;
        verdict->allowed = paid = 1;
        verdict->lent_out = 0;
        verdict->remaining = purse->remaining + purse->tokens;
        verdict->wait = verdict->wait_one = 0;
        verdict->reset = purse->reset_at > now ? purse->reset_at - now : 0;
    }
    else if (is_busy(purses, purse, ask->rule, now) && !is_asked) {
        ask_for_loan(purse, most_of(ask->rule), now, loan);
    }
    purse->seen = now;
    give(set);
    return paid;
}

void mcp_rl_purse_fill(mcp_rl_purses_t *purses, const mcp_rl_ask_t *ask, apr_time_t sent,
                       mcp_rl_verdict_t *verdict, const mcp_rl_loan_t *loan)
{
    apr_uint64_t key[2];
    set_t *set = take_patiently(purses, ask, key);
    purse_t *purse;

    /* A loan that finds no purse is void, and expires in Redis. */
    if (!set) {
        return;
    }
    purse = find(set, key);
    if (purse && purse->lending) {
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
        verdict->remaining += purse->tokens;
    }
    give(set);
}

int mcp_rl_purse_empty(mcp_rl_purses_t *purses, const mcp_rl_ask_t *ask, mcp_rl_loan_t *loan)
{
    apr_uint64_t key[2];
    set_t *set = take_patiently(purses, ask, key);
    purse_t *purse;

    memset(loan, 0, sizeof(*loan));
    if (!set) {
        return 0;
    }
    purse = find(set, key);
    if (purse && purse->tokens > 0) {
        loan->given = purse->tokens;
        loan->settle = purse->owed - purse->tokens;
        loan->generation = purse->generation;
        purse->tokens = purse->owed = 0;
        purse->until = 0;
        purse->streak = 0;
    }
    give(set);
    return loan->given > 0;
}
