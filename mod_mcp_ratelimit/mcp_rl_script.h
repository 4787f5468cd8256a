/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_RL_SCRIPT_H
#define MCP_RL_SCRIPT_H

#include "mcp_rl_rule.h"

/*
 * The scripts that run inside Redis. mcp_rl_script_decide: all limits of a request, judged
 * together and charged together or not at all.
 *
 * ARGV: floor, grace (microseconds of the server's clock; 0: none), a name that no other call has;
 * then for each key: kind, mode, cost, amount, period, burst, block, member. Times are in
 * microseconds. For slots period is the lease and burst what the asking machine holds. For a bucket
 * block is how many tokens to lend, if the only key's bucket has plenty, and member "AMOUNT
 * GENERATION" of an earlier loan that is over (mcp_rl_purse.h); the hash has the field `lent` then.
 * Answer: allowed, the server's time, then for each key: allowed (2: slots are not given out yet;
 * 3: no, but others were lent enough, and have been asked to give it back, see mcp_rl_recall.h),
 * remaining, wait, wait for one, reset; behind them, if tokens were lent: how many, their
 * generation, the time until they expire.
 *
 * floor: what was written before is not trusted, since the server has been restarted; a bucket that
 * is older starts empty, not full. grace: no new slot before, so that those who hold one
 * can tell the server first.
 *
 * mcp_rl_script_give_back, for one bucket. ARGV: its capacity, what is left of a loan, what was
 * spent of it, its generation. Answer: 0: it had expired.
 *
 * mcp_rl_script_renew. ARGV: lease in milliseconds; then the member for each key. Answer: 1 or, if
 * the lease is gone, 0. It never adds a member.
 */
extern const char mcp_rl_script_renew[];
extern const char mcp_rl_script_give_back[];

/** Where the decide script says, as "AMOUNT PERIOD BURST KEY", that it wants lent tokens back. */
#define MCP_RL_RECALL_CHANNEL "mcp:ratelimit:recall"

/** Kinds of limits, and sets of them: 0 is empty. */
#define MCP_RL_SCRIPT_KINDS 4
#define MCP_RL_SCRIPT_SETS (1 << MCP_RL_SCRIPT_KINDS)

unsigned mcp_rl_script_set(unsigned set, mcp_rl_kind_e kind);

/** The script that decides limits of the kinds in @a set, below MCP_RL_SCRIPT_SETS. From @a p. */
const char *mcp_rl_script_decide(unsigned set, apr_pool_t *p);

#endif
