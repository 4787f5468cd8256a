/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a request's questions to one outcome. A slot's row is made first and counts from then on, so
 * that nobody on this machine can take the same slot while the store is being asked; it is given up
 * again on every way that does not end with HELD.
 */
#include "mcp_rl_store.h"

#include <apr_strings.h>
#include <string.h>

#include "mcp_clock.h"

/* What a client is told to wait for where nobody can know when a stream will end. */
#define SLOT_WAIT apr_time_from_sec(1)
#define COMPLAIN_EVERY apr_time_from_sec(60)
/* Between two questions, while others give back what they were lent. */
#define FIRST_PAUSE 500
#define LAST_PAUSE 8000

const apr_interval_time_t mcp_rl_time_bounds[MCP_RL_TIME_BUCKETS - 1] = {
    50, 100, 250, 500, 1000, 2500, 5000, 10000, 25000
};

void mcp_rl_count(mcp_rl_counters_t *counters, mcp_rl_limit_e limit, mcp_rl_decision_e decision)
{
    __atomic_add_fetch(&counters->decisions[limit][decision], 1, __ATOMIC_RELAXED);
}

static void count_call(mcp_rl_counters_t *counters, apr_interval_time_t took)
{
    int i = 0;

    while (i < MCP_RL_TIME_BUCKETS - 1 && took > mcp_rl_time_bounds[i]) {
        i++;
    }
    __atomic_add_fetch(&counters->store_times[i], 1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&counters->store_calls, 1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&counters->store_usec, (apr_uint64_t)took, __ATOMIC_RELAXED);
}

void mcp_rl_store_complain(mcp_rl_store_t *store, const char *why)
{
    mcp_rl_counters_t *c = store->counters;
    apr_int64_t before = __atomic_load_n(&c->complained_at, __ATOMIC_RELAXED);
    apr_time_t now = mcp_clock_now();
    char text[256];

    if ((before && now - before < COMPLAIN_EVERY)
        || !__atomic_compare_exchange_n(&c->complained_at, &before, now, 0, __ATOMIC_ACQ_REL,
                                        __ATOMIC_RELAXED)) {
        __atomic_add_fetch(&c->suppressed, 1, __ATOMIC_RELAXED);
        return;
    }
    if (store->log) {
        apr_snprintf(text, sizeof(text), "a limit could not be decided: %s (%u more since the "
                     "last line)", why, __atomic_exchange_n(&c->suppressed, 0, __ATOMIC_RELAXED));
        store->log(store->baton, 1, text);
    }
}

apr_time_t mcp_rl_store_deadline(const mcp_rl_store_t *store, apr_time_t sent)
{
    apr_interval_time_t lease = store->redis->lease;

    return sent + lease - lease / 15; /* two clocks may differ in pace a little */
}

int mcp_rl_store_is_denied(mcp_rl_store_t *store, const mcp_rl_ask_t *asks, int count,
                           mcp_rl_outcome_t *outcome)
{
    apr_time_t now;
    int i;

    outcome->count = count;
    outcome->refused_by = -1;
    outcome->is_down = outcome->is_closed = 0;
    if (!store->redis) {
        return 0;
    }
    now = mcp_clock_now();
    for (i = 0; i < count; i++) {
        outcome->verdicts[i].allowed = 1;
        if (asks[i].mode != MCP_RL_RECORD
            && mcp_rl_deny_get(store->deny, &asks[i], now, &outcome->verdicts[i])
            && (outcome->refused_by < 0
                || outcome->verdicts[i].wait > outcome->verdicts[outcome->refused_by].wait)) {
            outcome->refused_by = i;
        }
    }
    return outcome->refused_by >= 0;
}

/* The shared-memory half: all but slots, whose row has been taken already. */
static void decide_locally(mcp_rl_store_t *store, const mcp_rl_ask_t *asks, int count,
                           mcp_rl_policy_e policy, apr_time_t now, mcp_rl_outcome_t *outcome)
{
    apr_status_t rv = count ? mcp_rl_shm_decide(store->shm, asks, count, now, outcome->verdicts)
                            : APR_SUCCESS;

    if (rv == APR_SUCCESS) {
        outcome->refused_by = mcp_rl_refusal(outcome->verdicts, count);
        return;
    }
    mcp_rl_store_complain(store, rv == APR_ENOSPC ? "shared memory is full; raise N of shm:N"
                                                  : "a process keeps a lock");
    __atomic_add_fetch(&store->counters->store_errors, 1, __ATOMIC_RELAXED);
    outcome->is_down = 1;
    outcome->is_closed = policy != MCP_RL_OPEN;
}

static void refuse_slot(mcp_rl_outcome_t *outcome, int slot)
{
    mcp_rl_verdict_t *verdict = &outcome->verdicts[slot];
    int i;

    for (i = 0; i < slot; i++) {
        outcome->verdicts[i].allowed = 1;
    }
    verdict->allowed = 0;
    verdict->remaining = 0;
    verdict->wait = verdict->wait_one = verdict->reset = SLOT_WAIT;
    outcome->refused_by = slot;
}

static void allow_slot(mcp_rl_outcome_t *outcome, int slot, const mcp_rl_ask_t *ask)
{
    mcp_rl_verdict_t *verdict = &outcome->verdicts[slot];

    verdict->allowed = 1;
    verdict->remaining = ask->rule->amount - ask->held - 1;
    verdict->wait = 0;
    verdict->wait_one = verdict->reset = SLOT_WAIT;
}

static void give_up_row(mcp_rl_store_t *store, mcp_rl_row_t **row, int is_known_to_redis)
{
    mcp_rl_row_t *r = *row;

    *row = NULL;
    /* What Redis may know, or what cannot be freed now, is left to the keepers. */
    if (is_known_to_redis || mcp_rl_lease_free(store->leases, r, r->number) != APR_SUCCESS) {
        mcp_rl_lease_change(r, MCP_RL_ROW_PENDING, MCP_RL_ROW_RELEASING);
        mcp_rl_lease_orphan_again(store->leases, r, r->number);
    }
}

/* Redis cannot be asked. */
static void decide_by_policy(mcp_rl_store_t *store, mcp_rl_ask_t *asks, int count, int slot,
                             mcp_rl_policy_e policy, mcp_rl_outcome_t *outcome)
{
    if (policy != MCP_RL_LOCAL) {
        outcome->is_down = 1;
        outcome->is_closed = policy == MCP_RL_CLOSED;
        return;
    }
    if (slot >= 0 && asks[slot].held >= asks[slot].rule->amount) {
        refuse_slot(outcome, slot);
        return;
    }
    decide_locally(store, asks, slot >= 0 ? slot : count, policy, mcp_clock_now(), outcome);
    if (slot >= 0) {
        allow_slot(outcome, slot, &asks[slot]);
    }
}

static void remember_refusals(mcp_rl_store_t *store, const mcp_rl_ask_t *asks, int count,
                              const mcp_rl_outcome_t *outcome)
{
    apr_time_t now = mcp_clock_now();
    int i;

    for (i = 0; i < count; i++) {
        const mcp_rl_verdict_t *v = &outcome->verdicts[i];

        if ((!v->allowed && v->wait_one > 0)
            || (asks[i].mode == MCP_RL_RECORD && v->wait_one > 0)) {
            mcp_rl_deny_put(store->deny, &asks[i], v, now);
        }
    }
}

static int is_lent_out(const mcp_rl_verdict_t *verdicts, int count)
{
    int i;

    for (i = 0; i < count && !verdicts[i].lent_out; i++) {
    }
    return i < count;
}

/* Of what one of the buckets asked about has lent to this machine. */
static int return_own(mcp_rl_store_t *store, const mcp_rl_ask_t *asks, int count)
{
    int i, found = 0;

    for (i = 0; i < count; i++) {
        if (asks[i].rule->kind == MCP_RL_BUCKET) {
            found |= mcp_rl_store_give_back(store, &asks[i]);
        }
    }
    return found;
}

/*
 * Others hold what is missing, and have been asked for it: a moment, and the question again.
 * Whoever does not give it back is dead or stopped; its loan ends by itself.
 */
static apr_status_t ask_again(mcp_rl_store_t *store, mcp_rl_ask_t *asks, int count,
                              apr_time_t deadline, mcp_rl_verdict_t *verdicts,
                              mcp_redis_info_t *info)
{
    apr_interval_time_t pause = return_own(store, asks, count) ? 0 : FIRST_PAUSE;
    apr_status_t rv = APR_SUCCESS;

    while (rv == APR_SUCCESS && is_lent_out(verdicts, count)
           && mcp_clock_now() + 2 * pause < deadline && pause <= LAST_PAUSE) {
        apr_sleep(pause);
        rv = mcp_rl_redis_decide(store->redis, asks, count, deadline, verdicts, NULL, info);
        pause = pause ? 2 * pause : FIRST_PAUSE;
    }
    return rv;
}

/* @return whether the slot asked for, if any, is one that Redis knows of */
static int decide_in_redis(mcp_rl_store_t *store, mcp_rl_ask_t *asks, int count, int slot,
                           mcp_rl_policy_e policy, mcp_rl_outcome_t *outcome, apr_time_t sent)
{
    apr_time_t deadline = sent + store->timeout;
    mcp_redis_info_t info;
    mcp_rl_loan_t loan, *wanted = NULL;
    apr_status_t rv;

    if (count == 1 && mcp_rl_purse_is_for(asks)) {
        if (mcp_rl_purse_pay(store->purses, asks, sent, outcome->verdicts, &loan)) {
            return 0;
        }
        wanted = loan.want > 0 ? &loan : NULL;
    }
    rv = mcp_rl_redis_decide(store->redis, asks, count, deadline, outcome->verdicts, wanted, &info);
    if (rv == APR_SUCCESS && wanted) {
        mcp_rl_purse_fill(store->purses, asks, sent, outcome->verdicts, wanted);
    }
    if (rv == APR_SUCCESS && is_lent_out(outcome->verdicts, count)) {
        rv = ask_again(store, asks, count, deadline, outcome->verdicts, &info);
    }
    if (rv == APR_SUCCESS) {
        count_call(store->counters, mcp_clock_now() - sent);
        outcome->refused_by = mcp_rl_refusal(outcome->verdicts, count);
        remember_refusals(store, asks, count, outcome);
        return outcome->refused_by < 0;
    }
    if (rv != APR_EBUSY && rv != MCP_RL_NOTREADY) {
        __atomic_add_fetch(&store->counters->store_errors, 1, __ATOMIC_RELAXED);
        count_call(store->counters, mcp_clock_now() - sent);
    }
    if (rv == MCP_RL_EBADDATA) {
        mcp_rl_store_complain(store, info.why);
    }
    decide_by_policy(store, asks, count, slot, policy, outcome);
    /* A question that was sent and not answered may have been granted. */
    return info.sent && rv != MCP_RL_EBADDATA && rv != MCP_RL_NOTREADY ? -1 : 0;
}

int mcp_rl_store_give_back(mcp_rl_store_t *store, const mcp_rl_ask_t *ask)
{
    mcp_rl_loan_t loan;

    return mcp_rl_purse_empty(store->purses, ask, &loan)
        && mcp_rl_redis_give_back(store->redis, ask, &loan, mcp_clock_now() + store->timeout)
           == APR_SUCCESS;
}

#define MEMBERS_MAX ((1 + MCP_RL_OVER) * MCP_RL_MEMBER_MAX)

static void list_members(mcp_rl_store_t *store, apr_uint64_t number, const apr_uint64_t *over,
                         char *members)
{
    apr_size_t at = strlen(mcp_rl_lease_member(store->leases, number, members));
    int i;

    for (i = 0; i < MCP_RL_OVER && over[i]; i++) {
        members[at++] = ' ';
        at += strlen(mcp_rl_lease_member(store->leases, over[i], members + at));
    }
}

/* A row for the slot; without one the request is refused, or passes by policy open. */
static int begin_slot(mcp_rl_store_t *store, mcp_rl_ask_t *ask, int slot, mcp_rl_policy_e policy,
                      mcp_rl_row_t **row, char *members, mcp_rl_outcome_t *outcome)
{
    apr_int64_t limit = store->redis ? 0 : ask->rule->amount;
    apr_uint64_t over[MCP_RL_OVER];
    apr_status_t rv = mcp_rl_lease_begin(store->leases, ask, limit, store->pid, row, &ask->held,
                                         over);

    if (rv == APR_SUCCESS) {
        list_members(store, (*row)->number, over, members);
        ask->member = members;
        return 1;
    }
    if (rv == APR_EAGAIN) {
        refuse_slot(outcome, slot);
        return 0;
    }
    mcp_rl_store_complain(store, "no room for one more stream in shared memory");
    __atomic_add_fetch(&store->counters->store_errors, 1, __ATOMIC_RELAXED);
    outcome->is_down = 1;
    outcome->is_closed = policy != MCP_RL_OPEN;
    return 0;
}

void mcp_rl_store_decide(mcp_rl_store_t *store, mcp_rl_ask_t *asks, int count,
                         mcp_rl_policy_e policy, mcp_rl_row_t **row, mcp_rl_outcome_t *outcome)
{
    int slot = count && asks[count - 1].rule->kind == MCP_RL_SLOTS ? count - 1 : -1;
    apr_time_t sent;
    char members[MEMBERS_MAX];
    int in_redis = 0;

    if (row) {
        *row = NULL;
    }
    if (mcp_rl_store_is_denied(store, asks, count, outcome)
        || (slot >= 0 && !begin_slot(store, &asks[slot], slot, policy, row, members, outcome))) {
        return;
    }
    sent = mcp_clock_now();
    if (store->redis) {
        in_redis = decide_in_redis(store, asks, count, slot, policy, outcome, sent);
    }
    else {
        decide_locally(store, asks, slot >= 0 ? slot : count, policy, sent, outcome);
        if (slot >= 0) {
            allow_slot(outcome, slot, &asks[slot]);
        }
    }
    if (slot < 0) {
        return;
    }
    if (outcome->refused_by >= 0 || outcome->is_closed) {
        give_up_row(store, row, in_redis != 0);
        return;
    }
    (*row)->local = store->redis && in_redis != 1;
    (*row)->deadline = store->redis ? mcp_rl_store_deadline(store, sent) : APR_INT64_MAX;
    mcp_rl_lease_change(*row, MCP_RL_ROW_PENDING, MCP_RL_ROW_HELD);
}
