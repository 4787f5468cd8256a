/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The connection is logged in by a job as any other, which hands it over. From then on what comes
 * is arrays: of the subscription, of messages, of answers to PING, which show that the other side
 * is still there.
 */
#include "mcp_redis_listen.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "mcp_clock.h"
#include "mcp_redis_wire.h"

#define TICK_MS 100

typedef struct session_t {
    const mcp_redis_listener_t *listener;
    mcp_redis_wire_t *wire;
    apr_interval_time_t patience;
    apr_time_t asked;     /* what is not answered yet; 0: nothing */
    apr_time_t ping_at;
} session_t;

static apr_status_t connect_to(mcp_redis_t *redis, apr_interval_time_t patience,
                               mcp_redis_wire_t **wire)
{
    const char *argv[] = { "TIME" };
    const size_t len[] = { 4 };
    mcp_redis_command_t command = { .argc = 1, .argv = argv, .argvlen = len };
    mcp_redis_job_t job = { .commands = &command, .count = 1, .keeps_wire = 1 };
    apr_status_t rv = mcp_redis_job_start(redis, &job);

    if (rv == APR_EAGAIN) {
        rv = mcp_redis_job_wait(redis, &job, mcp_clock_now() + patience);
    }
    if (rv == APR_EAGAIN) {
        rv = mcp_redis_job_cancel(redis, &job);
    }
    if (rv == APR_SUCCESS) {
        mcp_redis_free_replies(&command, 1);
        *wire = job.wire;
    }
    return rv;
}

static apr_status_t say(session_t *s, int argc, const char **argv)
{
    size_t len[2];
    int i;

    for (i = 0; i < argc; i++) {
        len[i] = strlen(argv[i]);
    }
    s->asked = mcp_clock_now();
    s->ping_at = s->asked + MCP_REDIS_LISTEN_BEAT;
    return mcp_redis_wire_append(s->wire, argc, argv, len);
}

static int is_text(const redisReply *reply, const char *text)
{
    return reply->type == REDIS_REPLY_STRING && strcmp(reply->str, text) == 0;
}

static apr_status_t take(session_t *s, const redisReply *reply)
{
    if (reply->type == REDIS_REPLY_ERROR) {
        return APR_EACCES;
    }
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements < 2) {
        return APR_EGENERAL;
    }
    if (reply->elements == 3 && is_text(reply->element[0], "message")
        && reply->element[2]->type == REDIS_REPLY_STRING) {
        s->listener->heard(s->listener->baton, reply->element[2]->str, reply->element[2]->len);
    }
    else {
        s->asked = 0;
        s->listener->stands(s->listener->baton);
    }
    return APR_SUCCESS;
}

static apr_status_t wait_for_more(session_t *s)
{
    struct pollfd pfd = { .fd = s->wire->fd, .events = POLLIN };

    if (s->wire->out_sent < s->wire->out_len) {
        pfd.events |= POLLOUT;
    }
    return poll(&pfd, 1, TICK_MS) < 0 && errno != EINTR ? errno : APR_SUCCESS;
}

/* Send what there is, take what has come, wait for more. */
static apr_status_t step(session_t *s)
{
    const char *ping[] = { "PING" };
    apr_time_t now = mcp_clock_now();
    redisReply *reply;
    apr_status_t rv = APR_SUCCESS;

    if (s->asked && now - s->asked > s->patience) {
        return APR_TIMEUP;
    }
    if (!s->asked && now >= s->ping_at) {
        rv = say(s, 1, ping);
    }
    if (rv == APR_SUCCESS) {
        rv = mcp_redis_wire_flush(s->wire);
    }
    while (rv == APR_SUCCESS || APR_STATUS_IS_EAGAIN(rv)) {
        rv = mcp_redis_wire_reply(s->wire, &reply);
        if (APR_STATUS_IS_EAGAIN(rv)) {
            return wait_for_more(s);
        }
        if (rv == APR_SUCCESS) {
            s->wire->received = 0;
            rv = take(s, reply);
            freeReplyObject(reply);
        }
    }
    return rv;
}

apr_status_t mcp_redis_listen(mcp_redis_t *redis, const mcp_redis_listener_t *listener,
                              apr_interval_time_t patience)
{
    const char *subscribe[] = { "SUBSCRIBE", listener->channel };
    session_t s = { .listener = listener, .patience = patience };
    apr_status_t rv = connect_to(redis, patience, &s.wire);

    if (rv != APR_SUCCESS) {
        return rv;
    }
    rv = say(&s, 2, subscribe);
    while (rv == APR_SUCCESS && !listener->is_over(listener->baton)) {
        rv = step(&s);
    }
    mcp_redis_wire_close(s.wire);
    return rv;
}
