/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A JSON body is kept until it is whole. An event stream is cut into lines (WHATWG HTML, section
 * 9.2.6); the data of one event is kept until its blank line and then judged: the answer is kept,
 * notifications that may be dropped are, anything else ends the matter. Events larger than
 * JUDGE_NOW wait for mcp_cache_capture_judge(), which may run on another thread than the one that
 * writes to the client.
 */
#include "mcp_cache_capture.h"

#include <stdlib.h>
#include <string.h>

#include "mcp_cache_json.h"
#include "mcp_rpc.h"

#define SLACK (16 * 1024)     /* bytes of envelope, or of an event that only tells */
#define JUDGE_NOW (16 * 1024)

typedef struct bytes_t {
    char *p;
    apr_size_t len, size;
} bytes_t;

struct mcp_cache_capture_t {
    mcp_cache_capture_rule_t rule;
    char *id;
    int refused;      /* no answer will come of it */
    int broken;       /* out of memory: what was seen proves nothing */
    int answers;      /* responses seen, or an event that may be one */
    bytes_t body;     /* JSON: the body. Stream: the event that is, or may be, the answer */
    bytes_t event;    /* data of the event that is coming */
    bytes_t line;
    int has_data;     /* the event has a data line */
    int event_lost;   /* the event is too long to keep */
    int line_lost;    /* so is the line: only its beginning was */
    int after_cr;
    int started;      /* past a byte order mark */
};

mcp_cache_capture_t *mcp_cache_capture_create(const mcp_cache_capture_rule_t *rule)
{
    mcp_cache_capture_t *c = calloc(1, sizeof(*c));

    if (!c) {
        return NULL;
    }
    c->rule = *rule;
    c->refused = !rule->id.p;
    if (rule->id.p) {
        c->id = malloc(rule->id.len + 1);
        if (!c->id) {
            free(c);
            return NULL;
        }
        memcpy(c->id, rule->id.p, rule->id.len);
        c->rule.id.p = c->id;
    }
    return c;
}

void mcp_cache_capture_destroy(mcp_cache_capture_t *capture)
{
    free(capture->id);
    free(capture->body.p);
    free(capture->event.p);
    free(capture->line.p);
    free(capture);
}

static void drop(bytes_t *b)
{
    free(b->p);
    memset(b, 0, sizeof(*b));
}

static void refuse(mcp_cache_capture_t *c)
{
    c->refused = 1;
    drop(&c->body);
}

/* Append, up to @a max bytes in all. Returns 0 where that does not do. */
static int append(mcp_cache_capture_t *c, bytes_t *b, const char *p, apr_size_t len,
                  apr_size_t max)
{
    if (len > max || b->len > max - len) {
        return 0;
    }
    if (len > b->size - b->len) {
        apr_size_t size = b->size ? b->size * 2 : 1024;
        char *grown;

        while (size - b->len < len) {
            size *= 2;
        }
        grown = realloc(b->p, size);
        if (!grown) {
            c->broken = 1;
            return 0;
        }
        b->p = grown;
        b->size = size;
    }
    if (len) {
        memcpy(b->p + b->len, p, len);
        b->len += len;
    }
    return 1;
}

static int same_id(mcp_span_t a, mcp_span_t b, apr_pool_t *p)
{
    mcp_span_t x, y;

    return a.p && b.p && mcp_cache_json_canonical(a, NULL, a.len + SLACK, p, &x) == APR_SUCCESS
        && mcp_cache_json_canonical(b, NULL, b.len + SLACK, p, &y) == APR_SUCCESS
        && x.len == y.len && !memcmp(x.p, y.p, x.len);
}

static void tell(const mcp_cache_capture_t *c, const mcp_rpc_t *rpc)
{
    static const struct {
        const char *method;
        mcp_cache_change_e what;
    } changes[] = {
        {"notifications/tools/list_changed", MCP_CACHE_CHANGED_TOOLS},
        {"notifications/prompts/list_changed", MCP_CACHE_CHANGED_PROMPTS},
        {"notifications/resources/list_changed", MCP_CACHE_CHANGED_RESOURCES},
        {"notifications/resources/updated", MCP_CACHE_CHANGED_RESOURCE},
    };
    apr_size_t i;

    if (!c->rule.changed || rpc->kind != MCP_RPC_NOTIFICATION) {
        return;
    }
    for (i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
        if (!strcmp(rpc->method, changes[i].method)) {
            c->rule.changed(c->rule.baton, changes[i].what,
                            changes[i].what == MCP_CACHE_CHANGED_RESOURCE ? rpc->uri : NULL);
        }
    }
}

/* A server may always leave these out, so a stored answer may come without them. */
static int may_be_dropped(const mcp_rpc_t *rpc)
{
    return rpc->kind == MCP_RPC_NOTIFICATION
        && (!strcmp(rpc->method, "notifications/progress")
            || !strcmp(rpc->method, "notifications/message"));
}

static apr_pool_t *scratch(void)
{
    apr_pool_t *p = NULL;

    /* Unmanaged: no parent, no lock, and the thread does not matter. */
    return apr_pool_create_unmanaged_ex(&p, NULL, NULL) == APR_SUCCESS ? p : NULL;
}

/* The event in c->event becomes the answer, or what may be the answer. */
static void keep_event(mcp_cache_capture_t *c)
{
    if (c->answers++) {
        refuse(c);
        return;
    }
    drop(&c->body);
    c->body = c->event;
    memset(&c->event, 0, sizeof(c->event));
}

static void judge_event(mcp_cache_capture_t *c)
{
    apr_pool_t *p = scratch();
    const mcp_rpc_t *rpc;

    if (!p) {
        c->broken = 1;
        return;
    }
    rpc = mcp_rpc_parse(c->event.p, c->event.len, p);
    tell(c, rpc);
    if (!c->refused && rpc->kind == MCP_RPC_RESPONSE && same_id(rpc->id, c->rule.id, p)) {
        keep_event(c);
    } else if (!c->refused && !may_be_dropped(rpc)) {
        refuse(c);
    }
    apr_pool_destroy(p);
}

static int holds(const bytes_t *b, const char *text)
{
    return b->len && memmem(b->p, b->len, text, strlen(text));
}

/* A blank line has come. An event without data, or with an empty one, is no message. */
static void end_event(mcp_cache_capture_t *c)
{
    if (c->event_lost) {
        refuse(c);
    } else if (c->has_data && c->event.len) {
        if (c->event.len > JUDGE_NOW && !c->refused) {
            keep_event(c);
        } else if (!c->refused || (c->rule.changed && holds(&c->event, "notifications"))) {
            judge_event(c);
        }
    }
    c->event.len = 0;
    c->has_data = c->event_lost = 0;
}

static apr_size_t event_limit(const mcp_cache_capture_t *c)
{
    return c->refused ? SLACK : c->rule.max + SLACK;
}

/* What stands behind the colon, without one space; p NULL: no data line. */
static mcp_span_t data_of(const bytes_t *line)
{
    mcp_span_t data = {NULL, 0};

    if (line->len < 4 || memcmp(line->p, "data", 4) || (line->len > 4 && line->p[4] != ':')) {
        return data;
    }
    data.p = line->p + line->len;
    if (line->len > 4) {
        data.p = line->p + 5;
        data.len = line->len - 5;
    }
    if (data.len && *data.p == ' ') {
        data.p++;
        data.len--;
    }
    return data;
}

static void end_line(mcp_cache_capture_t *c)
{
    mcp_span_t data;

    if (!c->started++ && c->line.len >= 3 && !memcmp(c->line.p, "\xef\xbb\xbf", 3)) {
        c->line.len -= 3;
        memmove(c->line.p, c->line.p + 3, c->line.len);
    }
    if (!c->line.len && !c->line_lost) {
        end_event(c);
        return;
    }
    data = data_of(&c->line);
    if (data.p && (c->line_lost || (c->has_data && !append(c, &c->event, "\n", 1, event_limit(c)))
                   || !append(c, &c->event, data.p, data.len, event_limit(c)))) {
        c->event_lost = 1;
    }
    c->has_data |= data.p != NULL;
    c->line.len = 0;
    c->line_lost = 0;
}

/* Only the first bytes of a line that is too long are kept: enough to see that it is data. */
static void feed_line(mcp_cache_capture_t *c, const char *p, apr_size_t len)
{
    if (!c->line_lost && !append(c, &c->line, p, len, event_limit(c))) {
        c->line_lost = 1;
        append(c, &c->line, p, len < 8 ? len : 8, event_limit(c) + 8);
    }
}

static void feed_stream(mcp_cache_capture_t *c, const char *p, const char *end)
{
    while (p < end) {
        const char *at = p;

        if (c->after_cr && *p == '\n') {
            c->after_cr = 0;
            p++;
            continue;
        }
        c->after_cr = 0;
        while (at < end && *at != '\n' && *at != '\r') {
            at++;
        }
        feed_line(c, p, (apr_size_t)(at - p));
        if (at < end) {
            c->after_cr = *at++ == '\r';
            end_line(c);
        }
        p = at;
    }
}

void mcp_cache_capture_feed(mcp_cache_capture_t *capture, const char *buf, apr_size_t len)
{
    if (mcp_cache_capture_is_over(capture)) {
        return;
    }
    if (capture->rule.is_stream) {
        feed_stream(capture, buf, buf + len);
    } else if (!append(capture, &capture->body, buf, len, capture->rule.max + SLACK)) {
        refuse(capture);
    }
}

int mcp_cache_capture_is_over(const mcp_cache_capture_t *capture)
{
    return capture->broken
        || (capture->refused && !(capture->rule.is_stream && capture->rule.changed));
}

int mcp_cache_capture_is_refused(const mcp_cache_capture_t *capture)
{
    return capture->refused || capture->broken;
}

apr_size_t mcp_cache_capture_held(const mcp_cache_capture_t *capture)
{
    return capture->body.size + capture->event.size + capture->line.size;
}

/* Digits only: a server that writes 1e3 or "1000" has not understood it, and gets 0. */
static apr_int64_t read_milliseconds(mcp_span_t number)
{
    apr_int64_t value = 0;
    apr_size_t i;

    for (i = 0; i < number.len; i++) {
        if (number.p[i] < '0' || number.p[i] > '9') {
            return 0;
        }
        if (value < APR_INT64_MAX / 100) {
            value = value * 10 + (number.p[i] - '0');
        }
    }
    return value;
}

static int is_named(mcp_span_t name, const char *text)
{
    return name.len == strlen(text) && !memcmp(name.p, text, name.len);
}

/* One member of the result. Returns 0 where it forbids storing. */
static int judge_member(const mcp_cache_capture_t *c, mcp_span_t name, mcp_span_t value,
                        mcp_cache_answer_t *answer, apr_pool_t *p)
{
    if (is_named(name, "isError")) {
        return value.len == 5 && !memcmp(value.p, "false", 5);
    }
    if (is_named(name, "resultType")) {
        return mcp_cache_json_is(value, "complete", p);
    }
    if (is_named(name, "task")) {
        return 0;
    }
    if (c->rule.by_hints && is_named(name, "ttlMs")) {
        answer->ttl_ms = read_milliseconds(value);
        answer->hint_at = (apr_uint32_t)(value.p - answer->result.p);
        answer->hint_len = (apr_uint32_t)value.len;
    } else if (c->rule.by_hints && is_named(name, "cacheScope")) {
        answer->is_public = mcp_cache_json_is(value, "public", p);
    }
    return 1;
}

static int judge_result(const mcp_cache_capture_t *c, mcp_cache_answer_t *answer, apr_pool_t *p)
{
    mcp_cache_json_walk_t walk;
    mcp_span_t name, value;
    apr_status_t rv = mcp_cache_json_walk(&walk, answer->result, p);

    while (rv == APR_SUCCESS) {
        rv = mcp_cache_json_next(&walk, &name, &value);
        if (rv == APR_SUCCESS && !judge_member(c, name, value, answer, p)) {
            return 0;
        }
    }
    answer->newlines = memchr(answer->result.p, '\n', answer->result.len)
        || memchr(answer->result.p, '\r', answer->result.len);
    return rv == APR_EOF;
}

/* The one text that may be the answer. */
static mcp_cache_answer_e judge_text(mcp_cache_capture_t *c, mcp_cache_answer_t *answer,
                                     apr_pool_t *p)
{
    const mcp_rpc_t *rpc = mcp_rpc_parse(c->body.p, c->body.len, p);

    if (rpc->error == MCP_RPC_EPARSE) {
        return c->rule.is_stream ? MCP_CACHE_ANSWER_REFUSE : MCP_CACHE_ANSWER_BROKEN;
    }
    if (rpc->kind != MCP_RPC_RESPONSE || !same_id(rpc->id, c->rule.id, p) || rpc->failure.p
        || rpc->ambiguous || rpc->duplicates || !rpc->result.p
        || rpc->result.len > c->rule.max) {
        return MCP_CACHE_ANSWER_REFUSE;
    }
    answer->result = rpc->result;
    return judge_result(c, answer, p) ? MCP_CACHE_ANSWER_STORE : MCP_CACHE_ANSWER_REFUSE;
}

mcp_cache_answer_e mcp_cache_capture_judge(mcp_cache_capture_t *capture, int whole,
                                           mcp_cache_answer_t *answer)
{
    mcp_cache_answer_e verdict;
    apr_pool_t *p;

    memset(answer, 0, sizeof(*answer));
    if (capture->broken || !whole) {
        return MCP_CACHE_ANSWER_BROKEN;
    }
    if (capture->refused) {
        return MCP_CACHE_ANSWER_REFUSE;
    }
    /* An unfinished event is thrown away by every client; here it is a stream that was cut. */
    if (!capture->body.len || capture->line.len || capture->has_data) {
        return MCP_CACHE_ANSWER_BROKEN;
    }
    p = scratch();
    if (!p) {
        return MCP_CACHE_ANSWER_BROKEN;
    }
    verdict = judge_text(capture, answer, p);
    apr_pool_destroy(p);
    return verdict;
}
