/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_RL_DENY_H
#define MCP_RL_DENY_H

#include "mcp_rl_rule.h"

/*
 * Who need not ask Redis, since Redis has said until when it would refuse: shared by all children
 * of this machine. Forgetting an entry costs a round trip and nothing else.
 */

typedef struct mcp_rl_deny_t mcp_rl_deny_t;

apr_size_t mcp_rl_deny_size(void);

/** @a mem is zeroed, or was used so before. */
mcp_rl_deny_t *mcp_rl_deny_at(void *mem);

/** Remember a refusal that holds for a cost of 1. */
void mcp_rl_deny_put(mcp_rl_deny_t *deny, const mcp_rl_ask_t *ask, const mcp_rl_verdict_t *verdict,
                     apr_time_t now);

/** Whether @a ask is sure to be refused now; then @a verdict says how long. */
int mcp_rl_deny_get(const mcp_rl_deny_t *deny, const mcp_rl_ask_t *ask, apr_time_t now,
                    mcp_rl_verdict_t *verdict);

/** Something came free under ask's key. */
void mcp_rl_deny_forget(mcp_rl_deny_t *deny, const mcp_rl_ask_t *ask);

#endif
