/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lease table. `lock` protects the chains of the hash and the free list, whose links are
 * rebuilt from the rows if a process dies holding it: every row that is not FREE is in the chain
 * of its digest, every other one is free. Fields of a row belong to its owner; states change by
 * compare-and-swap, so the parent and the keepers can mark rows without the lock.
 */
#include "mcp_rl_lease.h"

#include <apr_strings.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "mcp_rl_lock.h"

struct mcp_rl_leases_t {
    mcp_rl_lock_t lock;
    apr_uint32_t rows;
    apr_uint32_t buckets;    /* a power of two, at least rows */
    apr_uint32_t free;       /* index + 1 */
    apr_uint32_t high;       /* rows at and behind this index were never used; atomic */
    apr_uint32_t orphans;    /* there may be some; atomic */
    apr_uint64_t number;     /* of the last lease */
    char instance[20];
    apr_uint64_t chains_at;  /* offset of the chains: apr_uint32_t each, index + 1 */
    mcp_rl_row_t row[];
};

static apr_uint32_t bucket_count(apr_uint32_t rows)
{
    apr_uint32_t n = 64;

    while (n < rows) {
        n *= 2;
    }
    return n;
}

apr_size_t mcp_rl_leases_size(apr_uint32_t rows)
{
    return sizeof(mcp_rl_leases_t) + rows * sizeof(mcp_rl_row_t)
        + bucket_count(rows) * sizeof(apr_uint32_t);
}

apr_status_t mcp_rl_leases_init(mcp_rl_leases_t **leases, void *mem, apr_uint32_t rows,
                                const char *instance)
{
    mcp_rl_leases_t *l = mem;

    l->rows = rows;
    l->buckets = bucket_count(rows);
    l->chains_at = sizeof(*l) + (apr_uint64_t)rows * sizeof(mcp_rl_row_t);
    apr_cpystrn(l->instance, instance, sizeof(l->instance));
    *leases = l;
    return mcp_rl_lock_init(&l->lock);
}

mcp_rl_leases_t *mcp_rl_leases_at(void *mem)
{
    return mem;
}

static apr_uint32_t *chain_of(mcp_rl_leases_t *l, const unsigned char *digest)
{
    apr_uint32_t *chains = (apr_uint32_t *)((char *)l + l->chains_at);
    apr_uint32_t hash;

    memcpy(&hash, digest, sizeof(hash));
    return &chains[hash & (l->buckets - 1)];
}

mcp_rl_row_state_e mcp_rl_lease_state(const mcp_rl_row_t *row)
{
    return (mcp_rl_row_state_e)__atomic_load_n(&row->state, __ATOMIC_ACQUIRE);
}

int mcp_rl_lease_change(mcp_rl_row_t *row, mcp_rl_row_state_e from, mcp_rl_row_state_e to)
{
    apr_uint32_t expected = from;

    return __atomic_compare_exchange_n(&row->state, &expected, (apr_uint32_t)to, 0,
                                       __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static void set_state(mcp_rl_row_t *row, mcp_rl_row_state_e state)
{
    __atomic_store_n(&row->state, (apr_uint32_t)state, __ATOMIC_RELEASE);
}

static void rebuild_locked(mcp_rl_leases_t *l)
{
    apr_uint32_t i;

    memset((char *)l + l->chains_at, 0, l->buckets * sizeof(apr_uint32_t));
    l->free = 0;
    for (i = l->high; i-- > 0; ) {
        mcp_rl_row_t *row = &l->row[i];
        apr_uint32_t *list = mcp_rl_lease_state(row) == MCP_RL_ROW_FREE ? &l->free
                                                                        : chain_of(l, row->digest);

        row->next = *list;
        *list = i + 1;
    }
}

static apr_status_t lock(mcp_rl_leases_t *l)
{
    int died;
    apr_status_t rv = mcp_rl_lock_take(&l->lock, &died);

    if (rv == APR_SUCCESS && died) {
        rebuild_locked(l);
    }
    return rv;
}

static apr_int64_t count_locked(mcp_rl_leases_t *l, const unsigned char *digest,
                                apr_uint64_t *over)
{
    apr_uint32_t i = *chain_of(l, digest);
    apr_int64_t count = 0;
    int n = 0;

    for (; i; i = l->row[i - 1].next) {
        const mcp_rl_row_t *row = &l->row[i - 1];
        mcp_rl_row_state_e state = mcp_rl_lease_state(row);

        if (memcmp(row->digest, digest, MCP_RL_DIGEST) != 0) {
            continue;
        }
        if (state == MCP_RL_ROW_PENDING || state == MCP_RL_ROW_HELD) {
            count++;
        }
        else if (state != MCP_RL_ROW_FREE && n < MCP_RL_OVER) {
            over[n++] = row->number;
        }
    }
    if (n < MCP_RL_OVER) {
        over[n] = 0;
    }
    return count;
}

static mcp_rl_row_t *take_free_locked(mcp_rl_leases_t *l)
{
    mcp_rl_row_t *row;

    if (l->free) {
        row = &l->row[l->free - 1];
        l->free = row->next;
        return row;
    }
    if (l->high == l->rows) {
        return NULL;
    }
    row = &l->row[l->high];
    __atomic_store_n(&l->high, l->high + 1, __ATOMIC_RELEASE);
    return row;
}

apr_status_t mcp_rl_lease_begin(mcp_rl_leases_t *leases, const mcp_rl_ask_t *ask,
                                apr_int64_t limit, pid_t pid, mcp_rl_row_t **row,
                                apr_int64_t *held, apr_uint64_t *over)
{
    mcp_rl_row_t *r = NULL;
    apr_uint32_t *chain;
    apr_status_t rv;

    *row = NULL;
    *held = 0;
    if (strlen(ask->key) >= MCP_RL_KEY_MAX) {
        return APR_ENAMETOOLONG;
    }
    rv = lock(leases);
    if (rv != APR_SUCCESS) {
        return rv;
    }
    *held = count_locked(leases, ask->digest, over);
    if (limit && *held >= limit) {
        rv = APR_EAGAIN;
    }
    else if ((r = take_free_locked(leases)) == NULL) {
        rv = APR_ENOSPC;
    }
    else {
        memcpy(r->digest, ask->digest, MCP_RL_DIGEST);
        apr_cpystrn(r->key, ask->key, sizeof(r->key));
        r->pid = pid;
        r->local = 0;
        r->release_next = 0;
        r->deadline = 0;
        r->limit = ask->rule->amount;
        r->number = ++leases->number;
        set_state(r, MCP_RL_ROW_PENDING);
        chain = chain_of(leases, r->digest);
        r->next = *chain;
        *chain = mcp_rl_lease_index(leases, r) + 1;
        *row = r;
    }
    mcp_rl_lock_give(&leases->lock);
    return rv;
}

apr_status_t mcp_rl_lease_free(mcp_rl_leases_t *leases, mcp_rl_row_t *row, apr_uint64_t number)
{
    apr_uint32_t self = mcp_rl_lease_index(leases, row) + 1;
    apr_uint32_t *link;
    apr_status_t rv = lock(leases);

    if (rv != APR_SUCCESS) {
        return rv;
    }
    if (row->number == number && mcp_rl_lease_state(row) != MCP_RL_ROW_FREE) {
        link = chain_of(leases, row->digest);
        while (*link && *link != self) {
            link = &leases->row[*link - 1].next;
        }
        if (*link) {
            *link = row->next;
        }
        set_state(row, MCP_RL_ROW_FREE);
        row->next = leases->free;
        leases->free = self;
    }
    mcp_rl_lock_give(&leases->lock);
    return APR_SUCCESS;
}

const char *mcp_rl_lease_member(const mcp_rl_leases_t *leases, apr_uint64_t number, char *buf)
{
    snprintf(buf, MCP_RL_MEMBER_MAX, "%s.%" APR_UINT64_T_FMT, leases->instance, number);
    return buf;
}

static apr_uint32_t used_rows(const mcp_rl_leases_t *l)
{
    return __atomic_load_n(&l->high, __ATOMIC_ACQUIRE);
}

static int orphan_row(mcp_rl_leases_t *l, mcp_rl_row_t *row)
{
    mcp_rl_row_state_e state = mcp_rl_lease_state(row);

    if (state == MCP_RL_ROW_FREE || state == MCP_RL_ROW_ORPHAN
        || !mcp_rl_lease_change(row, state, MCP_RL_ROW_ORPHAN)) {
        return 0;
    }
    __atomic_store_n(&l->orphans, 1, __ATOMIC_RELEASE);
    return 1;
}

int mcp_rl_lease_child_died(mcp_rl_leases_t *leases, pid_t pid)
{
    apr_uint32_t i, high = used_rows(leases);
    int found = 0;

    for (i = 0; i < high; i++) {
        if (leases->row[i].pid == pid) {
            found += orphan_row(leases, &leases->row[i]);
        }
    }
    return found;
}

void mcp_rl_lease_find_dead(mcp_rl_leases_t *leases)
{
    apr_uint32_t i, high = used_rows(leases);

    for (i = 0; i < high; i++) {
        mcp_rl_row_t *row = &leases->row[i];
        mcp_rl_row_state_e state = mcp_rl_lease_state(row);

        if (state != MCP_RL_ROW_FREE && state != MCP_RL_ROW_ORPHAN && kill(row->pid, 0) != 0
            && errno == ESRCH) {
            orphan_row(leases, row);
        }
    }
}

int mcp_rl_lease_adopt_orphans(mcp_rl_leases_t *leases, pid_t pid, mcp_rl_row_t **rows,
                               apr_uint64_t *numbers, int most)
{
    apr_uint32_t i, high = used_rows(leases);
    int found = 0;

    if (!__atomic_exchange_n(&leases->orphans, 0, __ATOMIC_ACQ_REL)) {
        return 0;
    }
    for (i = 0; i < high && found < most; i++) {
        mcp_rl_row_t *row = &leases->row[i];

        /* An adopter may die between these two steps; find_dead() meets that. It may also give a
         * row to two adopters, which is why rows are freed by number. */
        if (mcp_rl_lease_change(row, MCP_RL_ROW_ORPHAN, MCP_RL_ROW_RELEASING)) {
            row->pid = pid;
            numbers[found] = row->number;
            rows[found++] = row;
        }
    }
    if (found == most) {
        __atomic_store_n(&leases->orphans, 1, __ATOMIC_RELEASE);
    }
    return found;
}

void mcp_rl_lease_orphan_again(mcp_rl_leases_t *leases, mcp_rl_row_t *row, apr_uint64_t number)
{
    if (row->number == number
        && mcp_rl_lease_change(row, MCP_RL_ROW_RELEASING, MCP_RL_ROW_ORPHAN)) {
        __atomic_store_n(&leases->orphans, 1, __ATOMIC_RELEASE);
    }
}

apr_uint32_t mcp_rl_leases_in_use(const mcp_rl_leases_t *leases)
{
    apr_uint32_t i, high = used_rows(leases), count = 0;

    for (i = 0; i < high; i++) {
        mcp_rl_row_state_e state = mcp_rl_lease_state(&leases->row[i]);

        count += state == MCP_RL_ROW_PENDING || state == MCP_RL_ROW_HELD;
    }
    return count;
}

apr_uint32_t mcp_rl_leases_rows(const mcp_rl_leases_t *leases)
{
    return leases->rows;
}

apr_uint32_t mcp_rl_lease_index(const mcp_rl_leases_t *leases, const mcp_rl_row_t *row)
{
    return (apr_uint32_t)(row - leases->row);
}

mcp_rl_row_t *mcp_rl_lease_row(mcp_rl_leases_t *leases, apr_uint32_t index)
{
    return &leases->row[index];
}
