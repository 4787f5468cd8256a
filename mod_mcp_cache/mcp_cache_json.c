/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A recursive reader that writes the canonical text while it reads. Objects are put in order after
 * their last member: each member is a stretch of the output, and the stretches are sorted. Depth is
 * bounded, so the stack is; output is bounded, so memory is.
 */
#include "mcp_cache_json.h"

#include <apr_strings.h>
#include <apr_tables.h>
#include <stdlib.h>
#include <string.h>

typedef struct reader_t {
    const char *p, *end;
    char *out; /* NULL: only read */
    apr_size_t len, size, limit;
    apr_pool_t *pool;
    const char *skip; /* canonical text of a name, of the outermost object only */
    int depth, max_depth;
} reader_t;

typedef struct member_t {
    apr_size_t start, name_len, len; /* in out, with the colon; len 0: left out */
    const char *base;                /* what start counts from while sorting */
} member_t;

static apr_status_t read_value(reader_t *r);

static apr_status_t put(reader_t *r, const char *bytes, apr_size_t len)
{
    if (!r->out) {
        return APR_SUCCESS;
    }
    if (len > r->limit - r->len) {
        return APR_ENOSPC;
    }
    if (len > r->size - r->len) {
        apr_size_t size = r->size;
        char *grown;

        while (len > size - r->len) {
            size *= 2;
        }
        grown = apr_palloc(r->pool, size);
        memcpy(grown, r->out, r->len);
        r->out = grown;
        r->size = size;
    }
    memcpy(r->out + r->len, bytes, len);
    r->len += len;
    return APR_SUCCESS;
}

static void skip_space(reader_t *r)
{
    while (r->p < r->end && (*r->p == ' ' || *r->p == '\t' || *r->p == '\n' || *r->p == '\r')) {
        r->p++;
    }
}

static int peek(const reader_t *r)
{
    return r->p < r->end ? (unsigned char)*r->p : -1;
}

/* Four hex digits, or -1. */
static long read_hex4(reader_t *r)
{
    long value = 0;
    int i;

    if (r->end - r->p < 4) {
        return -1;
    }
    for (i = 0; i < 4; i++) {
        int c = (unsigned char)*r->p++;

        if (c >= '0' && c <= '9') {
            value = value * 16 + (c - '0');
        } else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') {
            value = value * 16 + ((c | 0x20) - 'a' + 10);
        } else {
            return -1;
        }
    }
    return value;
}

static apr_status_t put_code_point(reader_t *r, long c)
{
    char utf8[4];

    if (c < 0x80) {
        utf8[0] = (char)c;
        return put(r, utf8, 1);
    }
    if (c < 0x800) {
        utf8[0] = (char)(0xc0 | (c >> 6));
        utf8[1] = (char)(0x80 | (c & 0x3f));
        return put(r, utf8, 2);
    }
    if (c < 0x10000) {
        utf8[0] = (char)(0xe0 | (c >> 12));
        utf8[1] = (char)(0x80 | ((c >> 6) & 0x3f));
        utf8[2] = (char)(0x80 | (c & 0x3f));
        return put(r, utf8, 3);
    }
    utf8[0] = (char)(0xf0 | (c >> 18));
    utf8[1] = (char)(0x80 | ((c >> 12) & 0x3f));
    utf8[2] = (char)(0x80 | ((c >> 6) & 0x3f));
    utf8[3] = (char)(0x80 | (c & 0x3f));
    return put(r, utf8, 4);
}

/* One character, in the only way that the canonical text writes it. */
static apr_status_t put_char(reader_t *r, long c)
{
    static const char hex[] = "0123456789abcdef";
    char escape[6] = {'\\', 'u', '0', '0', 0, 0};

    if (c == '"') {
        return put(r, "\\\"", 2);
    }
    if (c == '\\') {
        return put(r, "\\\\", 2);
    }
    if (c < 0x20) {
        escape[4] = hex[c >> 4];
        escape[5] = hex[c & 15];
        return put(r, escape, 6);
    }
    return put_code_point(r, c);
}

static apr_status_t read_unicode_escape(reader_t *r)
{
    long c = read_hex4(r), low;

    if (c <= 0) { /* NUL ends a C string in one reader and not in another */
        return APR_EINVAL;
    }
    if (c >= 0xdc00 && c <= 0xdfff) {
        return APR_EINVAL;
    }
    if (c >= 0xd800 && c <= 0xdbff) {
        if (r->end - r->p < 6 || r->p[0] != '\\' || r->p[1] != 'u') {
            return APR_EINVAL;
        }
        r->p += 2;
        low = read_hex4(r);
        if (low < 0xdc00 || low > 0xdfff) {
            return APR_EINVAL;
        }
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
    }
    return put_char(r, c);
}

static apr_status_t read_escape(reader_t *r)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *at;
    int c = peek(r);

    if (c <= 0) {
        return APR_EINVAL;
    }
    r->p++;
    if (c == 'u') {
        return read_unicode_escape(r);
    }
    at = strchr(from, c);
    return at ? put_char(r, to[at - from]) : APR_EINVAL;
}

/* Length of the well-formed UTF-8 sequence at p (RFC 3629), or 0. */
static int utf8_length(const unsigned char *p, const unsigned char *end)
{
    int i, n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;

    if (p[0] < 0xc2 || p[0] > 0xf4 || end - p < n) {
        return 0;
    }
    for (i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f)
        || (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f)) {
        return 0;
    }
    return n;
}

static apr_status_t read_utf8(reader_t *r)
{
    int n = utf8_length((const unsigned char *)r->p, (const unsigned char *)r->end);
    const char *at = r->p;

    if (!n) {
        return APR_EINVAL;
    }
    r->p += n;
    return put(r, at, (apr_size_t)n);
}

static apr_status_t read_string(reader_t *r)
{
    apr_status_t rv;

    r->p++;
    rv = put(r, "\"", 1);
    while (rv == APR_SUCCESS) {
        const char *plain = r->p;
        int c;

        while ((c = peek(r)) >= 0x20 && c < 0x80 && c != '"' && c != '\\') {
            r->p++;
        }
        rv = put(r, plain, (apr_size_t)(r->p - plain));
        if (rv != APR_SUCCESS) {
            break;
        }
        if (c == '"') {
            r->p++;
            return put(r, "\"", 1);
        }
        if (c == '\\') {
            r->p++;
            rv = read_escape(r);
        } else if (c >= 0x80) {
            rv = read_utf8(r);
        } else { /* the end, or a control character */
            rv = APR_EINVAL;
        }
    }
    return rv;
}

static apr_size_t skip_digits(reader_t *r)
{
    const char *at = r->p;

    while (r->p < r->end && *r->p >= '0' && *r->p <= '9') {
        r->p++;
    }
    return (apr_size_t)(r->p - at);
}

/* A number keeps its text: 1, 1.0 and 1e0 may be three things to a server. */
static apr_status_t read_number(reader_t *r)
{
    const char *at = r->p;
    apr_size_t digits;
    int zero;

    if (peek(r) == '-') {
        r->p++;
    }
    zero = peek(r) == '0';
    digits = skip_digits(r);
    if (!digits || (zero && digits > 1)) {
        return APR_EINVAL;
    }
    if (peek(r) == '.') {
        r->p++;
        if (!skip_digits(r)) {
            return APR_EINVAL;
        }
    }
    if (peek(r) == 'e' || peek(r) == 'E') {
        r->p++;
        if (peek(r) == '+' || peek(r) == '-') {
            r->p++;
        }
        if (!skip_digits(r)) {
            return APR_EINVAL;
        }
    }
    return put(r, at, (apr_size_t)(r->p - at));
}

static apr_status_t read_word(reader_t *r, const char *word)
{
    apr_size_t len = strlen(word);

    if ((apr_size_t)(r->end - r->p) < len || memcmp(r->p, word, len)) {
        return APR_EINVAL;
    }
    r->p += len;
    return put(r, word, len);
}

static int compare_members(const void *left, const void *right)
{
    const member_t *a = left, *b = right;
    apr_size_t len = a->name_len < b->name_len ? a->name_len : b->name_len;
    int diff = memcmp(a->base + a->start, b->base + b->start, len);

    return diff ? diff : (a->name_len > b->name_len) - (a->name_len < b->name_len);
}

/* Put the members, which stand in out from start on, in order, with commas; no name twice. */
static apr_status_t sort_members(reader_t *r, apr_array_header_t *members, apr_size_t start)
{
    member_t *m = (member_t *)members->elts;
    apr_size_t len = r->len - start;
    apr_status_t rv = APR_SUCCESS;
    char *base = malloc(len + 1);
    int i, written = 0;

    if (!base) {
        return APR_ENOMEM;
    }
    memcpy(base, r->out + start, len);
    for (i = 0; i < members->nelts; i++) {
        m[i].base = base;
        m[i].start -= start;
    }
    qsort(m, (apr_size_t)members->nelts, sizeof(*m), compare_members);
    r->len = start;
    for (i = 0; i < members->nelts && rv == APR_SUCCESS; i++) {
        if (i && !compare_members(&m[i - 1], &m[i])) {
            rv = APR_EINVAL;
        } else if (m[i].len) {
            rv = written++ ? put(r, ",", 1) : APR_SUCCESS;
        }
        if (rv == APR_SUCCESS) {
            rv = put(r, base + m[i].start, m[i].len);
        }
    }
    free(base);
    return rv;
}

static apr_status_t read_name(reader_t *r)
{
    apr_status_t rv;

    skip_space(r);
    if (peek(r) != '"') {
        return APR_EINVAL;
    }
    rv = read_string(r);
    skip_space(r);
    if (rv == APR_SUCCESS && peek(r) != ':') {
        rv = APR_EINVAL;
    }
    if (rv == APR_SUCCESS) {
        r->p++;
    }
    return rv;
}

static apr_status_t read_member(reader_t *r, apr_array_header_t *members)
{
    member_t only_read, *m = members ? apr_array_push(members) : &only_read;
    apr_status_t rv;

    m->start = r->len;
    rv = read_name(r);
    if (rv != APR_SUCCESS) {
        return rv;
    }
    m->name_len = r->len - m->start;
    rv = put(r, ":", 1);
    if (rv == APR_SUCCESS) {
        rv = read_value(r);
    }
    m->len = r->len - m->start;
    if (rv == APR_SUCCESS && r->skip && r->depth == 1 && strlen(r->skip) == m->name_len
        && !memcmp(r->out + m->start, r->skip, m->name_len)) {
        r->len = m->start + m->name_len;
        m->len = 0;
    }
    return rv;
}

static apr_status_t read_object(reader_t *r)
{
    apr_array_header_t *members = r->out ? apr_array_make(r->pool, 8, sizeof(member_t)) : NULL;
    apr_status_t rv = put(r, "{", 1);
    apr_size_t start = r->len;

    r->p++;
    skip_space(r);
    if (rv == APR_SUCCESS && peek(r) == '}') {
        r->p++;
        return put(r, "}", 1);
    }
    while (rv == APR_SUCCESS) {
        rv = read_member(r, members);
        skip_space(r);
        if (rv != APR_SUCCESS || peek(r) != ',') {
            break;
        }
        r->p++;
    }
    if (rv == APR_SUCCESS && peek(r) != '}') {
        rv = APR_EINVAL;
    }
    if (rv == APR_SUCCESS) {
        r->p++;
        rv = members ? sort_members(r, members, start) : APR_SUCCESS;
    }
    return rv == APR_SUCCESS ? put(r, "}", 1) : rv;
}

static apr_status_t read_array(reader_t *r)
{
    apr_status_t rv = put(r, "[", 1);

    r->p++;
    skip_space(r);
    if (rv == APR_SUCCESS && peek(r) == ']') {
        r->p++;
        return put(r, "]", 1);
    }
    while (rv == APR_SUCCESS) {
        rv = read_value(r);
        skip_space(r);
        if (rv != APR_SUCCESS || peek(r) != ',') {
            break;
        }
        r->p++;
        rv = put(r, ",", 1);
    }
    if (rv == APR_SUCCESS && peek(r) != ']') {
        rv = APR_EINVAL;
    }
    if (rv == APR_SUCCESS) {
        r->p++;
        rv = put(r, "]", 1);
    }
    return rv;
}

static apr_status_t read_value(reader_t *r)
{
    apr_status_t rv;

    skip_space(r);
    switch (peek(r)) {
    case '{':
    case '[':
        if (r->depth >= r->max_depth) {
            return APR_ENOSPC;
        }
        r->depth++;
        rv = *r->p == '{' ? read_object(r) : read_array(r);
        r->depth--;
        return rv;
    case '"':
        return read_string(r);
    case 't':
        return read_word(r, "true");
    case 'f':
        return read_word(r, "false");
    case 'n':
        return read_word(r, "null");
    default:
        return read_number(r);
    }
}

/* The name as the canonical text has it. Only for names that need no escape. */
static const char *quoted(const char *name, apr_pool_t *p)
{
    return apr_pstrcat(p, "\"", name, "\"", NULL);
}

apr_status_t mcp_cache_json_canonical(mcp_span_t json, const char *skip, apr_size_t limit,
                                      apr_pool_t *p, mcp_span_t *out)
{
    reader_t r = {json.p, json.p + json.len, NULL, 0, 0, limit, p, NULL, 0,
                  MCP_CACHE_JSON_DEPTH};
    apr_status_t rv;

    r.skip = skip ? quoted(skip, p) : NULL;
    r.size = json.len < limit ? json.len + 16 : limit + 16;
    r.out = apr_palloc(p, r.size);
    rv = read_value(&r);
    skip_space(&r);
    if (rv == APR_SUCCESS && r.p != r.end) {
        rv = APR_EINVAL;
    }
    out->p = r.out;
    out->len = r.len;
    return rv;
}

apr_status_t mcp_cache_json_walk(mcp_cache_json_walk_t *walk, mcp_span_t json)
{
    reader_t r = {json.p, json.p + json.len, NULL, 0, 0, 0, NULL, NULL, 0, 0};

    if (!json.p) {
        return APR_EINVAL;
    }
    skip_space(&r);
    if (peek(&r) != '{') {
        return APR_EINVAL;
    }
    walk->p = r.p + 1;
    walk->end = r.end;
    walk->state = 0;
    return APR_SUCCESS;
}

/* Whether another member comes; moves past the comma. */
static apr_status_t walk_more(mcp_cache_json_walk_t *walk, reader_t *r)
{
    skip_space(r);
    if (peek(r) == '}') {
        return APR_EOF;
    }
    if (walk->state++) {
        if (peek(r) != ',') {
            return APR_EINVAL;
        }
        r->p++;
    }
    return APR_SUCCESS;
}

apr_status_t mcp_cache_json_next(mcp_cache_json_walk_t *walk, apr_pool_t *p, mcp_span_t *name,
                                 mcp_span_t *value)
{
    reader_t r = {walk->p, walk->end, NULL, 0, 64, 64 * 1024, p, NULL, 0, MCP_CACHE_JSON_RESULT_DEPTH};
    apr_status_t rv = walk_more(walk, &r);

    if (rv != APR_SUCCESS) {
        return rv;
    }
    r.out = apr_palloc(p, r.size);
    rv = read_name(&r);
    if (rv != APR_SUCCESS) {
        return rv;
    }
    name->p = r.out;
    name->len = r.len;
    r.out = NULL;
    skip_space(&r);
    value->p = r.p;
    rv = read_value(&r);
    value->len = (apr_size_t)(r.p - value->p);
    walk->p = r.p;
    return rv;
}

apr_status_t mcp_cache_json_member(mcp_span_t json, const char *name, apr_pool_t *p,
                                   mcp_span_t *value)
{
    const char *wanted = quoted(name, p);
    mcp_cache_json_walk_t walk;
    mcp_span_t at, found;
    apr_status_t rv = mcp_cache_json_walk(&walk, json);
    int count = 0;

    while (rv == APR_SUCCESS) {
        rv = mcp_cache_json_next(&walk, p, &at, &found);
        if (rv == APR_SUCCESS && at.len == strlen(wanted) && !memcmp(at.p, wanted, at.len)) {
            *value = found;
            count++;
        }
    }
    if (rv != APR_EOF || count > 1) {
        return rv == APR_EOF ? APR_EINVAL : rv;
    }
    return count ? APR_SUCCESS : APR_NOTFOUND;
}

int mcp_cache_json_is(mcp_span_t json, const char *text, apr_pool_t *p)
{
    const char *wanted = quoted(text, p);
    mcp_span_t found;

    return mcp_cache_json_canonical(json, NULL, json.len + 1024, p, &found) == APR_SUCCESS
        && found.len == strlen(wanted) && !memcmp(found.p, wanted, found.len);
}
