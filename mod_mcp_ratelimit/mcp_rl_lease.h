/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_RL_LEASE_H
#define MCP_RL_LEASE_H

#include <sys/types.h>

#include "mcp_rl_rule.h"

/*
 * The standing streams of this machine: a row for each, in memory that all children share. A row is
 * written by the child that serves the stream; when that child dies, the parent marks its rows
 * (memory only), and any other child's keeper gives the slots back.
 *
 * State changes are single atomic steps; the lock is for the lists only.
 */

typedef struct mcp_rl_leases_t mcp_rl_leases_t;

typedef enum {
    MCP_RL_ROW_FREE = 0,
    MCP_RL_ROW_PENDING,  /* counted; the store is being asked */
    MCP_RL_ROW_HELD,     /* counted; a stream */
    MCP_RL_ROW_LOST,     /* not counted; the stream is being closed */
    MCP_RL_ROW_RELEASING, /* not counted; the store has not been told yet */
    MCP_RL_ROW_ORPHAN    /* its child died */
} mcp_rl_row_state_e;

#define MCP_RL_KEY_MAX 176
#define MCP_RL_MEMBER_MAX 48
#define MCP_RL_OVER 16

typedef struct mcp_rl_row_t {
    apr_uint32_t state;   /* atomic */
    apr_uint32_t next;    /* in its chain, or in the free list; index + 1 */
    apr_uint32_t release_next; /* the owner's list of rows to be given back; index + 1 */
    apr_uint32_t local;   /* not in Redis (yet): admitted by this machine alone */
    pid_t pid;
    unsigned char digest[MCP_RL_DIGEST];
    apr_uint64_t number;  /* of the lease, unique on this machine */
    apr_int64_t limit;
    apr_time_t deadline;  /* until then the store holds the slot for sure */
    char key[MCP_RL_KEY_MAX];
} mcp_rl_row_t;

apr_size_t mcp_rl_leases_size(apr_uint32_t rows);

/** @a instance: text that tells this httpd from all others, at most 16 bytes. */
apr_status_t mcp_rl_leases_init(mcp_rl_leases_t **leases, void *mem, apr_uint32_t rows,
                                const char *instance);

mcp_rl_leases_t *mcp_rl_leases_at(void *mem);

/**
 * Take a row, as PENDING, for one more stream under ask->key.
 * @param limit this many may be there with it; 0: any number
 * @param held out: how many were there before
 * @param over out: numbers of leases under the key whose end the store may not know yet;
 *        MCP_RL_OVER of them, 0 behind the last
 * @return APR_EAGAIN: over the limit; APR_ENOSPC: no row left; APR_TIMEUP: the lock is kept;
 *         APR_ENAMETOOLONG. @a row is NULL then.
 */
apr_status_t mcp_rl_lease_begin(mcp_rl_leases_t *leases, const mcp_rl_ask_t *ask,
                                apr_int64_t limit, pid_t pid, mcp_rl_row_t **row,
                                apr_int64_t *held, apr_uint64_t *over);

/** The row goes back to the free list, if it still is the lease @a number. */
apr_status_t mcp_rl_lease_free(mcp_rl_leases_t *leases, mcp_rl_row_t *row, apr_uint64_t number);

/** Change the state if it is @a from. @return whether it was */
int mcp_rl_lease_change(mcp_rl_row_t *row, mcp_rl_row_state_e from, mcp_rl_row_state_e to);
mcp_rl_row_state_e mcp_rl_lease_state(const mcp_rl_row_t *row);

/** The lease's name in the store. @a buf has MCP_RL_MEMBER_MAX bytes. */
const char *mcp_rl_lease_member(const mcp_rl_leases_t *leases, apr_uint64_t number, char *buf);

/** In the parent, when a child has ended: no lock, no I/O. Returns how many rows it left. */
int mcp_rl_lease_child_died(mcp_rl_leases_t *leases, pid_t pid);

/**
 * Make orphans the caller's, as RELEASING.
 * @param numbers out: their leases' numbers
 * @return how many rows were put into @a rows, at most @a most
 */
int mcp_rl_lease_adopt_orphans(mcp_rl_leases_t *leases, pid_t pid, mcp_rl_row_t **rows,
                               apr_uint64_t *numbers, int most);

/** The store could not be told of an adopted row: somebody tries again. */
void mcp_rl_lease_orphan_again(mcp_rl_leases_t *leases, mcp_rl_row_t *row, apr_uint64_t number);

/** Mark the rows of processes that are no more, in case nobody told. For a keeper, seldom. */
void mcp_rl_lease_find_dead(mcp_rl_leases_t *leases);

/** Counted rows, of all keys. */
apr_uint32_t mcp_rl_leases_in_use(const mcp_rl_leases_t *leases);

apr_uint32_t mcp_rl_leases_rows(const mcp_rl_leases_t *leases);
apr_uint32_t mcp_rl_lease_index(const mcp_rl_leases_t *leases, const mcp_rl_row_t *row);
mcp_rl_row_t *mcp_rl_lease_row(mcp_rl_leases_t *leases, apr_uint32_t index);

#endif
