/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Script calls and batches. Arguments are formatted on the stack; a batch is cut into script calls
 * of CHUNK leases, all in one pipeline.
 */
#include "mcp_rl_redis.h"

#include <apr_strings.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mcp_rl_script.h"
#include "mcp_value.h"

#define ASK_ARGS 8
#define FIXED_ARGS 3 /* floor, grace, nonce */
#define NUMBER MCP_VALUE_DECIMAL
#define CHUNK 64

void mcp_rl_redis_init(mcp_rl_redis_t *redis, apr_pool_t *p)
{
    unsigned i;

    for (i = 1; i < MCP_RL_SCRIPT_SETS; i++) {
        mcp_redis_script_init(&redis->decide[i], mcp_rl_script_decide(i, p));
    }
    mcp_redis_script_init(&redis->renew, mcp_rl_script_renew);
    mcp_redis_script_init(&redis->give_back, mcp_rl_script_give_back);
}

/* The arguments of one call. */
typedef struct call_t {
    mcp_rl_redis_t *redis;
    int argc;
    const char *argv[3 + FIXED_ARGS + MCP_RL_MAX_ASKS * (ASK_ARGS + 1)];
    size_t len[3 + FIXED_ARGS + MCP_RL_MAX_ASKS * (ASK_ARGS + 1)];
    int floor_at;
    char keys[NUMBER], floor[NUMBER], grace[NUMBER], nonce[64], settle[2 * NUMBER];
    char numbers[MCP_RL_MAX_ASKS][ASK_ARGS][NUMBER];
} call_t;

static void add(call_t *call, const char *text)
{
    call->argv[call->argc] = text;
    call->len[call->argc] = strlen(text);
    call->argc++;
}

static void add_number(call_t *call, char *buf, apr_int64_t number)
{
    call->argv[call->argc] = buf;
    call->len[call->argc] = mcp_value_decimal(buf, number);
    call->argc++;
}

static apr_uint64_t hash_of(const char *run_id)
{
    apr_uint64_t hash = 14695981039346656037u;

    while (*run_id) {
        hash = (hash ^ (unsigned char)*run_id++) * 1099511628211u;
    }
    return hash ? hash : 1;
}

/* The server is known now: has it been restarted since this machine used it? */
static apr_int64_t floor_for(mcp_rl_epoch_t *epoch, const mcp_redis_info_t *info)
{
    apr_uint64_t met = __atomic_load_n(&epoch->server, __ATOMIC_ACQUIRE), is;

    if (!*info->run_id) {
        return 0;
    }
    is = hash_of(info->run_id);
    if (met == is) {
        return __atomic_load_n(&epoch->floor, __ATOMIC_ACQUIRE);
    }
    if (!met && __atomic_compare_exchange_n(&epoch->server, &met, is, 0, __ATOMIC_ACQ_REL,
                                            __ATOMIC_ACQUIRE)) {
        return 0;
    }
    if (met == is) {
        return __atomic_load_n(&epoch->floor, __ATOMIC_ACQUIRE);
    }
    /* The floor first: whoever sees the new server must see its floor too. */
    __atomic_store_n(&epoch->floor, info->server_start, __ATOMIC_RELEASE);
    __atomic_store_n(&epoch->server, is, __ATOMIC_RELEASE);
    return info->server_start;
}

static void prepare(mcp_redis_info_t *info)
{
    call_t *call = info->baton;
    apr_int64_t at = floor_for(call->redis->epoch, info);

    call->len[call->floor_at] = mcp_value_decimal(call->floor, at);
    call->len[call->floor_at + 1] = mcp_value_decimal(call->grace,
                                                      at ? at + call->redis->lease : 0);
}

static const char *mode_text(mcp_rl_mode_e mode)
{
    switch (mode) {
    case MCP_RL_LOOK:
        return "k";
    case MCP_RL_RECORD:
        return "r";
    case MCP_RL_ADOPT:
        return "a";
    default:
        return "t";
    }
}

/* Only what a sliding window logs needs a name. */
static void add_nonce(call_t *call, unsigned set)
{
    size_t len;

    call->nonce[0] = '\0';
    if (set & mcp_rl_script_set(0, MCP_RL_SLIDING)) {
        len = apr_cpystrn(call->nonce, call->redis->instance, sizeof(call->nonce) - NUMBER)
            - call->nonce;
        call->nonce[len++] = '-';
        mcp_value_decimal(call->nonce + len, (apr_int64_t)__atomic_add_fetch(
            &call->redis->calls, 1, __ATOMIC_RELAXED));
    }
    add(call, call->nonce);
}

/* @return the kinds of limits asked about */
static unsigned format_call(call_t *call, mcp_rl_redis_t *redis, const mcp_rl_ask_t *asks,
                            int count)
{
    unsigned set = 0;
    int i;

    call->redis = redis;
    call->argc = 2;
    add_number(call, call->keys, count);
    for (i = 0; i < count; i++) {
        set = mcp_rl_script_set(set, asks[i].rule->kind);
        add(call, asks[i].key);
    }
    call->floor_at = call->argc;
    strcpy(call->floor, "0");
    strcpy(call->grace, "0");
    add(call, call->floor);
    add(call, call->grace);
    add_nonce(call, set);
    for (i = 0; i < count; i++) {
        const mcp_rl_rule_t *rule = asks[i].rule;
        int is_slot = rule->kind == MCP_RL_SLOTS;

        call->numbers[i][0][0] = (char)rule->kind;
        call->numbers[i][0][1] = '\0';
        add(call, call->numbers[i][0]);
        add(call, mode_text(asks[i].mode));
        add_number(call, call->numbers[i][1], asks[i].cost > 0 ? asks[i].cost : 1);
        add_number(call, call->numbers[i][2], rule->amount);
        add_number(call, call->numbers[i][3], is_slot ? redis->lease : rule->period);
        add_number(call, call->numbers[i][4], is_slot ? asks[i].held : rule->burst);
        add_number(call, call->numbers[i][5], rule->block);
        add(call, asks[i].member ? asks[i].member : "");
    }
    return set;
}

/* The last two arguments, of the only ask. */
static void format_loan(call_t *call, const mcp_rl_loan_t *loan)
{
    if (loan && loan->want > 0) {
        call->argc -= 2;
        add_number(call, call->numbers[0][5], loan->want);
        call->settle[0] = '\0';
        if (loan->settle > 0) {
            snprintf(call->settle, sizeof(call->settle), "%" APR_INT64_T_FMT " %" APR_INT64_T_FMT,
                     loan->settle, loan->generation);
        }
        add(call, call->settle);
    }
}

static void read_loan(const redisReply *reply, size_t at, mcp_rl_loan_t *loan)
{
    loan->given = loan->left = 0;
    if (reply->elements == at + 3) {
        loan->given = reply->element[at]->integer;
        loan->generation = reply->element[at + 1]->integer;
        loan->left = reply->element[at + 2]->integer;
    }
}

static apr_status_t read_answer(const redisReply *reply, int count, mcp_rl_verdict_t *verdicts,
                                mcp_rl_loan_t *loan)
{
    size_t k, plain = (size_t)count * 5 + 2;
    int i, later = 0;

    if (reply->elements != plain
        && !(loan && loan->want > 0 && reply->elements == plain + 3)) {
        return MCP_RL_EBADDATA;
    }
    for (k = 0; k < reply->elements; k++) {
        if (reply->element[k]->type != REDIS_REPLY_INTEGER) {
            return MCP_RL_EBADDATA;
        }
    }
    for (i = 0; i < count; i++) {
        redisReply *const *e = &reply->element[2 + i * 5];

        later |= e[0]->integer == 2;
        verdicts[i].allowed = e[0]->integer == 1;
        verdicts[i].lent_out = e[0]->integer == 3;
        verdicts[i].remaining = e[1]->integer;
        verdicts[i].wait = e[2]->integer;
        verdicts[i].wait_one = e[3]->integer;
        verdicts[i].reset = e[4]->integer;
    }
    if (loan) {
        read_loan(reply, plain, loan);
    }
    return later ? MCP_RL_NOTREADY : APR_SUCCESS;
}

apr_status_t mcp_rl_redis_decide(mcp_rl_redis_t *redis, const mcp_rl_ask_t *asks, int count,
                                 apr_time_t deadline, mcp_rl_verdict_t *verdicts,
                                 mcp_rl_loan_t *loan, mcp_redis_info_t *info)
{
    call_t call;
    mcp_redis_command_t command = { .expect = REDIS_REPLY_ARRAY };
    apr_status_t rv;

    memset(info, 0, sizeof(*info));
    if (count < 1 || count > MCP_RL_MAX_ASKS) {
        return APR_EINVAL;
    }
    command.script = &redis->decide[format_call(&call, redis, asks, count)];
    format_loan(&call, loan);
    command.argc = call.argc;
    command.argv = call.argv;
    command.argvlen = call.len;
    info->prepare = prepare;
    info->baton = &call;
    rv = mcp_redis_run(redis->client, &command, 1, deadline, info);
    if (rv != APR_SUCCESS) {
        return rv;
    }
    if (command.reply->type == REDIS_REPLY_ERROR) {
        apr_cpystrn(info->why, command.reply->str, sizeof(info->why));
        rv = MCP_RL_EBADDATA;
    }
    else {
        rv = read_answer(command.reply, count, verdicts, loan);
        if (rv != APR_SUCCESS) {
            apr_cpystrn(info->why, rv == MCP_RL_NOTREADY
                        ? "restarted: no new slots until leases would have ended"
                        : "the script answered something else", sizeof(info->why));
        }
    }
    mcp_redis_free_replies(&command, 1);
    return rv;
}

apr_status_t mcp_rl_redis_give_back(mcp_rl_redis_t *redis, const mcp_rl_ask_t *ask,
                                    const mcp_rl_loan_t *loan, apr_time_t deadline)
{
    const apr_int64_t numbers[] = { ask->rule->burst, loan->given, loan->settle, loan->generation };
    char text[4][NUMBER];
    const char *argv[8] = { "", "", "1", ask->key };
    size_t len[8] = { 0, 0, 1, strlen(ask->key) };
    mcp_redis_command_t command = { .argc = 8, .argv = argv, .argvlen = len,
                                    .script = &redis->give_back };
    apr_status_t rv;
    int i;

    for (i = 0; i < 4; i++) {
        argv[4 + i] = text[i];
        len[4 + i] = mcp_value_decimal(text[i], numbers[i]);
    }
    rv = mcp_redis_run(redis->client, &command, 1, deadline, NULL);
    if (rv == APR_SUCCESS) {
        mcp_redis_free_replies(&command, 1);
    }
    return rv;
}

/* A batch's commands and their arguments; one block of malloc. */
typedef struct batch_t {
    int commands;
    mcp_redis_command_t *command;
    const char **argv;
    size_t *len;
} batch_t;

static apr_status_t batch_make(batch_t *batch, int commands, int args)
{
    batch->commands = commands;
    batch->command = calloc((size_t)commands, sizeof(*batch->command));
    batch->argv = calloc((size_t)args, sizeof(*batch->argv));
    batch->len = calloc((size_t)args, sizeof(*batch->len));
    return batch->command && batch->argv && batch->len ? APR_SUCCESS : APR_ENOMEM;
}

static void batch_free(batch_t *batch)
{
    if (batch->command) {
        mcp_redis_free_replies(batch->command, batch->commands);
    }
    free(batch->command);
    free(batch->argv);
    free(batch->len);
}

static void batch_add(batch_t *batch, int *at, mcp_redis_command_t *command, const char *text)
{
    batch->argv[*at] = text;
    batch->len[*at] = strlen(text);
    (*at)++;
    command->argc++;
}

static void format_renewals(batch_t *batch, mcp_rl_redis_t *redis,
                            const mcp_rl_redis_lease_t *leases, int count, const char *ms,
                            char (*numbers)[NUMBER])
{
    int c, at = 0;

    for (c = 0; c < batch->commands; c++) {
        mcp_redis_command_t *command = &batch->command[c];
        int from = c * CHUNK, to = from + CHUNK < count ? from + CHUNK : count, i;

        command->argv = &batch->argv[at];
        command->argvlen = &batch->len[at];
        command->script = &redis->renew;
        command->expect = REDIS_REPLY_ARRAY;
        at += 2;
        command->argc = 2;
        snprintf(numbers[c], NUMBER, "%d", to - from);
        batch_add(batch, &at, command, numbers[c]);
        for (i = from; i < to; i++) {
            batch_add(batch, &at, command, leases[i].key);
        }
        batch_add(batch, &at, command, ms);
        for (i = from; i < to; i++) {
            batch_add(batch, &at, command, leases[i].member);
        }
    }
}

static void read_renewals(const batch_t *batch, mcp_rl_redis_lease_t *leases, int count)
{
    int i;

    for (i = 0; i < count; i++) {
        const redisReply *reply = batch->command[i / CHUNK].reply;
        size_t k = (size_t)(i % CHUNK);

        leases[i].held = reply && reply->type == REDIS_REPLY_ARRAY && k < reply->elements
            && reply->element[k]->type == REDIS_REPLY_INTEGER && reply->element[k]->integer == 1;
    }
}

apr_status_t mcp_rl_redis_renew(mcp_rl_redis_t *redis, mcp_rl_redis_lease_t *leases, int count,
                                apr_time_t deadline)
{
    int chunks = (count + CHUNK - 1) / CHUNK;
    char ms[NUMBER], (*numbers)[NUMBER] = calloc((size_t)chunks, NUMBER);
    batch_t batch = { 0 };
    apr_status_t rv = batch_make(&batch, chunks, chunks * 4 + count * 2);

    if (rv == APR_SUCCESS && !numbers) {
        rv = APR_ENOMEM;
    }
    if (rv == APR_SUCCESS) {
        snprintf(ms, NUMBER, "%" APR_INT64_T_FMT, apr_time_as_msec(redis->lease));
        format_renewals(&batch, redis, leases, count, ms, numbers);
        rv = mcp_redis_run(redis->client, batch.command, chunks, deadline, NULL);
    }
    if (rv == APR_SUCCESS) {
        read_renewals(&batch, leases, count);
    }
    batch_free(&batch);
    free(numbers);
    return rv;
}

apr_status_t mcp_rl_redis_release(mcp_rl_redis_t *redis, const mcp_rl_redis_lease_t *leases,
                                  int count, apr_time_t deadline)
{
    batch_t batch = { 0 };
    apr_status_t rv = batch_make(&batch, count, count * 3);
    int i, at = 0;

    for (i = 0; i < count && rv == APR_SUCCESS; i++) {
        mcp_redis_command_t *command = &batch.command[i];

        command->argv = &batch.argv[at];
        command->argvlen = &batch.len[at];
        batch_add(&batch, &at, command, "ZREM");
        batch_add(&batch, &at, command, leases[i].key);
        batch_add(&batch, &at, command, leases[i].member);
    }
    if (rv == APR_SUCCESS) {
        rv = mcp_redis_run(redis->client, batch.command, count, deadline, NULL);
    }
    batch_free(&batch);
    return rv;
}
