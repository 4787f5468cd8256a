/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_RL_PURSE_H
#define MCP_RL_PURSE_H

#include "mcp_rl_rule.h"

/*
 * Tokens that Redis has lent to this machine: for a key with a large bucket that asks all the time,
 * one round trip pays for many requests. What is lent has been taken out of the bucket, and until
 * it has been spent or has expired the bucket is filled up to its capacity less that, so never more
 * is given out than without lending, by any number of gateways together.
 *
 * Small buckets never lend; nor does a key that asks seldom. What a machine does not spend within a
 * second is lost, so a loan is about what was spent of the last one, and at most one part in
 * MCP_RL_LEND_PART of the capacity.
 */

#define MCP_RL_LEND_MIN_BURST 512
#define MCP_RL_LEND_PART 64
#define MCP_RL_LEND_MOST 256

typedef struct mcp_rl_purses_t mcp_rl_purses_t;

/** What goes with a question to Redis, and what comes back. */
typedef struct mcp_rl_loan_t {
    apr_int64_t want;       /* tokens to lend; 0: none */
    apr_int64_t settle;     /* of an earlier loan, spent or void now */
    apr_int64_t generation; /* of the earlier loan; out: of this one */
    apr_int64_t given;      /* out */
    apr_interval_time_t left; /* out: until it expires */
} mcp_rl_loan_t;

apr_size_t mcp_rl_purses_size(void);

/** @a mem is zeroed, or was used so before. */
mcp_rl_purses_t *mcp_rl_purses_at(void *mem);

int mcp_rl_purse_is_for(const mcp_rl_ask_t *ask);

/**
 * Pay for @a ask with what was lent.
 * @param loan out, if it cannot be paid: what to ask Redis for
 * @return whether it was paid; then @a verdict is filled in
 */
int mcp_rl_purse_pay(mcp_rl_purses_t *purses, const mcp_rl_ask_t *ask, apr_time_t now,
                     mcp_rl_verdict_t *verdict, mcp_rl_loan_t *loan);

/** Redis answered the question that went out at @a sent. */
void mcp_rl_purse_fill(mcp_rl_purses_t *purses, const mcp_rl_ask_t *ask, apr_time_t sent,
                       const mcp_rl_verdict_t *verdict, const mcp_rl_loan_t *loan);

#endif
