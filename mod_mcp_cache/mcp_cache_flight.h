/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_CACHE_FLIGHT_H
#define MCP_CACHE_FLIGHT_H

#include <apr_errno.h>
#include <apr_time.h>

#include "mcp_cache_key.h"

/*
 * Equal misses: one of them leads, that is, asks the backend; the others wait until it has landed,
 * in whatever child it flies. A table in shared memory, found by the digest of the caller's key and
 * by the version, which stands for the generations that were read for it: nobody waits for an
 * answer that is not his, or that was asked for before he invalidated it. Who could not read
 * generations (version 0) waits for any; he must look again afterwards, as everybody does.
 */

typedef struct mcp_cache_flights_t mcp_cache_flights_t;

typedef struct mcp_cache_ticket_t {
    apr_uint32_t row;
    int is_near;           /* the leader is in this process */
    apr_uint64_t sequence;
} mcp_cache_ticket_t;

typedef enum {
    MCP_CACHE_FLIGHT_LEAD,  /* ask the backend; then mcp_cache_flight_land(), whatever happens */
    MCP_CACHE_FLIGHT_WAIT,  /* until mcp_cache_flight_is_up() is 0; then look again, join again */
    MCP_CACHE_FLIGHT_ALONE, /* ask the backend and tell nobody */
    MCP_CACHE_FLIGHT_AGAIN  /* one has landed since the caller looked: look again */
} mcp_cache_flight_e;

/* After an answer that may not be stored, equal requests do not wait for each other so long. */
#define MCP_CACHE_FLIGHT_ALONE_FOR apr_time_from_sec(5)

/** Bytes of shared memory that the table takes. */
apr_size_t mcp_cache_flight_size(void);

/** Lay a table out in @a mem: zeroed, shared. */
mcp_cache_flights_t *mcp_cache_flight_init(void *mem);

/** The table that an earlier mcp_cache_flight_init() laid out there. */
mcp_cache_flights_t *mcp_cache_flight_attach(void *mem);

/**
 * Take part. Any thread.
 * @param looked mcp_clock_now() before the caller looked for a stored answer
 * @param version of what he found out then; 0: nothing
 * @param ticket filled in for a leader and for one who waits
 */
mcp_cache_flight_e mcp_cache_flight_join(mcp_cache_flights_t *flights,
                                         const unsigned char digest[MCP_CACHE_DIGEST],
                                         apr_uint64_t version, apr_time_t looked,
                                         mcp_cache_ticket_t *ticket);

typedef enum {
    MCP_CACHE_LANDED_STORED,  /* there is an answer, for all */
    MCP_CACHE_LANDED_REFUSED, /* there is one, and it may not be stored: each asks for himself */
    MCP_CACHE_LANDED_FAILED   /* there is none: the next one leads */
} mcp_cache_landing_e;

/** The leader's end. Any thread. */
void mcp_cache_flight_land(mcp_cache_flights_t *flights, const mcp_cache_ticket_t *ticket,
                           mcp_cache_landing_e how);

/** Whether the leader still flies. No lock: may be asked often. */
int mcp_cache_flight_is_up(const mcp_cache_flights_t *flights, const mcp_cache_ticket_t *ticket);

/** Land it if its leader's process is gone. A system call: ask now and then. */
void mcp_cache_flight_reap(mcp_cache_flights_t *flights, const mcp_cache_ticket_t *ticket);

#endif
