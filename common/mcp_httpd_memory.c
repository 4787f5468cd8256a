/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that waiting connections do not need: loans in place of copies, and blocks that go from
 * one connection to the next. Invariant: a block in the store belongs to no allocator, and has been
 * given back by everything that was made from it. The lock guards the store, for a few
 * instructions.
 */
#include "mcp_httpd_memory.h"

#include <apr_allocator.h>
#include <mpm_common.h>
#include <pthread.h>
#include <stdlib.h>
#include <util_filter.h>

/* Blocks that a connection has to spare once its request has been sent on. */
#define SPARE_NODES 3
/* How many wait for new connections; what is more goes back to the system. */
#define STORE_MOST 96

typedef struct mcp_loan_t loan_t;

static struct {
    pthread_mutex_t lock;
    apr_memnode_t *nodes;
    int count;
} store = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* ---- loans ---- */

/*
 * A loan: bytes in a buffer that is used for something else as soon as the write returns.
 * Nearly always they are on the wire by then, and were never copied; what is not is copied at last
 * by mcp_lender_repay(), behind the backs of the filters that hold the bucket. Setting a transient
 * bucket aside would cost every event a copy, and every stream the 8 KB that APR takes for a heap
 * bucket.
 */
struct mcp_loan_t {
    apr_bucket_refcount refcount; /* first: what shared buckets look for */
    const char *base;
    apr_size_t len;
    int is_copied;
    loan_t *next, **prev;         /* in lender->loans, until repaid */
};

static apr_status_t loan_read(apr_bucket *b, const char **str, apr_size_t *len,
                              apr_read_type_e block)
{
    loan_t *loan = b->data;

    *str = loan->base + b->start;
    *len = b->length;
    return APR_SUCCESS;
}

static void loan_destroy(void *data)
{
    loan_t *loan = data;

    if (!apr_bucket_shared_destroy(loan)) {
        return;
    }
    if (loan->prev) {
        *loan->prev = loan->next;
        if (loan->next) {
            loan->next->prev = loan->prev;
        }
    }
    if (loan->is_copied) {
        free((void *)loan->base);
    }
    apr_bucket_free(loan);
}

static const apr_bucket_type_t loan_type = {
    "MCP_LOAN", 5, APR_BUCKET_DATA, loan_destroy, loan_read,
    apr_bucket_setaside_noop, apr_bucket_shared_split, apr_bucket_shared_copy
};

apr_bucket *mcp_lender_lend(mcp_lender_t *lender, const char *buf, apr_size_t len,
                            apr_bucket_alloc_t *list)
{
    apr_bucket *b;
    loan_t *loan;

    b = apr_bucket_alloc(sizeof(*b), list);
    APR_BUCKET_INIT(b);
    b->free = apr_bucket_free;
    b->list = list;
    loan = apr_bucket_alloc(sizeof(*loan), list);
    loan->base = buf;
    loan->len = len;
    loan->is_copied = 0;
    loan->prev = &lender->loans;
    loan->next = lender->loans;
    if (loan->next) {
        loan->next->prev = &loan->next;
    }
    lender->loans = loan;
    b = apr_bucket_shared_make(b, loan, 0, len);
    b->type = &loan_type;
    return b;
}

void mcp_lender_repay(mcp_lender_t *lender)
{
    while (lender->loans) {
        loan_t *loan = lender->loans;
        char *copy = malloc(loan->len);

        if (!copy) {
            abort(); /* Out of memory ends an httpd child, here as in any pool. */
        }
        memcpy(copy, loan->base, loan->len);
        loan->base = copy;
        loan->is_copied = 1;
        lender->loans = loan->next;
        if (loan->next) {
            loan->next->prev = &lender->loans;
        }
        loan->prev = NULL;
    }
}

/* ---- blocks ---- */

/*
 * Looking for input drops the empty bucket that the core's input filter keeps, and its buffer. A
 * TLS client's goodbye that is met by it is not met again.
 */
static apr_status_t drop_read_buffer(request_rec *r)
{
    conn_rec *c = r->connection;
    apr_bucket_brigade *bb = apr_brigade_create(r->pool, c->bucket_alloc);
    apr_status_t rv = ap_get_brigade(c->input_filters, bb, AP_MODE_SPECULATIVE, APR_NONBLOCK_READ,
                                     1);

    apr_brigade_destroy(bb);
    return APR_STATUS_IS_EAGAIN(rv) ? APR_SUCCESS : rv;
}

apr_status_t mcp_memory_spare(request_rec *r)
{
    apr_status_t rv = drop_read_buffer(r);
    apr_allocator_t *allocator = apr_pool_allocator_get(r->connection->pool);
    int i, is_room = 1;

    if (!allocator || rv != APR_SUCCESS) {
        return rv;
    }
    apr_allocator_max_free_set(allocator, 1);
    for (i = 0; i < SPARE_NODES; i++) {
        apr_memnode_t *node = apr_allocator_alloc(allocator, 1);

        if (!node) {
            break;
        }
        pthread_mutex_lock(&store.lock);
        is_room = store.count < STORE_MOST;
        if (is_room) {
            node->next = store.nodes;
            store.nodes = node;
            store.count++;
        }
        pthread_mutex_unlock(&store.lock);
        if (!is_room) {
            node->next = NULL;
            apr_allocator_free(allocator, node);
        }
    }
    apr_allocator_max_free_set(allocator, ap_max_mem_free);
    return APR_SUCCESS;
}

void mcp_memory_seed(conn_rec *c)
{
    apr_allocator_t *allocator = apr_pool_allocator_get(c->pool);
    apr_memnode_t *first, *last;
    int i;

    /* A look without the lock: that none is seen where there is one costs little. */
    if (!allocator || __atomic_load_n(&store.count, __ATOMIC_RELAXED) < SPARE_NODES) {
        return;
    }
    pthread_mutex_lock(&store.lock);
    first = last = store.count < SPARE_NODES ? NULL : store.nodes;
    if (first) {
        for (i = 1; i < SPARE_NODES; i++) {
            last = last->next;
        }
        store.nodes = last->next;
        store.count -= SPARE_NODES;
        last->next = NULL;
    }
    pthread_mutex_unlock(&store.lock);
    if (first) {
        apr_allocator_free(allocator, first);
    }
}
