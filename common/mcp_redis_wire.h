/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_REDIS_WIRE_H
#define MCP_REDIS_WIRE_H

#include <apr_network_io.h>
#include <apr_time.h>
#include <hiredis/hiredis.h>

/*
 * One connection to a Redis server, as bytes: a non-blocking socket, what waits to be sent, and a
 * parser. hiredis' own connections are not used: their timeouts are per read, and one that timed
 * out hands a late reply to the next question.
 *
 * A connection that failed in any way is good for nothing but mcp_redis_wire_close().
 */

typedef struct mcp_redis_wire_t mcp_redis_wire_t;
struct mcp_redis_wire_t {
    int fd;
    int connecting;
    redisReader *reader;
    redisReplyObjectFunctions functions; /* the reader's */
    char *out;               /* to be sent; malloc */
    size_t out_len, out_sent, out_room;
    size_t received;         /* since the last mcp_redis_wire_clear() */
    apr_time_t idle_since;
    char run_id[41];         /* of the server; "" if it does not say */
    apr_int64_t server_start; /* when it started, at the latest; microseconds of its own clock */
    mcp_redis_wire_t *next;
};

/**
 * Begin to connect, without blocking. Exactly one of @a address and @a path is set.
 * @param wire out: NULL on failure
 */
apr_status_t mcp_redis_wire_open(mcp_redis_wire_t **wire, const apr_sockaddr_t *address,
                                 const char *path);
void mcp_redis_wire_close(mcp_redis_wire_t *wire);

/** Queue one command. */
apr_status_t mcp_redis_wire_append(mcp_redis_wire_t *wire, int argc, const char **argv,
                                   const size_t *argvlen);

/** Finish connecting, and send what is queued. @return APR_EAGAIN: when writable, again */
apr_status_t mcp_redis_wire_flush(mcp_redis_wire_t *wire);

/**
 * The next reply.
 * @return APR_EAGAIN: when readable, again; APR_EOF; APR_EGENERAL: no Redis reply, or a huge one
 */
apr_status_t mcp_redis_wire_reply(mcp_redis_wire_t *wire, redisReply **reply);

/** Whether bytes came that no question accounts for, or the server has closed. Never blocks. */
int mcp_redis_wire_is_stale(mcp_redis_wire_t *wire);

/** Bytes behind the last reply have been read already. */
int mcp_redis_wire_has_leftover(const mcp_redis_wire_t *wire);

#endif
