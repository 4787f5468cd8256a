/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_REDIS_LISTEN_H
#define MCP_REDIS_LISTEN_H

#include "mcp_redis.h"

/*
 * A subscription to one channel (Redis Pub/Sub), on a connection of its own, for a thread that does
 * nothing else meanwhile. What is said while nobody listens is lost.
 */
typedef struct mcp_redis_listener_t {
    const char *channel;
    /** A message of any bytes; @a text ends with a NUL behind @a len. */
    void (*heard)(void *baton, const char *text, apr_size_t len);
    /** The server has said that the subscription stands; once in MCP_REDIS_LISTEN_BEAT. */
    void (*stands)(void *baton);
    /** Asked every 100 ms: whether to stop. */
    int (*is_over)(void *baton);
    void *baton;
} mcp_redis_listener_t;

#define MCP_REDIS_LISTEN_BEAT apr_time_from_sec(1)

/**
 * Subscribe and listen, until is_over says so or the connection fails. Trouble with the
 * subscription itself (a user that may not, say) is nothing to the circuit breaker of @a redis.
 * @param patience how long to wait for any one answer
 * @return APR_SUCCESS: it is over; APR_EACCES: the server does not let us subscribe; else as
 *         mcp_redis_run()
 */
apr_status_t mcp_redis_listen(mcp_redis_t *redis, const mcp_redis_listener_t *listener,
                              apr_interval_time_t patience);

#endif
