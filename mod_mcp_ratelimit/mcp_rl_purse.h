/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_RL_PURSE_H
#define MCP_RL_PURSE_H

#include "mcp_rl_rule.h"

/*
 * Tokens that Redis has lent to this machine: for a key that asks all the time, one round trip pays
 * for many requests. What is lent has been taken out of the bucket, and until it has been spent,
 * given back or has expired the bucket is filled up to its capacity less that, so never more is
 * given out than without lending, by any number of gateways together.
 *
 * A large bucket lends little at a time, for a second. A small one lends up to half of what it has,
 * for five seconds, after some questions in a row, and only to a machine that listens to recalls
 * (mcp_rl_recall.h): whoever would be refused for want of what others were lent gets it back from
 * them. A key that asks seldom is lent nothing. A loan is about what was spent of the last one.
 */

#define MCP_RL_LEND_LEAST_BURST 16
#define MCP_RL_LEND_LARGE_BURST 512

typedef struct mcp_rl_purses_t mcp_rl_purses_t;

/** What goes with a question to Redis, and what comes back. */
typedef struct mcp_rl_loan_t {
    apr_int64_t want;       /* tokens to lend; 0: none */
    apr_int64_t settle;     /* of an earlier loan, spent or void now */
    apr_int64_t generation; /* of the earlier loan; out: of this one */
    apr_int64_t given;      /* out; of mcp_rl_purse_empty(): what is left */
    apr_interval_time_t left; /* out: until it expires */
} mcp_rl_loan_t;

apr_size_t mcp_rl_purses_size(void);

/** @a mem is zeroed, or was used so before. */
mcp_rl_purses_t *mcp_rl_purses_at(void *mem);

/** This machine listens to recalls until @a until (mcp_clock_now() time), at least. */
void mcp_rl_purses_listen(mcp_rl_purses_t *purses, apr_time_t until);

/**
 * The right to listen for this machine, of which one process needs to.
 * @return whether the caller has it, until @a until or mcp_rl_purses_listen()
 */
int mcp_rl_purses_claim(mcp_rl_purses_t *purses, apr_time_t now, apr_time_t until);

int mcp_rl_purse_is_for(const mcp_rl_ask_t *ask);

/**
 * Pay for @a ask with what was lent.
 * @param loan out, if it cannot be paid: what to ask Redis for
 * @return whether it was paid; then @a verdict is filled in
 */
int mcp_rl_purse_pay(mcp_rl_purses_t *purses, const mcp_rl_ask_t *ask, apr_time_t now,
                     mcp_rl_verdict_t *verdict, mcp_rl_loan_t *loan);

/**
 * Redis answered the question that went out at @a sent.
 * @param verdict in and out: what remains grows by what is in the purse
 */
void mcp_rl_purse_fill(mcp_rl_purses_t *purses, const mcp_rl_ask_t *ask, apr_time_t sent,
                       mcp_rl_verdict_t *verdict, const mcp_rl_loan_t *loan);

/**
 * Take out what is left.
 * @param loan out: given, settle and generation, for Redis
 * @return whether there was anything
 */
int mcp_rl_purse_empty(mcp_rl_purses_t *purses, const mcp_rl_ask_t *ask, mcp_rl_loan_t *loan);

#endif
