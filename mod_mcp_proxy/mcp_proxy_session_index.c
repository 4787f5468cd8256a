/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hash chains, lists, identities and the heap of the session table; see the header. A list is in
 * order of time because every caller first makes idle what is held no longer, so that nothing in
 * it is newer than what is put in front. The heap has the identity on top that loses an entry
 * next: those with an idle entry come first, then those with most entries.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* qsort_r */
#endif

#include "mcp_proxy_session_index.h"

#include <stdlib.h>
#include <string.h>

#define ALIGNMENT 64

enum { ALL, OWN };

typedef struct identity_t {
    unsigned char owner[MCP_SESSION_DIGEST];
    apr_uint32_t count;
    apr_uint32_t chain;
    apr_uint32_t slot; /* in the heap */
    mcp_session_list_t idle;
} identity_t;

static identity_t *identity_of(mcp_session_table_t *table, apr_uint32_t i)
{
    return (identity_t *)((char *)table + table->at.identities) + i;
}

static apr_uint32_t *heap_of(mcp_session_table_t *table)
{
    return (apr_uint32_t *)((char *)table + table->at.heap);
}

/* Digests are uniform already: their first bytes do as a hash. */
static apr_uint32_t *bucket_of(mcp_session_table_t *table, apr_size_t at,
                               const unsigned char *digest)
{
    apr_uint32_t hash;

    memcpy(&hash, digest, sizeof(hash));
    return (apr_uint32_t *)((char *)table + at) + (hash & table->mask);
}

static int is_same(const unsigned char *a, const unsigned char *b)
{
    return !memcmp(a, b, MCP_SESSION_DIGEST);
}

apr_uint32_t mcp_session_lookup(mcp_session_table_t *table, const unsigned char *id)
{
    apr_uint32_t i = *bucket_of(table, table->at.buckets, id);

    while (i && !is_same(mcp_session_entry(table, i)->key.id, id)) {
        i = mcp_session_entry(table, i)->chain;
    }
    return i;
}

static apr_uint32_t lookup_identity(mcp_session_table_t *table, const unsigned char *owner)
{
    apr_uint32_t i = *bucket_of(table, table->at.owner_buckets, owner);

    while (i && !is_same(identity_of(table, i)->owner, owner)) {
        i = identity_of(table, i)->chain;
    }
    return i;
}

static mcp_session_link_t *link_of(mcp_session_table_t *table, int which, apr_uint32_t i)
{
    return &mcp_session_entry(table, i)->links[which];
}

/* Put @a i behind @a newer, or in front of all if that is 0. */
static void insert(mcp_session_table_t *table, mcp_session_list_t *list, int which,
                   apr_uint32_t i, apr_uint32_t newer)
{
    mcp_session_link_t *link = link_of(table, which, i);

    link->newer = newer;
    link->older = newer ? link_of(table, which, newer)->older : list->newest;
    if (newer) {
        link_of(table, which, newer)->older = i;
    } else {
        list->newest = i;
    }
    if (link->older) {
        link_of(table, which, link->older)->newer = i;
    } else {
        list->oldest = i;
    }
}

static void unlink_entry(mcp_session_table_t *table, mcp_session_list_t *list, int which,
                         apr_uint32_t i)
{
    mcp_session_link_t *link = link_of(table, which, i);

    if (link->newer) {
        link_of(table, which, link->newer)->older = link->older;
    } else {
        list->newest = link->older;
    }
    if (link->older) {
        link_of(table, which, link->older)->newer = link->newer;
    } else {
        list->oldest = link->newer;
    }
}

/* Whether @a a loses an entry before @a b does. */
static int goes_first(mcp_session_table_t *table, apr_uint32_t a, apr_uint32_t b)
{
    const identity_t *one = identity_of(table, a), *other = identity_of(table, b);

    if (!one->idle.newest != !other->idle.newest) {
        return one->idle.newest != 0;
    }
    return one->count > other->count;
}

static void put_in_heap(mcp_session_table_t *table, apr_uint32_t slot, apr_uint32_t identity)
{
    heap_of(table)[slot] = identity;
    identity_of(table, identity)->slot = slot;
}

/* Put @a identity where it belongs, given that @a slot is free and all others are in order. */
static void sift(mcp_session_table_t *table, apr_uint32_t slot, apr_uint32_t identity)
{
    apr_uint32_t *heap = heap_of(table), child;

    while (slot > 1 && goes_first(table, identity, heap[slot / 2])) {
        put_in_heap(table, slot, heap[slot / 2]);
        slot /= 2;
    }
    while ((child = 2 * slot) <= table->identity_count) {
        if (child < table->identity_count && goes_first(table, heap[child + 1], heap[child])) {
            child++;
        }
        if (!goes_first(table, heap[child], identity)) {
            break;
        }
        put_in_heap(table, slot, heap[child]);
        slot = child;
    }
    put_in_heap(table, slot, identity);
}

static void settle(mcp_session_table_t *table, apr_uint32_t identity)
{
    sift(table, identity_of(table, identity)->slot, identity);
}

static apr_uint32_t add_identity(mcp_session_table_t *table, const unsigned char *owner)
{
    apr_uint32_t *bucket = bucket_of(table, table->at.owner_buckets, owner);
    apr_uint32_t i = table->free_identity;
    identity_t *identity = identity_of(table, i);

    table->free_identity = identity->chain;
    memset(identity, 0, sizeof(*identity));
    memcpy(identity->owner, owner, MCP_SESSION_DIGEST);
    identity->chain = *bucket;
    *bucket = i;
    table->identity_count++;
    sift(table, table->identity_count, i);
    return i;
}

static void drop_identity(mcp_session_table_t *table, apr_uint32_t i)
{
    identity_t *identity = identity_of(table, i);
    apr_uint32_t *at = bucket_of(table, table->at.owner_buckets, identity->owner);
    apr_uint32_t last = heap_of(table)[table->identity_count--];

    if (last != i) {
        sift(table, identity->slot, last);
    }
    while (*at != i) {
        at = &identity_of(table, *at)->chain;
    }
    *at = identity->chain;
    identity->chain = table->free_identity;
    table->free_identity = i;
}

/* Into the lists that used and until ask for. */
static void enter_lists(mcp_session_table_t *table, apr_uint32_t i)
{
    mcp_session_entry_t *entry = mcp_session_entry(table, i);
    apr_uint32_t newer = 0, next = table->held.newest;

    if (entry->until) {
        /* Leases are about as long as each other, so this ends soon. */
        while (next && mcp_session_entry(table, next)->until > entry->until) {
            newer = next;
            next = mcp_session_entry(table, next)->links[ALL].older;
        }
        insert(table, &table->held, ALL, i, newer);
    } else {
        insert(table, &table->idle, ALL, i, 0);
        insert(table, &identity_of(table, entry->identity)->idle, OWN, i, 0);
    }
    settle(table, entry->identity);
}

static void leave_lists(mcp_session_table_t *table, apr_uint32_t i)
{
    mcp_session_entry_t *entry = mcp_session_entry(table, i);

    if (entry->until) {
        unlink_entry(table, &table->held, ALL, i);
    } else {
        unlink_entry(table, &table->idle, ALL, i);
        unlink_entry(table, &identity_of(table, entry->identity)->idle, OWN, i);
    }
}

/* Everything that refers to a filled-in entry. */
static void attach(mcp_session_table_t *table, apr_uint32_t i)
{
    mcp_session_entry_t *entry = mcp_session_entry(table, i);
    apr_uint32_t *bucket = bucket_of(table, table->at.buckets, entry->key.id);
    apr_uint32_t identity = lookup_identity(table, entry->key.owner);

    entry->chain = *bucket;
    *bucket = i;
    entry->identity = identity ? identity : add_identity(table, entry->key.owner);
    identity_of(table, entry->identity)->count++;
    enter_lists(table, i);
}

void mcp_session_move(mcp_session_table_t *table, apr_uint32_t i, apr_time_t used,
                      apr_time_t until)
{
    mcp_session_entry_t *entry = mcp_session_entry(table, i);

    leave_lists(table, i);
    entry->used = used;
    entry->until = until;
    enter_lists(table, i);
}

static void set_live(mcp_session_entry_t *entry, apr_uint32_t live)
{
    /* Ordered on both sides, as the next instruction may never come. */
    __atomic_store_n(&entry->live, live, __ATOMIC_SEQ_CST);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

void mcp_session_drop(mcp_session_table_t *table, apr_uint32_t i)
{
    mcp_session_entry_t *entry = mcp_session_entry(table, i);
    apr_uint32_t *at = bucket_of(table, table->at.buckets, entry->key.id);

    set_live(entry, 0);
    while (*at != i) {
        at = &mcp_session_entry(table, *at)->chain;
    }
    *at = entry->chain;
    leave_lists(table, i);
    if (--identity_of(table, entry->identity)->count) {
        settle(table, entry->identity);
    } else {
        drop_identity(table, entry->identity);
    }
    entry->chain = table->free_entry;
    table->free_entry = i;
}

void mcp_session_add(mcp_session_table_t *table, apr_uint32_t i)
{
    attach(table, i);
    set_live(mcp_session_entry(table, i), 1);
}

apr_uint32_t mcp_session_take_free(mcp_session_table_t *table)
{
    apr_uint32_t i = table->free_entry;

    table->free_entry = mcp_session_entry(table, i)->chain;
    return i;
}

apr_uint32_t mcp_session_victim(mcp_session_table_t *table)
{
    if (!table->identity_count) {
        return 0;
    }
    return identity_of(table, heap_of(table)[1])->idle.oldest;
}

static apr_size_t take_room(mcp_session_layout_t *at, apr_size_t count, apr_size_t size)
{
    apr_size_t start = at->end;

    at->end += (count * size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return start;
}

static apr_uint32_t mask_for(unsigned entries)
{
    apr_uint32_t mask = 1;

    while (mask < entries) {
        mask = mask << 1 | 1;
    }
    return mask;
}

mcp_session_layout_t mcp_session_lay_out(unsigned entries)
{
    const apr_size_t slots = (apr_size_t)entries + 1;
    const apr_size_t buckets = (apr_size_t)mask_for(entries) + 1;
    mcp_session_layout_t at = { 0 };

    take_room(&at, 1, sizeof(mcp_session_table_t));
    at.entries = take_room(&at, slots, sizeof(mcp_session_entry_t));
    at.identities = take_room(&at, slots, sizeof(identity_t));
    at.buckets = take_room(&at, buckets, sizeof(apr_uint32_t));
    at.owner_buckets = take_room(&at, buckets, sizeof(apr_uint32_t));
    at.heap = take_room(&at, slots, sizeof(apr_uint32_t));
    at.order = take_room(&at, slots, sizeof(apr_uint32_t));
    return at;
}

/* Nothing is referred to, and every entry that is not live is free. */
static void clear_links(mcp_session_table_t *table)
{
    const apr_size_t size = ((apr_size_t)table->mask + 1) * sizeof(apr_uint32_t);
    apr_uint32_t i;

    memset((char *)table + table->at.buckets, 0, size);
    memset((char *)table + table->at.owner_buckets, 0, size);
    memset(&table->idle, 0, sizeof(table->idle));
    memset(&table->held, 0, sizeof(table->held));
    table->identity_count = 0;
    table->free_entry = 0;
    table->free_identity = 0;
    for (i = table->room; i; i--) {
        identity_of(table, i)->chain = table->free_identity;
        table->free_identity = i;
        if (!mcp_session_entry(table, i)->live) {
            mcp_session_entry(table, i)->chain = table->free_entry;
            table->free_entry = i;
        }
    }
}

void mcp_session_index_init(mcp_session_table_t *table, unsigned entries)
{
    table->at = mcp_session_lay_out(entries);
    table->room = entries;
    table->mask = mask_for(entries);
    clear_links(table);
}

static int compare_age(const void *a, const void *b, void *baton)
{
    const mcp_session_entry_t *one = mcp_session_entry(baton, *(const apr_uint32_t *)a);
    const mcp_session_entry_t *other = mcp_session_entry(baton, *(const apr_uint32_t *)b);
    const apr_time_t left = one->until ? one->until : one->used;
    const apr_time_t right = other->until ? other->until : other->used;

    return (left > right) - (left < right);
}

void mcp_session_rebuild(mcp_session_table_t *table)
{
    apr_uint32_t *order = (apr_uint32_t *)((char *)table + table->at.order);
    apr_uint32_t count = 0, i;

    clear_links(table);
    for (i = 1; i <= table->room; i++) {
        if (mcp_session_entry(table, i)->live) {
            order[count++] = i;
        }
    }
    qsort_r(order, count, sizeof(*order), compare_age, table);
    for (i = 0; i < count; i++) {
        attach(table, order[i]);
    }
}


static const char *check_list(mcp_session_table_t *table, const mcp_session_list_t *list,
                              int which, int held)
{
    apr_uint32_t i, newer = 0;

    for (i = list->newest; i; newer = i, i = link_of(table, which, i)->older) {
        const mcp_session_entry_t *entry = mcp_session_entry(table, i), *before;

        if (!entry->live || (entry->until != 0) != held || entry->links[which].newer != newer) {
            return "a list holds what it should not";
        }
        before = mcp_session_entry(table, newer);
        if (newer && (held ? before->until < entry->until : before->used < entry->used)) {
            return "a list is out of order";
        }
    }
    return list->oldest == newer ? NULL : "a list ends elsewhere";
}

static apr_uint32_t count_list(mcp_session_table_t *table, const mcp_session_list_t *list,
                               int which)
{
    apr_uint32_t i, count = 0;

    for (i = list->newest; i; i = link_of(table, which, i)->older) {
        count++;
    }
    return count;
}

/* The entries of one identity, and its place. */
static const char *check_identity(mcp_session_table_t *table, apr_uint32_t slot,
                                  apr_uint32_t *entries)
{
    apr_uint32_t i = heap_of(table)[slot], j, count = 0, idle = 0;
    identity_t *identity = identity_of(table, i);

    for (j = 1; j <= table->room; j++) {
        const mcp_session_entry_t *entry = mcp_session_entry(table, j);

        if (entry->live && is_same(entry->key.owner, identity->owner)) {
            count++;
            idle += !entry->until;
        }
    }
    if (!count || identity->count != count || lookup_identity(table, identity->owner) != i
        || count_list(table, &identity->idle, OWN) != idle) {
        return "an identity has other entries than it says";
    }
    if (identity->slot != slot || (slot > 1 && goes_first(table, i, heap_of(table)[slot / 2]))) {
        return "the heap is out of order";
    }
    *entries += count;
    return check_list(table, &identity->idle, OWN, 0);
}

static apr_uint32_t count_free(mcp_session_table_t *table)
{
    apr_uint32_t i, count = 0;

    for (i = table->free_entry; i; i = mcp_session_entry(table, i)->chain) {
        count += !mcp_session_entry(table, i)->live;
    }
    return count;
}

static apr_uint32_t count_free_identities(mcp_session_table_t *table)
{
    apr_uint32_t i, count = 0;

    for (i = table->free_identity; i; i = identity_of(table, i)->chain) {
        count++;
    }
    return count;
}

const char *mcp_session_check(mcp_session_table_t *table)
{
    apr_uint32_t i, live = 0, owned = 0;
    const char *wrong;

    for (i = 1; i <= table->room; i++) {
        const mcp_session_entry_t *entry = mcp_session_entry(table, i);

        live += entry->live;
        if (entry->live && mcp_session_lookup(table, entry->key.id) != i) {
            return "an entry cannot be found";
        }
    }
    for (i = 1; i <= table->identity_count; i++) {
        wrong = check_identity(table, i, &owned);
        if (wrong) {
            return wrong;
        }
    }
    wrong = check_list(table, &table->idle, ALL, 0);
    if (!wrong) {
        wrong = check_list(table, &table->held, ALL, 1);
    }
    if (!wrong && (owned != live || count_free(table) != table->room - live
                   || count_free_identities(table) != table->room - table->identity_count
                   || count_list(table, &table->idle, ALL) + count_list(table, &table->held, ALL)
                          != live)) {
        wrong = "the counts do not agree";
    }
    return wrong;
}

void mcp_session_wreck(mcp_session_table_t *table)
{
    apr_uint32_t i;

    pthread_mutex_lock(&table->lock);
    memset((char *)table + table->at.identities, 0xff, table->at.end - table->at.identities);
    memset(&table->idle, 0xff, sizeof(table->idle));
    memset(&table->held, 0xff, sizeof(table->held));
    table->identity_count = table->free_entry = table->free_identity = 0xffffffff;
    for (i = 1; i <= table->room; i++) {
        mcp_session_entry_t *entry = mcp_session_entry(table, i);

        memset(entry->links, 0xff, sizeof(entry->links));
        entry->chain = entry->identity = 0xffffffff;
    }
}
