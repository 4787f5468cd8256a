/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_PROXY_BACKEND_H
#define MCP_PROXY_BACKEND_H

#include <mod_proxy.h>
#include <sys/uio.h>

/*
 * Connections to backends. Not mod_proxy's: its pool costs a stream 25 KB and stops at
 * ThreadsPerChild, and its connect waits. A plain connection is a descriptor and a few words; one
 * with TLS goes through mod_ssl's filters, so that SSLProxy* hold. One thread has a connection at a
 * time; idle ones wait in lists that are the child's, under a lock, until their time is over and
 * somebody looks for one.
 */

typedef struct mcp_backend_t mcp_backend_t;

/** Where to connect to, for one request; lives in r->pool. */
typedef struct mcp_target_t {
    request_rec *r;
    proxy_worker *worker;
    proxy_server_conf *conf;
    proxy_conn_rec *resolved;  /* what ap_proxy_determine_connection() filled in */
    apr_sockaddr_t *address;   /* the one to try; its next ones follow */
} mcp_target_t;

/** A proxy_conn_rec to be filled in by mod_proxy, from @a p; larger than today's,
 * for later ones. */
proxy_conn_rec *mcp_backend_conn_rec(apr_pool_t *p, proxy_worker *worker, int is_ssl);

/** An idle connection to this target that is still open and silent; NULL: connect. */
mcp_backend_t *mcp_backend_reuse(const mcp_target_t *target);

/**
 * Start to connect to target->address. @a out is the caller's, until mcp_backend_release() or
 * mcp_backend_close().
 * @return APR_SUCCESS, also while it is under way; else errno of a connect that failed at once
 */
apr_status_t mcp_backend_connect(const mcp_target_t *target, mcp_backend_t **out);

/** Whether a connect has succeeded: APR_SUCCESS, APR_EINPROGRESS, or why it failed. */
apr_status_t mcp_backend_connected(mcp_backend_t *b);

/** Whether TLS has to be set up before anything can be sent. */
int mcp_backend_needs_handshake(const mcp_backend_t *b);

/**
 * Set TLS up, on a worker: this blocks (mod_ssl has no other way).
 * @param timeout for each wait for the backend, in microseconds
 * @return APR_EAGAIN if an eighth of a child's threads wait for handshakes with this member:
 *         try later; APR_TIMEUP if @a timeout is not positive; another error if it fails
 */
apr_status_t mcp_backend_handshake(mcp_backend_t *b, request_rec *r, apr_interval_time_t timeout);

int mcp_backend_fd(const mcp_backend_t *b);
int mcp_backend_is_tls(const mcp_backend_t *b);
int mcp_backend_is_reused(const mcp_backend_t *b);

/** Send what can be sent; @a sent tells how much was taken. APR_EAGAIN: none, wait for room. */
apr_status_t mcp_backend_send(mcp_backend_t *b, const struct iovec *iov, int n, apr_size_t *sent);

/** Whether something that was taken has not left yet (TLS only): wait for room, send nothing. */
int mcp_backend_has_unsent(mcp_backend_t *b);

/** Receive: APR_SUCCESS with bytes, APR_EAGAIN, APR_EOF, or an error. */
apr_status_t mcp_backend_recv(mcp_backend_t *b, char *buf, apr_size_t size, apr_size_t *len);

/**
 * Give a connection back, to be kept for the next request; closes it if it may not be kept, as in a
 * child that is to go. @a b is not the caller's any more.
 * @param keep in microseconds; 0, or more than the worker's ttl=: that one, or 55 seconds
 */
void mcp_backend_release(mcp_backend_t *b, apr_interval_time_t keep);

/** Close and free a connection. A watch on its descriptor must have ended before. */
void mcp_backend_close(mcp_backend_t *b);

/** From child_init. @a threads: of the MPM in this child. */
void mcp_backend_init(apr_pool_t *p, int threads);

#endif
