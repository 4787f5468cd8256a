/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into httpd by the tests, together with AddressSanitizer, which takes a pool for one
 * large piece of memory: here each block of a pool, and each of a bucket allocator, is malloc'ed.
 * They are freed by the cleanup that was registered first, so that it runs last. Two threads at one
 * bucket allocator end the child, since a connection has one owner at any moment.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* RTLD_NEXT */
#endif
#include <apr_buckets.h>
#include <apr_pools.h>
#include <apr_strings.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHARDS 1024
#define LONGEST_TEXT 16384

typedef struct block_t {
    struct block_t *next;
    size_t unused; /* what follows is aligned to 16 */
} block_t;

typedef struct owned_t {
    apr_pool_t *pool;
    block_t *blocks;
    struct owned_t *next;
} owned_t;

static struct {
    pthread_mutex_t lock;
    owned_t *first;
} shards[SHARDS];

static void *allocate(size_t size)
{
    void *made = malloc(size);

    if (!made) {
        abort();
    }
    return made;
}

__attribute__((constructor)) static void set_up(void)
{
    int i;

    for (i = 0; i < SHARDS; i++) {
        pthread_mutex_init(&shards[i].lock, NULL);
    }
}

static unsigned shard_of(const apr_pool_t *pool)
{
    return (unsigned)((uintptr_t)pool >> 4) * 2654435761u % SHARDS;
}

static apr_status_t free_blocks(void *data)
{
    owned_t *owned = data, **link;
    unsigned shard = shard_of(owned->pool);

    pthread_mutex_lock(&shards[shard].lock);
    for (link = &shards[shard].first; *link != owned; link = &(*link)->next) {
    }
    *link = owned->next;
    pthread_mutex_unlock(&shards[shard].lock);
    while (owned->blocks) {
        block_t *block = owned->blocks;

        owned->blocks = block->next;
        free(block);
    }
    free(owned);
    return APR_SUCCESS;
}

static owned_t *find(apr_pool_t *pool)
{
    unsigned shard = shard_of(pool);
    owned_t *owned;

    pthread_mutex_lock(&shards[shard].lock);
    for (owned = shards[shard].first; owned && owned->pool != pool; owned = owned->next) {
    }
    pthread_mutex_unlock(&shards[shard].lock);
    return owned;
}

static owned_t *add(apr_pool_t *pool)
{
    unsigned shard = shard_of(pool);
    owned_t *owned = allocate(sizeof(*owned));

    owned->pool = pool;
    owned->blocks = NULL;
    pthread_mutex_lock(&shards[shard].lock);
    owned->next = shards[shard].first;
    shards[shard].first = owned;
    pthread_mutex_unlock(&shards[shard].lock);
    apr_pool_cleanup_register(pool, owned, free_blocks, apr_pool_cleanup_null);
    return owned;
}

void *apr_palloc(apr_pool_t *pool, apr_size_t size)
{
    owned_t *owned = find(pool);
    block_t *block = allocate(sizeof(*block) + size);

    owned = owned ? owned : add(pool);
    block->next = owned->blocks;
    owned->blocks = block;
    return block + 1;
}

#undef apr_pcalloc
void *apr_pcalloc(apr_pool_t *pool, apr_size_t size)
{
    return memset(apr_palloc(pool, size), 0, size);
}

/* APR writes texts straight into what is left of a pool. */
char *apr_pvsprintf(apr_pool_t *pool, const char *format, va_list arguments)
{
    char *(*usual)(apr_pool_t *, const char *, va_list) = dlsym(RTLD_NEXT, "apr_pvsprintf");
    char text[LONGEST_TEXT];
    va_list copy;
    int len;

    va_copy(copy, arguments);
    len = apr_vsnprintf(text, sizeof(text), format, copy);
    va_end(copy);
    return len >= 0 && len < LONGEST_TEXT - 1 ? apr_pmemdup(pool, text, (apr_size_t)len + 1)
                                              : usual(pool, format, arguments);
}

char *apr_psprintf(apr_pool_t *pool, const char *format, ...)
{
    va_list arguments;
    char *text;

    va_start(arguments, format);
    text = apr_pvsprintf(pool, format, arguments);
    va_end(arguments);
    return text;
}

/* ---- buckets ---- */

typedef struct piece_t {
    struct piece_t *next, **prev;
    apr_bucket_alloc_t *list;
    size_t unused;
} piece_t;

struct apr_bucket_alloc_t {
    apr_pool_t *pool;
    piece_t *pieces;
    atomic_int busy;
};

static void enter(apr_bucket_alloc_t *list)
{
    if (atomic_exchange(&list->busy, 1)) {
        fputs("two threads at one bucket allocator\n", stderr);
        abort();
    }
}

static apr_status_t free_pieces(void *data)
{
    apr_bucket_alloc_t *list = data;

    while (list->pieces) {
        piece_t *piece = list->pieces;

        list->pieces = piece->next;
        free(piece);
    }
    free(list);
    return APR_SUCCESS;
}

apr_bucket_alloc_t *apr_bucket_alloc_create_ex(apr_allocator_t *allocator)
{
    return memset(allocate(sizeof(apr_bucket_alloc_t)), 0, sizeof(apr_bucket_alloc_t));
}

apr_bucket_alloc_t *apr_bucket_alloc_create(apr_pool_t *pool)
{
    apr_bucket_alloc_t *list = apr_bucket_alloc_create_ex(NULL);

    list->pool = pool;
    apr_pool_cleanup_register(pool, list, free_pieces, apr_pool_cleanup_null);
    return list;
}

void apr_bucket_alloc_destroy(apr_bucket_alloc_t *list)
{
    if (list->pool) {
        apr_pool_cleanup_kill(list->pool, list, free_pieces);
    }
    free_pieces(list);
}

apr_size_t apr_bucket_alloc_aligned_floor(apr_bucket_alloc_t *list, apr_size_t size)
{
    return size & ~(apr_size_t)7;
}

void *apr_bucket_alloc(apr_size_t size, apr_bucket_alloc_t *list)
{
    piece_t *piece = allocate(sizeof(*piece) + size);

    enter(list);
    piece->list = list;
    piece->next = list->pieces;
    piece->prev = &list->pieces;
    if (piece->next) {
        piece->next->prev = &piece->next;
    }
    list->pieces = piece;
    atomic_store(&list->busy, 0);
    return piece + 1;
}

void apr_bucket_free(void *block)
{
    piece_t *piece = (piece_t *)block - 1;
    apr_bucket_alloc_t *list = piece->list;

    enter(list);
    *piece->prev = piece->next;
    if (piece->next) {
        piece->next->prev = piece->prev;
    }
    atomic_store(&list->busy, 0);
    free(piece);
}
