/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shards of one shared block. Each shard: a header with its lock, hash buckets, slots (one per
 * value), blocks (the bytes, chained). All links are indexes from 1; 0 is none. A lock whose owner
 * died says so, and the shard is laid out anew: links that were being changed cannot be trusted.
 *
 * Budget of a hit: one lock, one copy, no allocation but the copy's.
 */
#include "mcp_blobs.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "mcp_clock.h"

#define MAGIC 0x42434853504d0002ULL
#define BLOCK 1024
#define BLOCK_DATA (BLOCK - sizeof(apr_uint32_t))
#define MAX_SHARDS 64
#define SHARD_SIZE (8 * 1024 * 1024)

typedef struct slot_t {
    unsigned char digest[MCP_BLOBS_DIGEST];
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
    apr_uint32_t free_slot, free_block;   /* given back */
    apr_uint32_t fresh_slot, fresh_block; /* from here on none was ever used */
    apr_uint32_t free_blocks;             /* of both kinds */
    apr_uint32_t entries;
    apr_uint64_t bytes;
} shard_t;

struct mcp_blobs_t {
    apr_uint64_t magic;
    apr_uint64_t size;
    apr_uint32_t shards;
    apr_uint32_t buckets; /* of a shard, a power of two */
    apr_uint32_t slots;   /* of a shard, and as many blocks */
    apr_uint32_t unused;
    apr_uint64_t shard_size, slots_at, blocks_at, first_at;
};

/* One shard, with its parts found. */
typedef struct view_t {
    const mcp_blobs_t *blobs;
    shard_t *shard;
    apr_uint32_t *buckets;
    slot_t *slots;   /* slots[1] is the first */
    block_t *blocks; /* the same */
} view_t;

static apr_uint64_t round_up(apr_uint64_t n)
{
    return (n + 63) & ~(apr_uint64_t)63;
}

static view_t view_of(mcp_blobs_t *blobs, apr_uint32_t index)
{
    char *base = (char *)blobs + blobs->first_at + index * blobs->shard_size;
    view_t v = {blobs, (shard_t *)base, NULL, NULL, NULL};

    v.buckets = (apr_uint32_t *)(base + round_up(sizeof(shard_t)));
    v.slots = (slot_t *)(base + blobs->slots_at) - 1;
    v.blocks = (block_t *)(base + blobs->blocks_at) - 1;
    return v;
}

/* Everything free. The mutex stays as it is. */
static void reset_shard(view_t *v)
{
    memset(v->buckets, 0, v->blobs->buckets * sizeof(apr_uint32_t));
    v->shard->newest = v->shard->oldest = 0;
    v->shard->free_slot = v->shard->free_block = 0;
    v->shard->fresh_slot = v->shard->fresh_block = 1;
    v->shard->free_blocks = v->blobs->slots;
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
static void divide(mcp_blobs_t *blobs)
{
    apr_uint64_t head = round_up(sizeof(shard_t)), each = sizeof(slot_t) + sizeof(block_t) + 8;
    apr_uint64_t slots = (blobs->shard_size - head - 256) / each;
    apr_uint32_t buckets = 1;

    while (buckets < slots) {
        buckets *= 2;
    }
    if (buckets > slots * 2 - slots / 2) { /* keep the table between half and one and a half */
        buckets /= 2;
    }
    blobs->buckets = buckets;
    blobs->slots = (apr_uint32_t)slots;
    blobs->slots_at = head + round_up(buckets * sizeof(apr_uint32_t));
    blobs->blocks_at = blobs->slots_at + round_up(slots * sizeof(slot_t));
}

mcp_blobs_t *mcp_blobs_init(void *mem, apr_size_t size, apr_size_t largest)
{
    apr_size_t shard_size = largest > SHARD_SIZE / 5 ? largest * 5 : SHARD_SIZE;
    mcp_blobs_t *blobs = mem;
    apr_uint32_t i;

    blobs->size = size;
    blobs->first_at = round_up(sizeof(*blobs));
    blobs->shards = (apr_uint32_t)(size / shard_size);
    if (blobs->shards > MAX_SHARDS) {
        blobs->shards = MAX_SHARDS;
    } else if (!blobs->shards) {
        blobs->shards = 1;
    }
    blobs->shard_size = (size - blobs->first_at) / blobs->shards / 64 * 64;
    divide(blobs);
    for (i = 0; i < blobs->shards; i++) {
        view_t v = view_of(blobs, i);

        init_mutex(&v.shard->mutex);
        reset_shard(&v);
    }
    blobs->magic = MAGIC;
    return blobs;
}

mcp_blobs_t *mcp_blobs_attach(void *mem, apr_size_t size)
{
    mcp_blobs_t *blobs = mem;

    return blobs->magic == MAGIC && blobs->size == size ? blobs : NULL;
}

static view_t view_for(mcp_blobs_t *blobs, const unsigned char *digest)
{
    return view_of(blobs, ((apr_uint32_t)digest[0] << 8 | digest[1]) % blobs->shards);
}

static apr_uint32_t *bucket_for(view_t *v, const unsigned char *digest)
{
    apr_uint32_t hash;

    memcpy(&hash, digest + 4, sizeof(hash));
    return &v->buckets[hash & (v->blobs->buckets - 1)];
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

static void use_locked(view_t *v, apr_uint32_t at)
{
    if (v->shard->newest != at) {
        unlink_used_locked(v, at);
        link_newest_locked(v, at);
    }
}

static int has_slot_locked(const view_t *v)
{
    return v->shard->free_slot || v->shard->fresh_slot <= v->blobs->slots;
}

static apr_uint32_t take_slot_locked(view_t *v)
{
    apr_uint32_t at = v->shard->free_slot;

    if (!at) {
        return v->shard->fresh_slot++;
    }
    v->shard->free_slot = v->slots[at].next;
    return at;
}

static apr_uint32_t take_block_locked(view_t *v)
{
    apr_uint32_t at = v->shard->free_block;

    v->shard->free_blocks--;
    if (!at) {
        return v->shard->fresh_block++;
    }
    v->shard->free_block = v->blocks[at].next;
    return at;
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

    while (at && memcmp(v->slots[at].digest, digest, MCP_BLOBS_DIGEST)) {
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
        apr_uint32_t at = take_block_locked(v);

        memcpy(v->blocks[at].data, from, n);
        *link = at;
        link = &v->blocks[at].next;
        from += n;
        left -= n;
    }
    *link = 0;
}

static int is_equal_locked(const view_t *v, const slot_t *slot, mcp_span_t value)
{
    const char *from = value.p;
    apr_size_t left = value.len;
    apr_uint32_t at;

    if (slot->len != value.len) {
        return 0;
    }
    for (at = slot->block; left; at = v->blocks[at].next) {
        apr_size_t n = left < BLOCK_DATA ? left : BLOCK_DATA;

        if (memcmp(v->blocks[at].data, from, n) != 0) {
            return 0;
        }
        from += n;
        left -= n;
    }
    return 1;
}

apr_status_t mcp_blobs_get(mcp_blobs_t *blobs, const unsigned char digest[MCP_BLOBS_DIGEST],
                               apr_pool_t *p, mcp_span_t *value, apr_interval_time_t *left)
{
    apr_time_t now = mcp_clock_now();
    view_t v = view_for(blobs, digest);
    apr_status_t rv = APR_NOTFOUND;
    apr_uint32_t at;

    lock_shard(&v);
    at = find_locked(&v, digest, now);
    if (at) {
        char *copy = apr_palloc(p, v.slots[at].len + 1);

        copy_out_locked(&v, &v.slots[at], copy);
        copy[v.slots[at].len] = '\0';
        value->p = copy;
        value->len = v.slots[at].len;
        *left = v.slots[at].expires - now;
        use_locked(&v, at);
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
    while (!has_slot_locked(v) || v->shard->free_blocks < needed) {
        drop_locked(v, v->shard->oldest);
    }
    at = take_slot_locked(v);
    slot = &v->slots[at];
    memcpy(slot->digest, digest, MCP_BLOBS_DIGEST);
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

static apr_status_t put(mcp_blobs_t *blobs, const unsigned char *digest, mcp_span_t value,
                        apr_interval_time_t life, const mcp_span_t *over)
{
    apr_time_t now = mcp_clock_now();
    view_t v = view_for(blobs, digest);
    apr_status_t rv = APR_SUCCESS;
    apr_uint32_t at;

    if (value.len / BLOCK_DATA >= blobs->slots / 4) {
        return APR_ENOSPC;
    }
    lock_shard(&v);
    at = over ? find_locked(&v, digest, now) : 0;
    if (at && !is_equal_locked(&v, &v.slots[at], *over)) {
        rv = APR_EEXIST;
    } else {
        put_locked(&v, digest, value, now + life);
    }
    unlock_shard(&v);
    return rv;
}

apr_status_t mcp_blobs_put(mcp_blobs_t *blobs, const unsigned char digest[MCP_BLOBS_DIGEST],
                           mcp_span_t value, apr_interval_time_t life)
{
    return put(blobs, digest, value, life, NULL);
}

apr_status_t mcp_blobs_put_over(mcp_blobs_t *blobs, const unsigned char digest[MCP_BLOBS_DIGEST],
                                mcp_span_t value, apr_interval_time_t life, mcp_span_t over)
{
    return put(blobs, digest, value, life, &over);
}

apr_status_t mcp_blobs_prolong(mcp_blobs_t *blobs, const unsigned char digest[MCP_BLOBS_DIGEST],
                               apr_interval_time_t life)
{
    apr_time_t now = mcp_clock_now();
    view_t v = view_for(blobs, digest);
    apr_uint32_t at;

    lock_shard(&v);
    at = find_locked(&v, digest, now);
    if (at) {
        if (v.slots[at].expires < now + life) {
            v.slots[at].expires = now + life;
        }
        use_locked(&v, at);
    }
    unlock_shard(&v);
    return at ? APR_SUCCESS : APR_NOTFOUND;
}

void mcp_blobs_remove(mcp_blobs_t *blobs, const unsigned char digest[MCP_BLOBS_DIGEST],
                      const mcp_span_t *only)
{
    view_t v = view_for(blobs, digest);
    apr_uint32_t at;

    lock_shard(&v);
    at = find_locked(&v, digest, mcp_clock_now());
    if (at && (!only || is_equal_locked(&v, &v.slots[at], *only))) {
        drop_locked(&v, at);
    }
    unlock_shard(&v);
}

void mcp_blobs_usage(mcp_blobs_t *blobs, apr_uint64_t *entries, apr_uint64_t *bytes)
{
    apr_uint32_t i;

    *entries = *bytes = 0;
    for (i = 0; i < blobs->shards; i++) {
        view_t v = view_of(blobs, i);

        lock_shard(&v);
        *entries += v.shard->entries;
        *bytes += v.shard->bytes;
        unlock_shard(&v);
    }
}

