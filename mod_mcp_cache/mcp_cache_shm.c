/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shards of one shared block. Each shard: a header with its lock, hash buckets, slots (one per
 * value), blocks (the bytes, chained). All links are indexes from 1; 0 is none. A lock whose owner
 * died says so, and the shard is laid out anew: links that were being changed cannot be trusted.
 * Generations are an array of counters outside of the shards, picked by hash: two tags that share
 * one are invalidated together, which costs hits and nothing else.
 *
 * Budget of a hit: one lock, one copy, no allocation but the copy's.
 */
#include "mcp_cache_shm.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "mcp_clock.h"

#define MAGIC 0x31434853504d0001ULL
#define BLOCK 1024
#define BLOCK_DATA (BLOCK - sizeof(apr_uint32_t))
#define MAX_SHARDS 64
#define SHARD_SIZE (8 * 1024 * 1024)
#define GENERATIONS 8192

typedef struct slot_t {
    unsigned char digest[MCP_CACHE_DIGEST];
    apr_time_t expires;     /* of mcp_clock_now() */
    apr_uint32_t next;      /* in the bucket, or of the free ones */
    apr_uint32_t newer, older;
    apr_uint32_t block;
    apr_uint32_t len;
} slot_t;

typedef struct block_t {
    apr_uint32_t next;
    char data[BLOCK_DATA];
} block_t;

/* Protected by its mutex, all of it. */
typedef struct shard_t {
    pthread_mutex_t mutex;
    apr_uint32_t newest, oldest;
    apr_uint32_t free_slot, free_block;
    apr_uint32_t free_blocks;
    apr_uint32_t entries;
    apr_uint64_t bytes;
} shard_t;

struct mcp_cache_shm_t {
    apr_uint64_t magic;
    apr_uint64_t size;
    apr_uint32_t shards;
    apr_uint32_t buckets; /* of a shard, a power of two */
    apr_uint32_t slots;   /* of a shard, and as many blocks */
    apr_uint32_t unused;
    apr_uint64_t shard_size, slots_at, blocks_at, first_at;
    apr_uint64_t generation[GENERATIONS]; /* atomic */
};

/* One shard, with its parts found. */
typedef struct view_t {
    const mcp_cache_shm_t *shm;
    shard_t *shard;
    apr_uint32_t *buckets;
    slot_t *slots;   /* slots[1] is the first */
    block_t *blocks; /* the same */
} view_t;

static apr_uint64_t round_up(apr_uint64_t n)
{
    return (n + 63) & ~(apr_uint64_t)63;
}

static view_t view_of(mcp_cache_shm_t *shm, apr_uint32_t index)
{
    char *base = (char *)shm + shm->first_at + index * shm->shard_size;
    view_t v = {shm, (shard_t *)base, NULL, NULL, NULL};

    v.buckets = (apr_uint32_t *)(base + round_up(sizeof(shard_t)));
    v.slots = (slot_t *)(base + shm->slots_at) - 1;
    v.blocks = (block_t *)(base + shm->blocks_at) - 1;
    return v;
}

/* Everything free. The mutex stays as it is. */
static void reset_shard(view_t *v)
{
    apr_uint32_t i, n = v->shm->slots;

    memset(v->buckets, 0, v->shm->buckets * sizeof(apr_uint32_t));
    for (i = 1; i <= n; i++) {
        v->slots[i].next = i < n ? i + 1 : 0;
        v->blocks[i].next = i < n ? i + 1 : 0;
    }
    v->shard->newest = v->shard->oldest = 0;
    v->shard->free_slot = v->shard->free_block = 1;
    v->shard->free_blocks = n;
    v->shard->entries = 0;
    v->shard->bytes = 0;
}

static void init_mutex(pthread_mutex_t *mutex)
{
    pthread_mutexattr_t attr;

    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(mutex, &attr);
    pthread_mutexattr_destroy(&attr);
}

static void lock_shard(view_t *v)
{
    if (pthread_mutex_lock(&v->shard->mutex) == EOWNERDEAD) {
        reset_shard(v);
        pthread_mutex_consistent(&v->shard->mutex);
    }
}

static void unlock_shard(view_t *v)
{
    pthread_mutex_unlock(&v->shard->mutex);
}

/* How many slots, buckets and blocks fit a shard of that size. */
static void divide(mcp_cache_shm_t *shm)
{
    apr_uint64_t head = round_up(sizeof(shard_t)), each = sizeof(slot_t) + sizeof(block_t) + 8;
    apr_uint64_t slots = (shm->shard_size - head - 256) / each;
    apr_uint32_t buckets = 1;

    while (buckets < slots) {
        buckets *= 2;
    }
    if (buckets > slots * 2 - slots / 2) { /* keep the table between half and one and a half */
        buckets /= 2;
    }
    shm->buckets = buckets;
    shm->slots = (apr_uint32_t)slots;
    shm->slots_at = head + round_up(buckets * sizeof(apr_uint32_t));
    shm->blocks_at = shm->slots_at + round_up(slots * sizeof(slot_t));
}

mcp_cache_shm_t *mcp_cache_shm_init(void *mem, apr_size_t size, apr_size_t largest)
{
    apr_size_t shard_size = largest > SHARD_SIZE / 5 ? largest * 5 : SHARD_SIZE;
    mcp_cache_shm_t *shm = mem;
    apr_uint32_t i;

    shm->size = size;
    shm->first_at = round_up(sizeof(*shm));
    shm->shards = (apr_uint32_t)(size / shard_size);
    if (shm->shards > MAX_SHARDS) {
        shm->shards = MAX_SHARDS;
    } else if (!shm->shards) {
        shm->shards = 1;
    }
    shm->shard_size = (size - shm->first_at) / shm->shards / 64 * 64;
    divide(shm);
    for (i = 0; i < shm->shards; i++) {
        view_t v = view_of(shm, i);

        init_mutex(&v.shard->mutex);
        reset_shard(&v);
    }
    for (i = 0; i < GENERATIONS; i++) {
        shm->generation[i] = 1;
    }
    shm->magic = MAGIC;
    return shm;
}

mcp_cache_shm_t *mcp_cache_shm_attach(void *mem, apr_size_t size)
{
    mcp_cache_shm_t *shm = mem;

    return shm->magic == MAGIC && shm->size == size ? shm : NULL;
}

static view_t view_for(mcp_cache_shm_t *shm, const unsigned char *digest)
{
    return view_of(shm, ((apr_uint32_t)digest[0] << 8 | digest[1]) % shm->shards);
}

static apr_uint32_t *bucket_for(view_t *v, const unsigned char *digest)
{
    apr_uint32_t hash;

    memcpy(&hash, digest + 4, sizeof(hash));
    return &v->buckets[hash & (v->shm->buckets - 1)];
}

static void unlink_used_locked(view_t *v, apr_uint32_t at)
{
    slot_t *slot = &v->slots[at];

    if (slot->newer) {
        v->slots[slot->newer].older = slot->older;
    } else {
        v->shard->newest = slot->older;
    }
    if (slot->older) {
        v->slots[slot->older].newer = slot->newer;
    } else {
        v->shard->oldest = slot->newer;
    }
}

static void link_newest_locked(view_t *v, apr_uint32_t at)
{
    slot_t *slot = &v->slots[at];

    slot->newer = 0;
    slot->older = v->shard->newest;
    if (slot->older) {
        v->slots[slot->older].newer = at;
    } else {
        v->shard->oldest = at;
    }
    v->shard->newest = at;
}

static void free_blocks_locked(view_t *v, apr_uint32_t first)
{
    while (first) {
        apr_uint32_t next = v->blocks[first].next;

        v->blocks[first].next = v->shard->free_block;
        v->shard->free_block = first;
        v->shard->free_blocks++;
        first = next;
    }
}

static void drop_locked(view_t *v, apr_uint32_t at)
{
    slot_t *slot = &v->slots[at];
    apr_uint32_t *link = bucket_for(v, slot->digest);

    while (*link && *link != at) {
        link = &v->slots[*link].next;
    }
    *link = slot->next;
    unlink_used_locked(v, at);
    free_blocks_locked(v, slot->block);
    v->shard->entries--;
    v->shard->bytes -= slot->len;
    slot->next = v->shard->free_slot;
    v->shard->free_slot = at;
}

/* The live slot of a digest, or 0. One that is out of time is dropped. */
static apr_uint32_t find_locked(view_t *v, const unsigned char *digest, apr_time_t now)
{
    apr_uint32_t at = *bucket_for(v, digest);

    while (at && memcmp(v->slots[at].digest, digest, MCP_CACHE_DIGEST)) {
        at = v->slots[at].next;
    }
    if (at && v->slots[at].expires <= now) {
        drop_locked(v, at);
        return 0;
    }
    return at;
}

static void copy_out_locked(const view_t *v, const slot_t *slot, char *to)
{
    apr_size_t left = slot->len;
    apr_uint32_t at;

    for (at = slot->block; left; at = v->blocks[at].next) {
        apr_size_t n = left < BLOCK_DATA ? left : BLOCK_DATA;

        memcpy(to, v->blocks[at].data, n);
        to += n;
        left -= n;
    }
}

/* Fill a slot's chain; there are enough free blocks. */
static void copy_in_locked(view_t *v, slot_t *slot, mcp_span_t value)
{
    apr_uint32_t *link = &slot->block;
    const char *from = value.p;
    apr_size_t left = value.len;

    while (left) {
        apr_size_t n = left < BLOCK_DATA ? left : BLOCK_DATA;
        apr_uint32_t at = v->shard->free_block;

        v->shard->free_block = v->blocks[at].next;
        v->shard->free_blocks--;
        memcpy(v->blocks[at].data, from, n);
        *link = at;
        link = &v->blocks[at].next;
        from += n;
        left -= n;
    }
    *link = 0;
}

apr_status_t mcp_cache_shm_get(mcp_cache_shm_t *shm, const unsigned char digest[MCP_CACHE_DIGEST],
                               apr_pool_t *p, mcp_span_t *value, apr_interval_time_t *left)
{
    apr_time_t now = mcp_clock_now();
    view_t v = view_for(shm, digest);
    apr_status_t rv = APR_NOTFOUND;
    apr_uint32_t at;

    lock_shard(&v);
    at = find_locked(&v, digest, now);
    if (at) {
        char *copy = apr_palloc(p, v.slots[at].len + 1);

        copy_out_locked(&v, &v.slots[at], copy);
        value->p = copy;
        value->len = v.slots[at].len;
        *left = v.slots[at].expires - now;
        if (v.shard->newest != at) {
            unlink_used_locked(&v, at);
            link_newest_locked(&v, at);
        }
        rv = APR_SUCCESS;
    }
    unlock_shard(&v);
    return rv;
}

static void put_locked(view_t *v, const unsigned char *digest, mcp_span_t value,
                       apr_time_t expires)
{
    apr_uint64_t needed = (value.len + BLOCK_DATA - 1) / BLOCK_DATA;
    apr_uint32_t at = find_locked(v, digest, 0), *bucket;
    slot_t *slot;

    if (at) {
        drop_locked(v, at);
    }
    while (!v->shard->free_slot || v->shard->free_blocks < needed) {
        drop_locked(v, v->shard->oldest);
    }
    at = v->shard->free_slot;
    slot = &v->slots[at];
    v->shard->free_slot = slot->next;
    memcpy(slot->digest, digest, MCP_CACHE_DIGEST);
    slot->expires = expires;
    slot->len = (apr_uint32_t)value.len;
    copy_in_locked(v, slot, value);
    bucket = bucket_for(v, digest);
    slot->next = *bucket;
    *bucket = at;
    link_newest_locked(v, at);
    v->shard->entries++;
    v->shard->bytes += value.len;
}

apr_status_t mcp_cache_shm_put(mcp_cache_shm_t *shm, const unsigned char digest[MCP_CACHE_DIGEST],
                               mcp_span_t value, apr_interval_time_t life)
{
    view_t v = view_for(shm, digest);

    if (value.len / BLOCK_DATA >= shm->slots / 4) {
        return APR_ENOSPC;
    }
    lock_shard(&v);
    put_locked(&v, digest, value, mcp_clock_now() + life);
    unlock_shard(&v);
    return APR_SUCCESS;
}

apr_uint64_t mcp_cache_shm_generation(mcp_cache_shm_t *shm, apr_uint64_t tag)
{
    return __atomic_load_n(&shm->generation[tag % GENERATIONS], __ATOMIC_SEQ_CST);
}

void mcp_cache_shm_invalidate(mcp_cache_shm_t *shm, apr_uint64_t tag)
{
    __atomic_add_fetch(&shm->generation[tag % GENERATIONS], 1, __ATOMIC_SEQ_CST);
}

void mcp_cache_shm_usage(mcp_cache_shm_t *shm, apr_uint64_t *entries, apr_uint64_t *bytes)
{
    apr_uint32_t i;

    *entries = *bytes = 0;
    for (i = 0; i < shm->shards; i++) {
        view_t v = view_of(shm, i);

        lock_shard(&v);
        *entries += v.shard->entries;
        *bytes += v.shard->bytes;
        unlock_shard(&v);
    }
}

typedef struct shm_store_t {
    mcp_cache_store_t store;
    mcp_cache_shm_t *shm;
} shm_store_t;

static mcp_cache_shm_t *shm_of(mcp_cache_store_t *store)
{
    return ((shm_store_t *)store)->shm;
}

static void read_session(mcp_cache_shm_t *shm, mcp_cache_query_t *query, apr_pool_t *p)
{
    mcp_span_t mark;
    apr_interval_time_t left;

    query->session_state = MCP_CACHE_SESSION_UNKNOWN;
    if (query->session
        && mcp_cache_shm_get(shm, query->session, p, &mark, &left) == APR_SUCCESS && mark.len == 1) {
        query->session_state = *mark.p == 'L' ? MCP_CACHE_SESSION_LIVE : MCP_CACHE_SESSION_ENDED;
    }
}

static apr_status_t shm_lookup(mcp_cache_store_t *store, mcp_cache_query_t *query, apr_pool_t *p)
{
    mcp_cache_shm_t *shm = shm_of(store);
    mcp_cache_generations_t *g = &query->generations;
    int i;

    /* Generations first: what was invalidated after they were read is then served at most once
     * more, never stored as if it were new. */
    for (i = 0; i < MCP_CACHE_TAGS; i++) {
        g->value[i] = g->tag[i] ? mcp_cache_shm_generation(shm, g->tag[i]) : 0;
    }
    read_session(shm, query, p);
    for (i = 0; i < query->count; i++) {
        if (mcp_cache_shm_get(shm, query->digest[i], p, &query->value[i], &query->left[i])
            != APR_SUCCESS) {
            query->value[i].p = NULL;
        }
    }
    return APR_SUCCESS;
}

static apr_status_t shm_put(mcp_cache_store_t *store, const mcp_cache_put_t *put)
{
    mcp_cache_shm_t *shm = shm_of(store);
    const mcp_cache_generations_t *g = put->generations;
    int i;

    for (i = 0; i < MCP_CACHE_TAGS; i++) {
        if (g->tag[i] && mcp_cache_shm_generation(shm, g->tag[i]) != g->value[i]) {
            return APR_EEXIST;
        }
    }
    return mcp_cache_shm_put(shm, put->digest, put->value, put->life);
}

static apr_status_t shm_invalidate(mcp_cache_store_t *store, apr_uint64_t tag)
{
    mcp_cache_shm_invalidate(shm_of(store), tag);
    return APR_SUCCESS;
}

static apr_status_t shm_session(mcp_cache_store_t *store,
                                const unsigned char digest[MCP_CACHE_DIGEST],
                                mcp_cache_session_e state)
{
    static const mcp_span_t live = {"L", 1}, ended = {"E", 1};
    mcp_cache_shm_t *shm = shm_of(store);
    apr_time_t now = mcp_clock_now();
    view_t v = view_for(shm, digest);
    apr_uint32_t at;

    lock_shard(&v);
    at = find_locked(&v, digest, now);
    if (state == MCP_CACHE_SESSION_ENDED) {
        put_locked(&v, digest, ended, now + MCP_CACHE_SESSION_ENDED_LIFE);
    } else if (!at || v.slots[at].len != 1 || *v.blocks[v.slots[at].block].data != 'E') {
        put_locked(&v, digest, live, now + MCP_CACHE_SESSION_LIFE);
    }
    unlock_shard(&v);
    return APR_SUCCESS;
}

mcp_cache_store_t *mcp_cache_shm_store(mcp_cache_shm_t *shm, apr_pool_t *p)
{
    static const mcp_cache_store_class_t class = {"shm", shm_lookup, shm_put, shm_invalidate,
                                                  shm_session};
    shm_store_t *store = apr_palloc(p, sizeof(*store));

    store->store.class = &class;
    store->shm = shm;
    return &store->store;
}
