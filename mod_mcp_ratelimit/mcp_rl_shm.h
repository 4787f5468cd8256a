/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_RL_SHM_H
#define MCP_RL_SHM_H

#include "mcp_rl_rule.h"

/*
 * Buckets and windows in memory that all children share. Slots are not here: they are counted
 * where the streams are listed (mcp_rl_lease.h). Times are mcp_clock_now()'s.
 *
 * The table is bounded. A set of places that is full gives up one that is as if never used; else
 * the one nearest to that. A place that refuses somebody is never given up.
 */

typedef struct mcp_rl_shm_t mcp_rl_shm_t;

/** Bytes for at least @a entries keys. */
apr_size_t mcp_rl_shm_size(apr_int64_t entries);

/** Lay a table out in @a mem: zeroed, shared, of that size, at a multiple of 64 bytes. */
apr_status_t mcp_rl_shm_init(mcp_rl_shm_t **shm, void *mem, apr_int64_t entries);

/** @a mem was laid out before, by another generation of this module. */
mcp_rl_shm_t *mcp_rl_shm_at(void *mem);

/**
 * Judge all @a asks (of any kind but slots) together; charge all of them, or none if one refuses.
 * @param verdicts out, as many
 * @return APR_ENOSPC: no place, every candidate is refusing somebody; APR_TIMEUP: a lock is
 *         kept by a stopped process. Nothing was charged then.
 */
apr_status_t mcp_rl_shm_decide(mcp_rl_shm_t *shm, const mcp_rl_ask_t *asks, int count,
                               apr_time_t now, mcp_rl_verdict_t *verdicts);

#endif
