/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_RL_RULE_H
#define MCP_RL_RULE_H

#include <apr_pools.h>
#include <apr_time.h>

/* Limits, questions about them and answers: what all stores and the request side agree on. */

typedef enum {
    MCP_RL_STREAMS,
    MCP_RL_MESSAGES,
    MCP_RL_WINDOW,
    MCP_RL_ADDRESS,
    MCP_RL_TOOL,
    MCP_RL_STORE, /* no limit of its own: the store cannot be asked, and the policy is closed */
    MCP_RL_LIMITS
} mcp_rl_limit_e;

/** "streams", "messages", ...: as in answers, logs and metrics. Static. */
const char *mcp_rl_limit_name(mcp_rl_limit_e limit);

typedef enum {
    MCP_RL_SLOTS = 'l',
    MCP_RL_BUCKET = 'b',
    MCP_RL_FIXED = 'f',
    MCP_RL_SLIDING = 's'
} mcp_rl_kind_e;

typedef struct mcp_rl_rule_t {
    mcp_rl_limit_e limit;
    mcp_rl_kind_e kind;
    apr_int64_t amount;        /* N */
    apr_interval_time_t period;
    apr_int64_t burst;         /* capacity of a bucket */
    apr_interval_time_t block; /* of a window; 0: none */
    const char *pattern;       /* of tools */
    const char *tag;           /* of tools: this directive's part of the key */
    const char *limit_text;    /* its capacity: in every answer, so it is written once */
} mcp_rl_rule_t;

#define MCP_RL_MAX_AMOUNT APR_INT64_C(1000000000)
#define MCP_RL_MAX_SLIDING 10000
#define MCP_RL_MAX_PERIOD apr_time_from_sec(APR_INT64_C(366) * 86400)

/**
 * Read "N/PERIOD" and the options behind it.
 * @param rule out; limit is set by the caller before
 * @param options "burst" or "block" and "type", as the rule's limit takes them
 * @return NULL, or what is accepted, as a phrase
 */
const char *mcp_rl_rule_parse(mcp_rl_rule_t *rule, const char *amount, int argc,
                              char *const argv[], apr_pool_t *p);

/** What can be used at once. */
static inline apr_int64_t mcp_rl_rule_capacity(const mcp_rl_rule_t *rule)
{
    return rule->kind == MCP_RL_BUCKET ? rule->burst : rule->amount;
}

typedef enum {
    MCP_RL_TAKE,
    MCP_RL_LOOK,   /* refuse what TAKE of 1 would refuse, charge nothing */
    MCP_RL_RECORD, /* charge, whatever comes of it */
    MCP_RL_ADOPT   /* slots: TAKE for a stream that is there already */
} mcp_rl_mode_e;

#define MCP_RL_DIGEST 16

/** One rule, asked about one key. */
typedef struct mcp_rl_ask_t {
    const mcp_rl_rule_t *rule;
    mcp_rl_mode_e mode;
    apr_int64_t cost;
    const char *key;       /* as in the store */
    unsigned char digest[MCP_RL_DIGEST]; /* of the key */
    const char *member;    /* slots: the lease's name; behind it, each after a space, those of
                            * leases under the same key that are over */
    apr_int64_t held;      /* slots: streams that this machine holds under the key */
} mcp_rl_ask_t;

typedef struct mcp_rl_verdict_t {
    int allowed;
    int lent_out;                 /* refused, but others were lent enough and are asked for it */
    apr_int64_t remaining;
    apr_interval_time_t wait;     /* until the same question may be admitted; 0: now */
    apr_interval_time_t wait_one; /* the same for a cost of 1 */
    apr_interval_time_t reset;    /* until the limit is as if never used */
} mcp_rl_verdict_t;

/** More than any request can ask at once. */
#define MCP_RL_MAX_ASKS 64

/**
 * Once, before requests: the secret that digests are made with, the same in all processes. Nobody
 * who chooses keys can make two meet that does not know it.
 */
#define MCP_RL_SECRET 32
void mcp_rl_set_secret(const unsigned char secret[MCP_RL_SECRET]);

/** SipHash of @a key, twice. */
void mcp_rl_digest(const char *key, unsigned char digest[MCP_RL_DIGEST]);

/** Of refusals, the one to tell: the longest wait. -1: none of @a count refuses. */
int mcp_rl_refusal(const mcp_rl_verdict_t *verdicts, int count);

#endif
