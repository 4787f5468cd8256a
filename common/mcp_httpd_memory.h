/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_HTTPD_MEMORY_H
#define MCP_HTTPD_MEMORY_H

#include <httpd.h>

/*
 * What a connection costs while it waits. APR hands memory out in blocks of 8 KB, to each
 * connection from an allocator of its own that keeps what is given back: three of the eight blocks
 * of a stream would lie idle for as long as it lives.
 */

/** Bytes that are on loan to buckets. All zero: none. One thread at a time. */
typedef struct mcp_lender_t {
    struct mcp_loan_t *loans;
} mcp_lender_t;

/**
 * A bucket of bytes in a buffer that is used for something else soon. Filters may keep it, as they
 * keep any: mcp_lender_repay() copies what they have kept. @a lender must outlive that call only.
 */
apr_bucket *mcp_lender_lend(mcp_lender_t *lender, const char *buf, apr_size_t len,
                            apr_bucket_alloc_t *list);

/** Before the buffer changes: copy what of it is still in buckets, usually nothing. */
void mcp_lender_repay(mcp_lender_t *lender);

/**
 * On a worker, when the body of @a r has been read and its connection will wait for long: take the
 * blocks that it has to spare, for connections to come.
 * @return APR_SUCCESS; else the client has gone
 */
apr_status_t mcp_memory_spare(request_rec *r);

/** A new connection: give it blocks that others had to spare. */
void mcp_memory_seed(conn_rec *c);

#endif
