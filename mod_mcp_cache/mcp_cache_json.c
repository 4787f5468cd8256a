/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The canonical text is written while mcp_json.c reads. Each member of an object is a stretch of
 * the output; where they do not stand in order already, the stretches are sorted behind the last
 * one. Depth is bounded, so the stack is; output is bounded, so memory is.
 */
#include "mcp_cache_json.h"

#include <apr_tables.h>
#include <stdlib.h>
#include <string.h>

typedef struct writer_t {
    mcp_json_t json;
    char *out;
    apr_size_t len, size, limit;
    apr_pool_t *pool;
    int depth;
} writer_t;

typedef struct member_t {
    apr_size_t start, name_len, len; /* in out; the name with its quotes, then a colon */
    const char *base;                /* what start counts from while sorting */
} member_t;

static apr_status_t write_value(writer_t *w, const char *skip);

static apr_status_t put(writer_t *w, const char *bytes, apr_size_t len)
{
    if (len > w->limit - w->len) {
        return APR_ENOSPC;
    }
    if (len > w->size - w->len) {
        apr_size_t size = w->size;
        char *grown;

        while (len > size - w->len) {
            size *= 2;
        }
        grown = apr_palloc(w->pool, size);
        memcpy(grown, w->out, w->len);
        w->out = grown;
        w->size = size;
    }
    memcpy(w->out + w->len, bytes, len);
    w->len += len;
    return APR_SUCCESS;
}

/* One that must be escaped, in the only way that the canonical text writes it. */
static apr_status_t put_escape(writer_t *w, unsigned char c)
{
    static const char hex[] = "0123456789abcdef";
    char escape[6] = {'\\', (char)c, '0', '0', hex[c >> 4], hex[c & 15]};

    if (c == '"' || c == '\\') {
        return put(w, escape, 2);
    }
    escape[1] = 'u';
    return put(w, escape, 6);
}

/* A string by what it stands for: UTF-8. */
static apr_status_t put_text(writer_t *w, const char *at, apr_size_t len)
{
    const char *end = at + len;
    apr_status_t rv = put(w, "\"", 1);

    while (rv == APR_SUCCESS && at < end) {
        const char *plain = at;

        while (at < end && (unsigned char)*at >= 0x20 && *at != '"' && *at != '\\') {
            at++;
        }
        rv = put(w, plain, (apr_size_t)(at - plain));
        if (rv == APR_SUCCESS && at < end) {
            rv = put_escape(w, (unsigned char)*at++);
        }
    }
    return rv == APR_SUCCESS ? put(w, "\"", 1) : rv;
}

static apr_status_t write_string(writer_t *w)
{
    mcp_json_string_t string;
    const char *text;
    apr_size_t len;

    /* NUL ends a C string in one reader and not in another. */
    if (mcp_json_string(&w->json, &string) != APR_SUCCESS || string.has_nul
        || string.has_lone_surrogate) {
        return APR_EINVAL;
    }
    text = string.raw.p;
    len = string.raw.len;
    if (string.has_escape) {
        text = mcp_json_decode(&string, w->pool, &len);
    }
    return put_text(w, text, len);
}

/* Words, and numbers: 1, 1.0 and 1e0 may be three things to a server. */
static apr_status_t write_as_it_is(writer_t *w)
{
    mcp_span_t raw;

    return mcp_json_skip(&w->json, &raw) == APR_SUCCESS ? put(w, raw.p, raw.len) : APR_EINVAL;
}

static int compare_members(const void *left, const void *right)
{
    const member_t *a = left, *b = right;
    apr_size_t len = a->name_len < b->name_len ? a->name_len : b->name_len;
    int diff = memcmp(a->base + a->start, b->base + b->start, len);

    return diff ? diff : (a->name_len > b->name_len) - (a->name_len < b->name_len);
}

/* Put the members, which stand in out from start on, in order. */
static apr_status_t sort_members(writer_t *w, const apr_array_header_t *members, apr_size_t start)
{
    member_t *m = (member_t *)members->elts;
    int count = members->nelts, i;
    apr_status_t rv = APR_SUCCESS;
    char *base;

    for (i = 0; i < count; i++) {
        m[i].base = w->out;
    }
    for (i = 1; i < count && compare_members(&m[i - 1], &m[i]) < 0; i++);
    if (i >= count) {
        return APR_SUCCESS;
    }
    base = malloc(w->len);
    if (!base) {
        return APR_ENOMEM;
    }
    memcpy(base, w->out, w->len);
    for (i = 0; i < count; i++) {
        m[i].base = base;
    }
    qsort(m, (apr_size_t)count, sizeof(*m), compare_members);
    w->len = start;
    for (i = 0; i < count && rv == APR_SUCCESS; i++) {
        rv = i ? put(w, ",", 1) : APR_SUCCESS;
        rv = rv == APR_SUCCESS ? put(w, base + m[i].start, m[i].len) : rv;
    }
    free(base);
    return rv;
}

static apr_status_t write_member(writer_t *w, apr_array_header_t *members, const mcp_span_t *name,
                                 const char *skip)
{
    apr_size_t before = w->len;
    member_t *m = apr_array_push(members);
    apr_status_t rv = members->nelts > 1 ? put(w, ",", 1) : APR_SUCCESS;

    m->start = w->len;
    rv = rv == APR_SUCCESS ? put_text(w, name->p, name->len) : rv;
    m->name_len = w->len - m->start;
    rv = rv == APR_SUCCESS ? put(w, ":", 1) : rv;
    rv = rv == APR_SUCCESS ? write_value(w, NULL) : rv;
    m->len = w->len - m->start;
    if (skip && name->len == strlen(skip) && !memcmp(name->p, skip, name->len)) {
        apr_array_pop(members);
        w->len = before;
    }
    return rv;
}

static apr_status_t write_object(writer_t *w, const char *skip)
{
    apr_array_header_t *members = apr_array_make(w->pool, 8, sizeof(member_t));
    mcp_json_nest_t nest;
    mcp_span_t name;
    apr_size_t start;
    apr_status_t rv = put(w, "{", 1);

    start = w->len;
    rv = rv == APR_SUCCESS ? mcp_json_open(&w->json, &nest) : rv;
    while (rv == APR_SUCCESS && (rv = mcp_json_next(&w->json, &nest, &name)) == APR_SUCCESS) {
        rv = write_member(w, members, &name, skip);
    }
    rv = rv == APR_EOF ? sort_members(w, members, start) : rv;
    return rv == APR_SUCCESS ? put(w, "}", 1) : rv;
}

static apr_status_t write_array(writer_t *w)
{
    mcp_json_nest_t nest;
    apr_status_t rv = put(w, "[", 1);
    int count = 0;

    rv = rv == APR_SUCCESS ? mcp_json_open(&w->json, &nest) : rv;
    while (rv == APR_SUCCESS && (rv = mcp_json_next(&w->json, &nest, NULL)) == APR_SUCCESS) {
        rv = count++ ? put(w, ",", 1) : APR_SUCCESS;
        rv = rv == APR_SUCCESS ? write_value(w, NULL) : rv;
    }
    return rv == APR_EOF ? put(w, "]", 1) : rv;
}

static apr_status_t write_value(writer_t *w, const char *skip)
{
    int c = mcp_json_peek(&w->json);
    apr_status_t rv;

    if (c == '"') {
        return write_string(w);
    }
    if (c != '{' && c != '[') {
        return write_as_it_is(w);
    }
    if (w->depth == MCP_CACHE_JSON_DEPTH) {
        return APR_ENOSPC;
    }
    w->depth++;
    rv = c == '{' ? write_object(w, skip) : write_array(w);
    w->depth--;
    return rv;
}

apr_status_t mcp_cache_json_canonical(mcp_span_t json, const char *skip, apr_size_t limit,
                                      apr_pool_t *p, mcp_span_t *out)
{
    writer_t w;
    apr_status_t rv;

    mcp_json_init(&w.json, json.p, json.len, p);
    w.pool = p;
    w.len = 0;
    w.depth = 0;
    w.limit = limit;
    w.size = json.len < limit ? json.len + 16 : limit + 16;
    w.out = apr_palloc(p, w.size);
    rv = write_value(&w, skip);
    if (rv == APR_SUCCESS && mcp_json_end(&w.json) == APR_SUCCESS && !w.json.duplicates
        && !w.json.odd_names) {
        out->p = w.out;
        out->len = w.len;
    } else if (rv != APR_ENOSPC && rv != APR_ENOMEM) {
        rv = APR_EINVAL;
    }
    mcp_json_done(&w.json);
    return rv;
}

apr_status_t mcp_cache_json_walk(mcp_cache_json_walk_t *walk, mcp_span_t json, apr_pool_t *p)
{
    if (!json.p) {
        return APR_EINVAL;
    }
    mcp_json_init(&walk->json, json.p, json.len, p);
    if (mcp_json_peek(&walk->json) != '{') {
        return APR_EINVAL;
    }
    return mcp_json_open(&walk->json, &walk->nest);
}

apr_status_t mcp_cache_json_next(mcp_cache_json_walk_t *walk, mcp_span_t *name, mcp_span_t *value)
{
    apr_status_t rv = mcp_json_next(&walk->json, &walk->nest, name);

    rv = rv == APR_SUCCESS ? mcp_json_skip(&walk->json, value) : rv;
    if (rv != APR_EOF && (rv != APR_SUCCESS || walk->json.odd_names)) {
        return APR_EINVAL;
    }
    return rv;
}

apr_status_t mcp_cache_json_member(mcp_span_t json, const char *name, apr_pool_t *p,
                                   mcp_span_t *value)
{
    mcp_cache_json_walk_t walk;
    mcp_span_t at, found;
    apr_status_t rv = mcp_cache_json_walk(&walk, json, p);
    int count = 0;

    while (rv == APR_SUCCESS && (rv = mcp_cache_json_next(&walk, &at, &found)) == APR_SUCCESS) {
        if (at.len == strlen(name) && !memcmp(at.p, name, at.len)) {
            *value = found;
            count++;
        }
    }
    if (rv != APR_EOF || count > 1) {
        return APR_EINVAL;
    }
    return count ? APR_SUCCESS : APR_NOTFOUND;
}

int mcp_cache_json_is(mcp_span_t json, const char *text, apr_pool_t *p)
{
    mcp_json_string_t string;
    mcp_json_t reader;
    const char *found;
    apr_size_t len;

    mcp_json_init(&reader, json.p, json.len, p);
    if (mcp_json_peek(&reader) != '"' || mcp_json_string(&reader, &string) != APR_SUCCESS
        || mcp_json_end(&reader) != APR_SUCCESS) {
        return 0;
    }
    found = mcp_json_decode(&string, p, &len);
    return len == strlen(text) && !memcmp(found, text, len);
}
