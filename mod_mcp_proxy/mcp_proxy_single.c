/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MCPProxySessionStreams newest and reject: one standing GET for a session, whichever child has the
 * other one. They find each other in the registry, which is walked once for each GET that opens
 * (some 5 ns for each slot). A stream says there which session it is of only where this is asked.
 *
 * newest ends the older stream before the new request is sent, since many servers refuse a second
 * one. reject refuses the new one; but an older stream whose client is gone without a word would
 * hold its place until a timeout, so its child is asked to find out, and the client's next attempt
 * has its answer.
 */
#include "mcp_proxy_exchange.h"

#include <apr_strings.h>

#include "mcp_clock.h"
#include "mcp_httpd_error.h"
#include "mcp_httpd_request.h"
#include "mcp_sha256.h"

#define REJECT 2
#define MOST_OLDER 8
/* A stream that is amid an event has two seconds to end (mcp_proxy_streams.c). */
#define PATIENCE apr_time_from_msec(2500)

typedef struct mcp_single_t {
    apr_uint64_t session;
    int rejects;
    int count;
    mcp_registry_stream_t older[MOST_OLDER];
    int has_rested;
    apr_time_t until;
} single_t;

/* Of the identity, too: one client cannot end another one's streams by naming its session. */
static apr_uint64_t mark_of(mcp_exchange_t *x)
{
    unsigned char digest[MCP_SHA256];
    const char *identity = mcp_request_identity(x->r);
    const char *text = apr_pstrcat(x->r->pool, x->q->scope ? x->q->scope : "", "\n",
                                   identity ? identity : "", "\n", x->q->session, NULL);
    apr_uint64_t mark;

    mcp_sha256(text, strlen(text), digest);
    memcpy(&mark, digest, sizeof(mark));
    return mark ? mark : 1;
}

static void take_older(void *baton, const mcp_registry_stream_t *stream)
{
    single_t *single = baton;

    if (stream->session == single->session && single->count < MOST_OLDER) {
        single->older[single->count++] = *stream;
    }
}

static void find_others(single_t *single)
{
    single->count = 0;
    mcp_registry_each(mcp_streams_registry(), take_older, single);
}

static int refuse(mcp_exchange_t *x)
{
    mcp_error_set(x->r, HTTP_CONFLICT, 0, "The session has a standing stream already", NULL);
    return HTTP_CONFLICT;
}

int mcp_single_ask(mcp_exchange_t *x)
{
    int choice = (int)mcp_exchange_conf(x, MCP_PROXY_SESSION_STREAMS);
    int i;

    if (!choice || !x->expects_stream || !x->q->session) {
        return OK;
    }
    x->single = apr_pcalloc(x->r->pool, sizeof(*x->single));
    x->single->session = mark_of(x);
    x->single->rejects = choice == REJECT;
    find_others(x->single);
    for (i = 0; i < x->single->count; i++) {
        const mcp_registry_stream_t *other = &x->single->older[i];

        if (x->single->rejects) {
            mcp_streams_doubt(other->index, other->serial);
        }
        else {
            mcp_streams_end(other->index, other->serial);
        }
    }
    return x->single->rejects && x->single->count ? refuse(x) : OK;
}

void mcp_single_begin(mcp_exchange_t *x)
{
    if (x->single && x->single->count) {
        x->single->until = mcp_clock_now() + PATIENCE;
        x->state = MCP_X_TURN;
    }
}

void mcp_single_look_again(mcp_exchange_t *x)
{
    single_t *single = x->single;
    mcp_registry_t *registry = mcp_streams_registry();
    int in_time = mcp_clock_now() < single->until;

    while (single->count > 0 && !mcp_registry_has(registry, single->older[single->count - 1].index,
                                                  single->older[single->count - 1].serial)) {
        single->count--;
    }
    /* Not before the next look: the server must have noticed, too. */
    if (in_time && (single->count > 0 || !single->has_rested)) {
        single->has_rested = single->count == 0;
        return;
    }
    /* An idle connection that was taken when this began may have been closed meanwhile. */
    mcp_exchange_drop_backend(x);
    x->started = mcp_clock_now();
    x->state = MCP_X_CONNECT;
}

static int came_before(const mcp_registry_stream_t *a, const mcp_registry_stream_t *b)
{
    return a->opened < b->opened || (a->opened == b->opened && a->index < b->index);
}

void mcp_single_opened(mcp_exchange_t *x)
{
    single_t *single = x->single;
    const mcp_registry_stream_t *own = NULL;
    int i;

    find_others(single);
    for (i = 0; i < single->count; i++) {
        own = mcp_registry_is_in(x->slot, &single->older[i]) ? &single->older[i] : own;
    }
    for (i = 0; own && i < single->count; i++) {
        const mcp_registry_stream_t *other = &single->older[i];

        if (other == own || !came_before(other, own)) {
            continue;
        }
        if (single->rejects) {
            x->is_second = 1;
            mcp_exchange_fail(x, refuse(x));
            return;
        }
        mcp_streams_end(other->index, other->serial);
    }
}

apr_uint64_t mcp_single_session(const mcp_exchange_t *x)
{
    return x->single->session;
}
