/* SPDX-License-Identifier: Apache-2.0 */
/* Limits as the configuration writes them. */
#include "mcp_rl_rule.h"

#include <apr_siphash.h>
#include <apr_strings.h>
#include <string.h>

#include "mcp_value.h"

const char *mcp_rl_limit_name(mcp_rl_limit_e limit)
{
    static const char *const names[MCP_RL_LIMITS] = { "streams", "messages", "window", "address",
                                                      "tool", "store" };

    return names[limit];
}

static const char *parse_amount(mcp_rl_rule_t *rule, const char *text, apr_pool_t *p)
{
    const char *slash = strchr(text, '/');

    if (!slash
        || mcp_value_count(apr_pstrmemdup(p, text, (apr_size_t)(slash - text)), &rule->amount)
            != APR_SUCCESS
        || rule->amount < 1 || rule->amount > MCP_RL_MAX_AMOUNT) {
        return "N/PERIOD, N from 1 to 1000000000, as in 200/60s";
    }
    if (mcp_value_duration(slash + 1, &rule->period) != APR_SUCCESS
        || rule->period < apr_time_from_msec(1) || rule->period > MCP_RL_MAX_PERIOD) {
        return "N/PERIOD, PERIOD from 1ms to 366d, as in 200/60s";
    }
    return NULL;
}

static const char *parse_burst(mcp_rl_rule_t *rule, const char *option)
{
    if (strncasecmp(option, "burst=", 6) != 0
        || mcp_value_count(option + 6, &rule->burst) != APR_SUCCESS || rule->burst < 1
        || rule->burst > MCP_RL_MAX_AMOUNT) {
        return "N/PERIOD [burst=B], B from 1 to 1000000000";
    }
    return NULL;
}

static const char *parse_window(mcp_rl_rule_t *rule, const char *option)
{
    if (strncasecmp(option, "block=", 6) == 0
        && mcp_value_duration(option + 6, &rule->block) == APR_SUCCESS
        && rule->block <= MCP_RL_MAX_PERIOD) {
        return NULL;
    }
    if (rule->limit == MCP_RL_ADDRESS) {
        return "N/PERIOD [block=DURATION]";
    }
    if (strcasecmp(option, "type=fixed") == 0) {
        rule->kind = MCP_RL_FIXED;
        return NULL;
    }
    if (strcasecmp(option, "type=sliding") == 0) {
        rule->kind = MCP_RL_SLIDING;
        return NULL;
    }
    return "N/PERIOD [block=DURATION] [type=fixed|sliding]";
}

const char *mcp_rl_rule_parse(mcp_rl_rule_t *rule, const char *amount, int argc,
                              char *const argv[], apr_pool_t *p)
{
    int is_bucket = rule->limit == MCP_RL_MESSAGES || rule->limit == MCP_RL_TOOL;
    const char *error = parse_amount(rule, amount, p);
    int i;

    rule->kind = is_bucket ? MCP_RL_BUCKET : MCP_RL_FIXED;
    rule->burst = rule->amount;
    for (i = 0; i < argc && !error; i++) {
        error = is_bucket ? parse_burst(rule, argv[i]) : parse_window(rule, argv[i]);
    }
    if (!error && rule->kind == MCP_RL_SLIDING && rule->amount > MCP_RL_MAX_SLIDING) {
        return "for type=sliding N from 1 to 10000; a bucket (MCPRateLimitMessages) has no such "
               "bound";
    }
    return error;
}

static unsigned char secret_key[MCP_RL_SECRET];

void mcp_rl_set_secret(const unsigned char secret[MCP_RL_SECRET])
{
    memcpy(secret_key, secret, MCP_RL_SECRET);
}

void mcp_rl_digest(const char *key, unsigned char digest[MCP_RL_DIGEST])
{
    apr_size_t len = strlen(key);

    apr_siphash24_auth(digest, key, len, secret_key);
    apr_siphash24_auth(digest + APR_SIPHASH_DSIZE, key, len, secret_key + APR_SIPHASH_KSIZE);
}

int mcp_rl_refusal(const mcp_rl_verdict_t *verdicts, int count)
{
    int found = -1, i;

    for (i = 0; i < count; i++) {
        if (!verdicts[i].allowed && (found < 0 || verdicts[i].wait > verdicts[found].wait)) {
            found = i;
        }
    }
    return found;
}
