/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shared-memory store: sets of WAYS places each, no pointers, so that a child killed at any
 * point leaves at worst one key with a wrong count, never a broken table. A key belongs to one set
 * and may be in any of its places. LOCKS mutexes protect the sets; a question about several keys
 * takes its locks in ascending order, and nothing is written before all keys have been judged.
 */
#include "mcp_rl_shm.h"

#include <string.h>

#include "mcp_rl_bucket.h"
#include "mcp_rl_lock.h"
#include "mcp_rl_window.h"

#define WAYS 16
#define LOCKS 128
#define CACHE_LINE 64

typedef struct place_t {
    unsigned char digest[MCP_RL_DIGEST];
    apr_uint32_t kind;     /* mcp_rl_kind_e; 0: empty */
    apr_uint32_t reserved;
    apr_time_t idle_at;    /* from then on it is as if never used */
    apr_time_t refuses_until;
    union {
        mcp_rl_bucket_t bucket;
        mcp_rl_fixed_t fixed;
        mcp_rl_sliding_t sliding;
    } state;
} __attribute__((aligned(CACHE_LINE))) place_t; /* a bucket is one line, which cores hand over */

typedef struct lock_t {
    mcp_rl_lock_t lock;
} __attribute__((aligned(CACHE_LINE))) lock_t;

struct mcp_rl_shm_t {
    apr_uint64_t sets; /* a power of two */
    lock_t locks[LOCKS];
    place_t places[];
};

static apr_uint64_t sets_for(apr_int64_t entries)
{
    apr_uint64_t sets = LOCKS;

    while (sets * WAYS < (apr_uint64_t)entries && sets < (APR_UINT64_C(1) << 32)) {
        sets *= 2;
    }
    return sets;
}

apr_size_t mcp_rl_shm_size(apr_int64_t entries)
{
    return sizeof(mcp_rl_shm_t) + (apr_size_t)sets_for(entries) * WAYS * sizeof(place_t);
}

apr_status_t mcp_rl_shm_init(mcp_rl_shm_t **shm, void *mem, apr_int64_t entries)
{
    mcp_rl_shm_t *s = mem;
    int i;

    for (i = 0; i < LOCKS; i++) {
        apr_status_t rv = mcp_rl_lock_init(&s->locks[i].lock);

        if (rv != APR_SUCCESS) {
            return rv;
        }
    }
    s->sets = sets_for(entries);
    *shm = s;
    return APR_SUCCESS;
}

mcp_rl_shm_t *mcp_rl_shm_at(void *mem)
{
    return mem;
}

static apr_uint64_t set_of(const mcp_rl_shm_t *shm, const unsigned char *digest)
{
    apr_uint64_t hash;

    memcpy(&hash, digest, sizeof(hash));
    return hash & (shm->sets - 1);
}

/* The locks of one question, ascending, each once. */
typedef struct locks_t {
    int count;
    unsigned char index[MCP_RL_MAX_ASKS];
} locks_t;

static void want_lock(locks_t *locks, unsigned char index)
{
    int i = locks->count;

    while (i > 0 && locks->index[i - 1] > index) {
        i--;
    }
    if (i > 0 && locks->index[i - 1] == index) {
        return;
    }
    memmove(&locks->index[i + 1], &locks->index[i], (size_t)(locks->count - i));
    locks->index[i] = index;
    locks->count++;
}

static void give_locks(mcp_rl_shm_t *shm, const locks_t *locks, int upto)
{
    int i;

    for (i = 0; i < upto; i++) {
        mcp_rl_lock_give(&shm->locks[locks->index[i]].lock);
    }
}

static apr_status_t take_locks(mcp_rl_shm_t *shm, const mcp_rl_ask_t *asks, int count,
                               locks_t *locks)
{
    int i, died;

    locks->count = 0;
    for (i = 0; i < count; i++) {
        want_lock(locks, (unsigned char)(set_of(shm, asks[i].digest) % LOCKS));
    }
    for (i = 0; i < locks->count; i++) {
        /* A dead owner left nothing to repair: each field of a place is one that can occur. */
        apr_status_t rv = mcp_rl_lock_take(&shm->locks[locks->index[i]].lock, &died);

        if (rv != APR_SUCCESS) {
            give_locks(shm, locks, i);
            return rv;
        }
    }
    return APR_SUCCESS;
}

static int is_pinned(const place_t *place, place_t *const *pinned, int count)
{
    int i;

    for (i = 0; i < count; i++) {
        if (pinned[i] == place) {
            return 1;
        }
    }
    return 0;
}

/* The place of a key, or one that it may have; never one of @a pinned, which
 * this question needs. */
static place_t *find_place(mcp_rl_shm_t *shm, const mcp_rl_ask_t *ask, apr_time_t now,
                           place_t *const *pinned, int count)
{
    place_t *set = &shm->places[set_of(shm, ask->digest) * WAYS], *best = NULL;
    int i;

    for (i = 0; i < WAYS; i++) {
        place_t *place = &set[i];

        if (place->kind && memcmp(place->digest, ask->digest, MCP_RL_DIGEST) == 0) {
            return place;
        }
        if (is_pinned(place, pinned, count) || (place->kind && place->refuses_until > now)) {
            continue;
        }
        /* The first one that is empty: it is found again without looking at all the others. */
        if (!best || (best->kind && (!place->kind || place->idle_at < best->idle_at))) {
            best = place;
        }
    }
    return best;
}

static void judge(const mcp_rl_ask_t *ask, const place_t *place, apr_time_t now,
                  mcp_rl_verdict_t *verdict)
{
    const mcp_rl_rule_t *rule = ask->rule;

    switch (rule->kind) {
    case MCP_RL_BUCKET:
        mcp_rl_bucket_judge(rule, &place->state.bucket, ask->cost, now, verdict);
        break;
    case MCP_RL_SLIDING:
        mcp_rl_sliding_judge(rule, &place->state.sliding, ask->cost, now, verdict);
        break;
    default:
        mcp_rl_fixed_judge(rule, &place->state.fixed, ask->mode, ask->cost, now, verdict);
        break;
    }
}

static void commit(const mcp_rl_ask_t *ask, place_t *place, apr_time_t now)
{
    const mcp_rl_rule_t *rule = ask->rule;

    switch (rule->kind) {
    case MCP_RL_BUCKET:
        mcp_rl_bucket_take(rule, &place->state.bucket, ask->cost, now);
        break;
    case MCP_RL_SLIDING:
        mcp_rl_sliding_take(rule, &place->state.sliding, ask->cost, now);
        break;
    default:
        mcp_rl_fixed_take(rule, &place->state.fixed, ask->mode, ask->cost, now);
        break;
    }
}

static void refuse(const mcp_rl_ask_t *ask, place_t *place, apr_time_t now)
{
    if (ask->rule->kind == MCP_RL_FIXED) {
        mcp_rl_fixed_refuse(ask->rule, &place->state.fixed, now);
    }
    else if (ask->rule->kind == MCP_RL_SLIDING) {
        mcp_rl_sliding_refuse(ask->rule, &place->state.sliding, now);
    }
}

/* The place is the key's from now on, if it was not. */
static void settle(const mcp_rl_ask_t *ask, place_t *place)
{
    if (place->kind != (apr_uint32_t)ask->rule->kind
        || memcmp(place->digest, ask->digest, MCP_RL_DIGEST) != 0) {
        place->kind = 0;
        memset(&place->state, 0, sizeof(place->state));
        memcpy(place->digest, ask->digest, MCP_RL_DIGEST);
        place->refuses_until = 0;
        place->kind = ask->rule->kind;
    }
}

static void write_down(const mcp_rl_ask_t *ask, place_t *place, const mcp_rl_verdict_t *verdict,
                       int refused, apr_time_t now)
{
    if (ask->mode == MCP_RL_LOOK && verdict->allowed) {
        return;
    }
    if (refused && verdict->allowed) {
        return;
    }
    settle(ask, place);
    if (refused) {
        refuse(ask, place, now);
    }
    else {
        commit(ask, place, now);
    }
    place->idle_at = now + verdict->reset;
    place->refuses_until = now + verdict->wait_one;
}

static apr_status_t decide_locked(mcp_rl_shm_t *shm, const mcp_rl_ask_t *asks, int count,
                                  apr_time_t now, mcp_rl_verdict_t *verdicts)
{
    static const place_t fresh;
    place_t *places[MCP_RL_MAX_ASKS];
    int i, refused;

    for (i = 0; i < count; i++) {
        int known;

        places[i] = find_place(shm, &asks[i], now, places, i);
        if (!places[i]) {
            return APR_ENOSPC;
        }
        known = places[i]->kind == (apr_uint32_t)asks[i].rule->kind
            && memcmp(places[i]->digest, asks[i].digest, MCP_RL_DIGEST) == 0;
        judge(&asks[i], known ? places[i] : &fresh, now, &verdicts[i]);
    }
    refused = mcp_rl_refusal(verdicts, count) >= 0;
    for (i = 0; i < count; i++) {
        write_down(&asks[i], places[i], &verdicts[i], refused, now);
    }
    return APR_SUCCESS;
}

apr_status_t mcp_rl_shm_decide(mcp_rl_shm_t *shm, const mcp_rl_ask_t *asks, int count,
                               apr_time_t now, mcp_rl_verdict_t *verdicts)
{
    locks_t locks;
    apr_status_t rv;

    if (count > MCP_RL_MAX_ASKS) {
        return APR_EINVAL;
    }
    rv = take_locks(shm, asks, count, &locks);
    if (rv == APR_SUCCESS) {
        rv = decide_locked(shm, asks, count, now, verdicts);
        give_locks(shm, &locks, locks.count);
    }
    return rv;
}
