/* SPDX-License-Identifier: Apache-2.0 */
/* The thread that listens, over a connection of the store's own client. */
#include "mcp_rl_recall.h"

#include <apr_strings.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "mcp_clock.h"
#include "mcp_redis_listen.h"
#include "mcp_thread.h"

#define TICK apr_time_from_msec(100)
/* A listener that has not been heard of for so long is no listener. */
#define CLAIM (MCP_REDIS_LISTEN_BEAT * 5 / 2)
#define PATIENCE apr_time_from_sec(1)
/* Before the next try, where the server does not let us listen. */
#define PAUSE apr_time_from_sec(5)

typedef struct mcp_rl_recall_t {
    mcp_rl_store_t *store;
    mcp_thread_t thread;
    pthread_mutex_t mutex;   /* of the thread's waits */
} mcp_rl_recall_t;

static int is_over(void *baton)
{
    const mcp_rl_recall_t *recall = baton;

    return mcp_thread_is_stopped(&recall->thread);
}

static void stands(void *baton)
{
    mcp_rl_recall_t *recall = baton;

    mcp_rl_purses_listen(recall->store->purses, mcp_clock_now() + CLAIM);
}

/* "AMOUNT PERIOD BURST KEY". Anybody may say anything here: at worst tokens go back too early. */
static void heard(void *baton, const char *text, apr_size_t len)
{
    mcp_rl_recall_t *recall = baton;
    mcp_rl_rule_t rule = { .limit = MCP_RL_MESSAGES, .kind = MCP_RL_BUCKET };
    mcp_rl_ask_t ask = { .rule = &rule, .mode = MCP_RL_TAKE, .cost = 1 };
    apr_int64_t *numbers[] = { &rule.amount, &rule.period, &rule.burst };
    char *end;
    int i;

    if (strlen(text) != len) {
        return;
    }
    for (i = 0; i < 3; i++) {
        *numbers[i] = apr_strtoi64(text, &end, 10);
        if (end == text || *end != ' ') {
            return;
        }
        text = end + 1;
    }
    ask.key = text;
    mcp_rl_digest(ask.key, ask.digest);
    mcp_rl_store_give_back(recall->store, &ask);
}

static void *run(void *data)
{
    mcp_rl_recall_t *recall = data;
    mcp_rl_purses_t *purses = recall->store->purses;
    const mcp_redis_listener_t listener = { .channel = MCP_RL_RECALL_CHANNEL, .heard = heard,
                                            .stands = stands, .is_over = is_over, .baton = recall };
    apr_time_t next = 0;

    while (!is_over(recall)) {
        apr_time_t now = mcp_clock_now();

        if (next <= now && mcp_rl_purses_claim(purses, now, now + CLAIM)) {
            apr_status_t rv = mcp_redis_listen(recall->store->redis->client, &listener, PATIENCE);

            next = mcp_clock_now() + (rv == APR_EACCES ? PAUSE : TICK);
            mcp_rl_purses_listen(purses, 0);
        }
        pthread_mutex_lock(&recall->mutex);
        mcp_thread_wait_locked(&recall->thread, TICK);
        pthread_mutex_unlock(&recall->mutex);
    }
    return NULL;
}

apr_status_t mcp_rl_recall_start(mcp_rl_store_t *store, int waits, apr_pool_t *exiting)
{
    mcp_rl_recall_t *recall = calloc(1, sizeof(*recall)); /* never freed: it may outlive pools */
    apr_status_t rv;

    if (!recall) {
        return APR_ENOMEM;
    }
    recall->store = store;
    pthread_mutex_init(&recall->mutex, NULL);
    rv = mcp_thread_start(&recall->thread, run, recall, &recall->mutex);
    if (rv == APR_SUCCESS) {
        mcp_thread_end_with(&recall->thread, waits, exiting);
    }
    return rv;
}
