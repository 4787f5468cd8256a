/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The session table: who may use an entry, how long it lives, and which one goes when it is full.
 * Every function takes the one lock, which is robust: whoever finds that its owner died keeps the
 * live entries and makes everything else anew.
 */
#include "mcp_proxy_session.h"
#include "mcp_proxy_session_index.h"

#include <errno.h>
#include <string.h>

#define EXPIRED_AT_ONCE 64

apr_size_t mcp_session_table_size(unsigned entries)
{
    return mcp_session_lay_out(entries).end;
}

static void init_lock(pthread_mutex_t *lock)
{
    pthread_mutexattr_t attributes;

    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(lock, &attributes);
    pthread_mutexattr_destroy(&attributes);
}

mcp_session_table_t *mcp_session_table_init(void *mem, unsigned entries, apr_interval_time_t ttl)
{
    mcp_session_table_t *table = mem;

    init_lock(&table->lock);
    table->ttl = ttl;
    mcp_session_index_init(table, entries);
    return table;
}

static void lock(mcp_session_table_t *table)
{
    if (pthread_mutex_lock(&table->lock) == EOWNERDEAD) {
        mcp_session_rebuild(table);
        pthread_mutex_consistent(&table->lock);
    }
}

static void unlock(mcp_session_table_t *table)
{
    pthread_mutex_unlock(&table->lock);
}

/* Callers read the clock before they have the lock: the latest of them counts for all. */
static void advance(mcp_session_table_t *table, apr_time_t now)
{
    apr_uint32_t i;

    if (now > table->now) {
        table->now = now;
    }
    while ((i = table->held.oldest) != 0 && mcp_session_entry(table, i)->until <= table->now) {
        mcp_session_move(table, i, mcp_session_entry(table, i)->until, 0);
    }
}

static int is_expired(mcp_session_table_t *table, apr_uint32_t i)
{
    const mcp_session_entry_t *entry = mcp_session_entry(table, i);

    return !entry->until && entry->used + table->ttl <= table->now;
}

/* The entry of a session that is still known. */
static apr_uint32_t find_current(mcp_session_table_t *table, const unsigned char *id)
{
    apr_uint32_t i = mcp_session_lookup(table, id);

    if (i && is_expired(table, i)) {
        mcp_session_drop(table, i);
        return 0;
    }
    return i;
}

static int is_owner(mcp_session_table_t *table, apr_uint32_t i, const mcp_session_key_t *key)
{
    return !memcmp(mcp_session_entry(table, i)->key.owner, key->owner, MCP_SESSION_DIGEST);
}

/* A busy session is not moved in the lists with every request; nobody tells such uses apart. */
static void touch(mcp_session_table_t *table, apr_uint32_t i)
{
    mcp_session_entry_t *entry = mcp_session_entry(table, i);
    apr_interval_time_t grain = table->ttl / 8 < MCP_SESSION_GRAIN ? table->ttl / 8
                                                                   : MCP_SESSION_GRAIN;

    if (entry->until || table->now - entry->used < grain) {
        return;
    }
    mcp_session_move(table, i, table->now, 0);
}

void mcp_session_table_set_ttl(mcp_session_table_t *table, apr_interval_time_t ttl)
{
    lock(table);
    table->ttl = ttl;
    unlock(table);
}

apr_status_t mcp_session_find(mcp_session_table_t *table, const mcp_session_key_t *key,
                              apr_time_t now, apr_uint64_t *member)
{
    int due;

    return mcp_session_use(table, key, now, 0, member, &due);
}

apr_status_t mcp_session_use(mcp_session_table_t *table, const mcp_session_key_t *key,
                             apr_time_t now, apr_time_t since, apr_uint64_t *member, int *due)
{
    apr_status_t rv = APR_SUCCESS;
    apr_uint32_t i;

    *due = 0;
    lock(table);
    advance(table, now);
    i = find_current(table, key->id);
    if (!i) {
        rv = APR_NOTFOUND;
    } else if (!is_owner(table, i, key)) {
        rv = APR_EACCES;
    } else {
        mcp_session_entry_t *entry = mcp_session_entry(table, i);

        *member = entry->member;
        touch(table, i);
        *due = entry->told < since;
        entry->told = *due ? now : entry->told;
    }
    unlock(table);
    return rv;
}

void mcp_session_told(mcp_session_table_t *table, const mcp_session_key_t *key, apr_time_t when)
{
    apr_uint32_t i;

    lock(table);
    i = mcp_session_lookup(table, key->id);
    if (i && is_owner(table, i, key)) {
        mcp_session_entry(table, i)->told = when;
    }
    unlock(table);
}

static unsigned drop_expired(mcp_session_table_t *table, unsigned most)
{
    unsigned count = 0;

    while (count < most && table->idle.oldest && is_expired(table, table->idle.oldest)) {
        mcp_session_drop(table, table->idle.oldest);
        count++;
    }
    return count;
}

/* A free entry, made if need be; 0 if every one has an open stream. */
static apr_uint32_t make_room(mcp_session_table_t *table)
{
    apr_uint32_t victim;

    if (!table->free_entry && !drop_expired(table, EXPIRED_AT_ONCE)) {
        victim = mcp_session_victim(table);
        if (!victim) {
            return 0;
        }
        mcp_session_drop(table, victim);
    }
    return mcp_session_take_free(table);
}

static apr_status_t add_entry(mcp_session_table_t *table, const mcp_session_key_t *key,
                              apr_uint64_t member)
{
    apr_uint32_t i = make_room(table);
    mcp_session_entry_t *entry = mcp_session_entry(table, i);

    if (!i) {
        return APR_ENOSPC;
    }
    entry->key = *key;
    __atomic_store_n(&entry->member, member, __ATOMIC_RELAXED);
    entry->used = table->now;
    entry->until = 0;
    entry->told = 0;
    mcp_session_add(table, i);
    return APR_SUCCESS;
}

apr_status_t mcp_session_learn(mcp_session_table_t *table, const mcp_session_key_t *key,
                               apr_uint64_t member, apr_time_t now)
{
    apr_status_t rv = APR_SUCCESS;
    apr_uint32_t i;

    lock(table);
    advance(table, now);
    i = find_current(table, key->id);
    if (i && !is_owner(table, i, key)) {
        /* The backend has given this id to somebody else, and the backend knows. */
        mcp_session_drop(table, i);
        i = 0;
    }
    if (i) {
        __atomic_store_n(&mcp_session_entry(table, i)->member, member, __ATOMIC_RELAXED);
        mcp_session_entry(table, i)->told = 0;
        touch(table, i);
    } else {
        rv = add_entry(table, key, member);
    }
    unlock(table);
    return rv;
}

void mcp_session_forget(mcp_session_table_t *table, const mcp_session_key_t *key)
{
    apr_uint32_t i;

    lock(table);
    i = mcp_session_lookup(table, key->id);
    if (i && is_owner(table, i, key)) {
        mcp_session_drop(table, i);
    }
    unlock(table);
}

static void hold(mcp_session_table_t *table, apr_uint32_t i, apr_time_t until)
{
    mcp_session_entry_t *entry = mcp_session_entry(table, i);

    /* Several streams may hold it: the longest counts. */
    if (until > table->now && until > entry->until) {
        mcp_session_move(table, i, entry->used, until);
    }
}

void mcp_session_hold(mcp_session_table_t *table, const mcp_session_key_t *key, apr_time_t until)
{
    apr_uint32_t i;

    lock(table);
    i = find_current(table, key->id);
    if (i && is_owner(table, i, key)) {
        hold(table, i, until);
    }
    unlock(table);
}

unsigned mcp_session_sweep(mcp_session_table_t *table, apr_time_t now, unsigned most)
{
    unsigned count;

    lock(table);
    advance(table, now);
    count = drop_expired(table, most);
    unlock(table);
    return count;
}

/* Without the lock, which nobody should have to wait for because of this. */
void mcp_session_each(mcp_session_table_t *table, void (*fn)(void *baton, apr_uint64_t member),
                      void *baton)
{
    apr_uint32_t i;

    for (i = 1; i <= table->room; i++) {
        mcp_session_entry_t *entry = mcp_session_entry(table, i);

        if (__atomic_load_n(&entry->live, __ATOMIC_RELAXED)) {
            fn(baton, __atomic_load_n(&entry->member, __ATOMIC_RELAXED));
        }
    }
}

typedef struct count_t {
    apr_uint64_t member;
    unsigned all, of_member;
} count_t;

static void count_one(void *baton, apr_uint64_t member)
{
    count_t *count = baton;

    count->all++;
    count->of_member += count->member == member;
}

unsigned mcp_session_count(mcp_session_table_t *table, apr_uint64_t member, unsigned *of_member)
{
    count_t count = { member, 0, 0 };

    mcp_session_each(table, count_one, &count);
    *of_member = count.of_member;
    return count.all;
}
