/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_PROXY_SESSION_H
#define MCP_PROXY_SESSION_H

#include <apr_errno.h>
#include <apr_time.h>

/*
 * Which member of a balancer holds a session: a table in memory that all children share. It holds
 * digests only, never an id or a user. One lock, robust against a child that dies holding it (the
 * links are then rebuilt from the entries). Times are mcp_clock_now()'s.
 */

#define MCP_SESSION_DIGEST 16

/** Two uses closer together than this, in microseconds, count as one. */
#define MCP_SESSION_GRAIN (10 * 1000)

typedef struct mcp_session_table_t mcp_session_table_t;

typedef struct mcp_session_key_t {
    unsigned char id[MCP_SESSION_DIGEST];    /* of the balancer's name and the session id */
    unsigned char owner[MCP_SESSION_DIGEST]; /* of the identity that opened it */
} mcp_session_key_t;

/** Bytes of shared memory that a table of @a entries takes. */
apr_size_t mcp_session_table_size(unsigned entries);

/**
 * Lay a table out in @a mem, which is zeroed, shared and lives longer than every user of it.
 * @param ttl a session is forgotten this long after its last use, in microseconds
 */
mcp_session_table_t *mcp_session_table_init(void *mem, unsigned entries, apr_interval_time_t ttl);

/** After a graceful restart: the time to live may have changed. */
void mcp_session_table_set_ttl(mcp_session_table_t *table, apr_interval_time_t ttl);

/**
 * Find the member that holds a session; this counts as a use. A use within MCP_SESSION_GRAIN of the
 * last (or within an eighth of the time to live, if that is less) is not noted, to keep look-ups
 * short.
 * @return APR_SUCCESS; APR_NOTFOUND; APR_EACCES: it belongs to another identity (not a use)
 */
apr_status_t mcp_session_find(mcp_session_table_t *table, const mcp_session_key_t *key,
                              apr_time_t now, apr_uint64_t *member);

/**
 * The same, where the table is the cache of a store that others read.
 * @param since what the store was told before this has to be told again
 * @param due out: whether the caller is to tell it now; nobody else will be asked to meanwhile
 */
apr_status_t mcp_session_use(mcp_session_table_t *table, const mcp_session_key_t *key,
                             apr_time_t now, apr_time_t since, apr_uint64_t *member, int *due);

/** The store has been told of a session at @a when; 0: it has not, and is to be, at
 * the next use. */
void mcp_session_told(mcp_session_table_t *table, const mcp_session_key_t *key, apr_time_t when);

/**
 * Learn a session, or move it to another member. A full table first drops what is out of time, then
 * the least recently used entry without an open stream of the identity that holds most entries
 * (of the next ones, if that one's entries all have streams). An id that another identity had
 * becomes this one's: the backend has given it out anew. No store has been told of it yet.
 * @return APR_ENOSPC if every entry has an open stream
 */
apr_status_t mcp_session_learn(mcp_session_table_t *table, const mcp_session_key_t *key,
                               apr_uint64_t member, apr_time_t now);

/** Forget a session, if it is this identity's. */
void mcp_session_forget(mcp_session_table_t *table, const mcp_session_key_t *key);

/**
 * An open stream is use: until @a until the entry neither ages nor is evicted. Renewed by the
 * stream while it lives, so that what a killed child held comes free by itself. Of several holds
 * the longest counts. Leases should be about as long as each other.
 */
void mcp_session_hold(mcp_session_table_t *table, const mcp_session_key_t *key, apr_time_t until);

/** Drop what is out of time, looking at no more than @a most entries. Returns how many went. */
unsigned mcp_session_sweep(mcp_session_table_t *table, apr_time_t now, unsigned most);

/**
 * Call @a fn with the member of each entry. Otherwise as mcp_session_count().
 */
void mcp_session_each(mcp_session_table_t *table, void (*fn)(void *baton, apr_uint64_t member),
                      void *baton);

/**
 * How many entries there are, and how many of them at @a member. For metrics: walks the table,
 * without the lock; what is out of time counts until it is swept.
 */
unsigned mcp_session_count(mcp_session_table_t *table, apr_uint64_t member, unsigned *of_member);

#endif
