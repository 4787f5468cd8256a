/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_RL_KEEPER_H
#define MCP_RL_KEEPER_H

#include <apr_thread_proc.h>

#include "mcp_rl_store.h"

/*
 * One thread per child that does what no request may wait for: renew leases, give them back, clean
 * up after children that died, charge what is charged afterwards, and look after the breaker.
 */

typedef struct mcp_rl_keeper_t mcp_rl_keeper_t;

/** A standing stream of this process; the request's memory. */
typedef struct mcp_rl_stream_t mcp_rl_stream_t;
struct mcp_rl_stream_t {
    mcp_rl_row_t *row;        /* set by the caller before mcp_rl_keeper_add() */
    const mcp_rl_rule_t *rule;
    mcp_rl_policy_e policy;
    int fd;                   /* the client's socket, shut down to close the stream; -1: none */
    int (*is_gone)(void *baton); /* asked now and then, where no socket can be looked at; or NULL */
    void *baton;
    int lost;                 /* atomic: the stream must end */
    unsigned char digest[MCP_RL_DIGEST]; /* of the slot's key; the keeper's */
    mcp_rl_stream_t *next, **link; /* the keeper's */
};

/**
 * Start the thread, in child_init.
 * @param gives_back whether all slots of this child are given back when it ends; otherwise, where
 *        that may happen in a signal handler, other children give them back
 * @param exiting the pool whose end is the child's
 */
apr_status_t mcp_rl_keeper_start(mcp_rl_keeper_t **keeper, mcp_rl_store_t *store, int gives_back,
                                 apr_pool_t *exiting);

/** The slot is the stream's from now on. Any thread. */
void mcp_rl_keeper_add(mcp_rl_keeper_t *keeper, mcp_rl_stream_t *stream);

/** The stream has ended: counted no more when this returns. Any thread; never waits for I/O. */
void mcp_rl_keeper_remove(mcp_rl_keeper_t *keeper, mcp_rl_stream_t *stream);

/** Whether the stream must not go on: it lost its slot. Any thread, cheap. */
int mcp_rl_keeper_is_lost(const mcp_rl_keeper_t *keeper, const mcp_rl_stream_t *stream);

/**
 * Charge one request later, in MCP_RL_RECORD mode, without waiting for the store. Where too many
 * wait already, it is dropped.
 */
void mcp_rl_keeper_record(mcp_rl_keeper_t *keeper, const mcp_rl_ask_t *ask);

#endif
