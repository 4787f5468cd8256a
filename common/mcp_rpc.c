/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a gateway must know of a JSON-RPC message. The members that matter are looked at where they
 * stand, everything else is skipped, in one pass; syntax is mcp_json.c's business. Names are
 * compared twice: exactly, and the way the laxest reader behind the gateway might, since a message
 * that means one thing here and another there is a way around every rule.
 * On the hot path of each call: one allocation for the result and one for each text in it.
 */
#include "mcp_rpc.h"

#include <string.h>

#include "mcp_json.h"

_Static_assert(MCP_RPC_MAX_DEPTH == MCP_JSON_MAX_DEPTH, "the reader's depth is the promised one");

typedef enum {
    OTHER = 0,
    JSONRPC = 1 << 0,
    ID = 1 << 1,
    METHOD = 1 << 2,
    PARAMS = 1 << 3,
    RESULT = 1 << 4,
    FAILURE = 1 << 5,
    NAME = 1 << 6,
    URI = 1 << 7,
    META = 1 << 8,
    VERSION = 1 << 9,
    ARGUMENTS = 1 << 10,
    INPUT_RESPONSES = 1 << 11,
    REQUEST_STATE = 1 << 12,
    TASK = 1 << 13
} field_e;

#define FIELD(field, text) { field, { text, sizeof(text) - 1 } }

typedef struct field_t {
    field_e field;
    mcp_span_t name;
} field_t;

/* Each ends with OTHER. */
static const field_t message_fields[] = {
    FIELD(JSONRPC, "jsonrpc"), FIELD(ID, "id"), FIELD(METHOD, "method"),
    FIELD(PARAMS, "params"), FIELD(RESULT, "result"), FIELD(FAILURE, "error"),
    FIELD(OTHER, "")
};
static const field_t params_fields[] = {
    FIELD(NAME, "name"), FIELD(URI, "uri"), FIELD(META, "_meta"),
    FIELD(ARGUMENTS, "arguments"), FIELD(INPUT_RESPONSES, "inputResponses"),
    FIELD(REQUEST_STATE, "requestState"), FIELD(TASK, "task"),
    FIELD(OTHER, "")
};
static const field_t meta_fields[] = {
    FIELD(VERSION, "io.modelcontextprotocol/protocolVersion"),
    FIELD(OTHER, "")
};

/* One message while it is read. */
typedef struct message_t {
    mcp_json_t *json;
    mcp_rpc_t *rpc;
    apr_pool_t *p;
    unsigned seen;     /* fields, in their own spelling */
    unsigned repeated; /* fields that came again, or in another spelling */
} message_t;

/*
 * One character of a name in lower case, *at moved past it. These four are beyond ASCII and yet
 * become ASCII where readers ignore case: dotless and dotted I, long S, the Kelvin sign.
 */
static int fold_character(const char **at, const char *end)
{
    static const struct {
        const char *text;
        apr_size_t len;
        int folded;
    } odd[] = {
        { "\xc4\xb0", 2, 'i' }, { "\xc4\xb1", 2, 'i' }, { "\xc5\xbf", 2, 's' },
        { "\xe2\x84\xaa", 3, 'k' }
    };
    apr_size_t i, left = (apr_size_t)(end - *at);
    int c = (unsigned char)*(*at)++;

    if (c >= 'A' && c <= 'Z') {
        return c + ('a' - 'A');
    }
    for (i = 0; c >= 0x80 && i < sizeof(odd) / sizeof(*odd); i++) {
        if (left >= odd[i].len && !memcmp(*at - 1, odd[i].text, odd[i].len)) {
            *at += odd[i].len - 1;
            return odd[i].folded;
        }
    }
    return c;
}

/* Whether a lax reader might take @a name for @a field: by case, or by ending it at a NUL. */
static int is_variant(const mcp_span_t *name, const mcp_span_t *field)
{
    const char *at = name->p, *end = at + name->len;
    const char *want = field->p, *want_end = want + field->len;

    while (at < end && *at && want < want_end) {
        if (fold_character(&at, end) != fold_character(&want, want_end)) {
            return 0;
        }
    }
    return want == want_end && (at == end || !*at);
}

/* The field that a lax reader might take @a name for. Rare, and out of the way of what is not. */
static __attribute__((cold, noinline)) field_e find_variant(message_t *m, const field_t *table,
                                                            const mcp_span_t *name)
{
    const field_t *f;

    for (f = table; f->field && !is_variant(name, &f->name); f++);
    m->repeated |= f->field;
    return f->field;
}

/*
 * Which field of @a table a name is, and take note of it.
 * @param exact out: in its own spelling, and for the first time
 */
static inline field_e find_field(message_t *m, const field_t *table, const mcp_span_t *name,
                                 int *exact)
{
    const field_t *f;

    for (f = table; f->field; f++) {
        if (f->name.len == name->len && !memcmp(f->name.p, name->p, name->len)) {
            *exact = !(m->seen & f->field);
            m->repeated |= m->seen & f->field;
            m->seen |= f->field;
            return f->field;
        }
    }
    *exact = 0;
    return find_variant(m, table, name);
}

static void complain(message_t *m, const char *detail)
{
    if (!m->rpc->detail) {
        m->rpc->detail = detail;
    }
}

/* Read a text that the gateway may decide on; *text is NULL if something else stands there. */
static apr_status_t read_text(message_t *m, const char **text)
{
    mcp_json_string_t string;
    mcp_span_t raw;

    *text = NULL;
    if (mcp_json_peek(m->json) != '"') {
        return mcp_json_skip(m->json, &raw);
    }
    if (mcp_json_string(m->json, &string) != APR_SUCCESS) {
        return APR_EGENERAL;
    }
    if (string.has_nul || string.has_lone_surrogate) {
        m->rpc->ambiguous = 1;
    }
    *text = mcp_json_decode(&string, m->p, NULL);
    return APR_SUCCESS;
}

static apr_status_t read_meta(message_t *m)
{
    mcp_json_nest_t nest;
    mcp_span_t name, raw;
    apr_status_t rv;
    int exact;

    if (mcp_json_peek(m->json) != '{') {
        return mcp_json_skip(m->json, &raw);
    }
    rv = mcp_json_open(m->json, &nest);
    while (rv == APR_SUCCESS
           && (rv = mcp_json_next(m->json, &nest, &name)) == APR_SUCCESS) {
        field_e field = find_field(m, meta_fields, &name, &exact);

        if (field == VERSION && exact) {
            rv = read_text(m, &m->rpc->version);
            continue;
        }
        m->rpc->ambiguous |= field == VERSION;
        rv = mcp_json_skip(m->json, &raw);
    }
    return rv == APR_EOF ? APR_SUCCESS : rv;
}

static apr_status_t read_param(message_t *m, const mcp_span_t *name)
{
    mcp_span_t raw;
    int exact;
    field_e field = find_field(m, params_fields, name, &exact);

    switch (field) {
    case ARGUMENTS:
        m->rpc->duplicates |= !exact;
        return mcp_json_skip(m->json, exact ? &m->rpc->arguments : &raw);
    case INPUT_RESPONSES:
        m->rpc->has_input_responses = 1;
        break;
    case REQUEST_STATE:
        m->rpc->has_request_state = 1;
        break;
    case TASK:
        m->rpc->has_task = 1;
        break;
    case OTHER:
        break;
    default:
        if (!exact) {
            m->rpc->ambiguous = 1;
            break;
        }
        return field == NAME ? read_text(m, &m->rpc->name)
             : field == URI ? read_text(m, &m->rpc->uri)
             : read_meta(m);
    }
    return mcp_json_skip(m->json, &raw);
}

static apr_status_t read_params(message_t *m)
{
    mcp_json_nest_t nest;
    mcp_span_t name;
    apr_status_t rv;
    int c = mcp_json_peek(m->json);

    if (c != '{') {
        if (c != '[') {
            complain(m, "params is neither an object nor an array");
        }
        return mcp_json_skip(m->json, &m->rpc->params);
    }
    m->rpc->params.p = m->json->at;
    rv = mcp_json_open(m->json, &nest);
    while (rv == APR_SUCCESS
           && (rv = mcp_json_next(m->json, &nest, &name)) == APR_SUCCESS) {
        rv = read_param(m, &name);
    }
    m->rpc->params.len = (apr_size_t)(m->json->at - m->rpc->params.p);
    return rv == APR_EOF ? APR_SUCCESS : rv;
}

static apr_status_t read_id(message_t *m)
{
    mcp_json_string_t string;
    int c = mcp_json_peek(m->json);

    if (c == '"') {
        if (mcp_json_string(m->json, &string) != APR_SUCCESS) {
            return APR_EGENERAL;
        }
        m->rpc->ambiguous |= string.has_nul;
        m->rpc->id.p = string.raw.p - 1;
        m->rpc->id.len = string.raw.len + 2;
        return APR_SUCCESS;
    }
    if (mcp_json_skip(m->json, &m->rpc->id) != APR_SUCCESS) {
        return APR_EGENERAL;
    }
    if (c != '-' && (c < '0' || c > '9')) {
        /* JSON-RPC allows null in an answer to a request whose id could not be read. */
        if (c != 'n') {
            complain(m, "id is neither a string nor a number");
        }
        m->rpc->id.p = NULL;
        m->rpc->id.len = 0;
    }
    return APR_SUCCESS;
}

/* As good as always the same five bytes: then no text is made of them. */
static apr_status_t read_jsonrpc(message_t *m)
{
    mcp_json_t *json = m->json;
    const char *text;
    apr_status_t rv;

    if (mcp_json_peek(json) == '"' && json->end - json->at >= 5
        && !memcmp(json->at, "\"2.0\"", 5)) {
        json->at += 5;
        return APR_SUCCESS;
    }
    rv = read_text(m, &text);
    if (rv == APR_SUCCESS && (!text || strcmp(text, "2.0"))) {
        complain(m, "jsonrpc is not \"2.0\"");
    }
    return rv;
}

static apr_status_t read_member(message_t *m, const mcp_span_t *name)
{
    mcp_span_t raw;
    apr_status_t rv;
    int exact;
    field_e field = find_field(m, message_fields, name, &exact);

    if (field != OTHER && !exact) {
        m->rpc->ambiguous = 1;
        return mcp_json_skip(m->json, &raw);
    }
    switch (field) {
    case JSONRPC:
        return read_jsonrpc(m);
    case ID:
        return read_id(m);
    case METHOD:
        rv = read_text(m, &m->rpc->method);
        if (rv == APR_SUCCESS && !m->rpc->method) {
            complain(m, "method is not a string");
        }
        return rv;
    case PARAMS:
        return read_params(m);
    case RESULT:
        return mcp_json_skip(m->json, &m->rpc->result);
    case FAILURE:
        return mcp_json_skip(m->json, &m->rpc->failure);
    default:
        return mcp_json_skip(m->json, &raw);
    }
}

/* What kind of message these members make (JSON-RPC 2.0, sections 4 and 5). */
static void judge(message_t *m)
{
    mcp_rpc_t *rpc = m->rpc;
    unsigned answer = m->seen & (RESULT | FAILURE);

    if (!(m->seen & JSONRPC)) {
        complain(m, "jsonrpc is missing");
    }
    if (m->seen & METHOD) {
        /* MCP forbids null here. */
        if ((m->seen & ID) && !rpc->id.p) {
            complain(m, "id is neither a string nor a number");
        }
        rpc->kind = m->seen & ID ? MCP_RPC_REQUEST : MCP_RPC_NOTIFICATION;
        rpc->ambiguous |= answer != 0;
    }
    else if (!answer) {
        complain(m, "neither method, result nor error is there");
    }
    else if (answer == (RESULT | FAILURE)) {
        complain(m, "both result and error are there");
    }
    else if (answer == RESULT && !rpc->id.p) {
        complain(m, "a result without an id");
    }
    else {
        rpc->kind = MCP_RPC_RESPONSE;
    }
    if (m->repeated & ID) {
        rpc->id.p = NULL;
        rpc->id.len = 0;
    }
    if (rpc->detail) {
        rpc->kind = MCP_RPC_INVALID;
        rpc->error = MCP_RPC_EINVALID;
    }
}

/* Read the object that comes next as one message. */
static apr_status_t read_message(mcp_json_t *json, mcp_rpc_t *rpc, apr_pool_t *p)
{
    message_t m = { json, rpc, p, 0, 0 };
    mcp_json_nest_t nest;
    mcp_span_t name;
    apr_status_t rv;

    json->duplicates = 0;
    rv = mcp_json_open(json, &nest);
    while (rv == APR_SUCCESS && (rv = mcp_json_next(json, &nest, &name)) == APR_SUCCESS) {
        rv = read_member(&m, &name);
    }
    if (rv != APR_EOF) {
        return rv;
    }
    rpc->duplicates |= json->duplicates != 0;
    judge(&m);
    return APR_SUCCESS;
}

static void refuse(mcp_rpc_t *rpc, mcp_rpc_error_e error, const char *detail)
{
    memset(rpc, 0, sizeof(*rpc));
    rpc->kind = MCP_RPC_INVALID;
    rpc->error = error;
    rpc->detail = detail;
}

/*
 * Read the next message of a batch, whatever it is. Everything in a batch that is no object is the
 * same invalid message: a body of commas and zeros must not become a hundred times its size.
 */
static apr_status_t read_element(mcp_json_t *json, mcp_rpc_t *batch, mcp_rpc_t **other,
                                 apr_pool_t *p)
{
    mcp_rpc_t *rpc;
    mcp_span_t raw;
    apr_status_t rv;

    if (mcp_json_peek(json) == '{') {
        rpc = apr_pcalloc(p, sizeof(*rpc));
        rv = read_message(json, rpc, p);
    }
    else {
        if (!*other) {
            *other = apr_palloc(p, sizeof(**other));
            refuse(*other, MCP_RPC_EINVALID, "not an object");
        }
        rpc = *other;
        rv = mcp_json_skip(json, &raw);
    }
    batch->ambiguous |= rpc->ambiguous;
    batch->duplicates |= rpc->duplicates;
    APR_ARRAY_PUSH(batch->batch, mcp_rpc_t *) = rpc;
    return rv;
}

static apr_status_t read_batch(mcp_json_t *json, mcp_rpc_t *rpc, apr_pool_t *p)
{
    mcp_json_nest_t nest;
    mcp_rpc_t *other = NULL;
    mcp_span_t raw;
    apr_status_t rv;
    int is_long = 0;

    rpc->kind = MCP_RPC_BATCH;
    rpc->batch = apr_array_make(p, 4, sizeof(mcp_rpc_t *));
    rv = mcp_json_open(json, &nest);
    while (rv == APR_SUCCESS && (rv = mcp_json_next(json, &nest, NULL)) == APR_SUCCESS) {
        is_long = rpc->batch->nelts == MCP_RPC_MAX_BATCH;
        rv = is_long ? mcp_json_skip(json, &raw) : read_element(json, rpc, &other, p);
    }
    if (rv != APR_EOF) {
        return rv;
    }
    if (is_long) {
        refuse(rpc, MCP_RPC_EINVALID, "too many messages in a batch");
    }
    else if (!rpc->batch->nelts) {
        refuse(rpc, MCP_RPC_EINVALID, "an empty batch");
    }
    return APR_SUCCESS;
}

const mcp_rpc_t *mcp_rpc_parse(const char *buf, apr_size_t len, apr_pool_t *p)
{
    mcp_rpc_t *rpc = apr_pcalloc(p, sizeof(*rpc));
    mcp_json_t json;
    mcp_span_t raw;
    apr_status_t rv;

    mcp_json_init(&json, len ? buf : "", len, p);
    switch (mcp_json_peek(&json)) {
    case '{':
        rv = read_message(&json, rpc, p);
        break;
    case '[':
        rv = read_batch(&json, rpc, p);
        break;
    default:
        rv = mcp_json_skip(&json, &raw);
        refuse(rpc, MCP_RPC_EINVALID, "neither an object nor an array");
        break;
    }
    if (rv == APR_SUCCESS) {
        rv = mcp_json_end(&json);
    }
    if (rv != APR_SUCCESS) {
        refuse(rpc, MCP_RPC_EPARSE, json.error);
    }
    mcp_json_done(&json);
    return rpc;
}

const char *mcp_rpc_quote(const char *text, apr_pool_t *p)
{
    static const char hex[] = "0123456789abcdef";
    const char *end = text + strlen(text);
    char *quoted = apr_palloc(p, 6 * (apr_size_t)(end - text) + 3), *out = quoted;

    *out++ = '"';
    while (text < end) {
        unsigned char c = (unsigned char)*text;
        apr_size_t len;

        if (c >= 0x20 && c < 0x80 && c != '"' && c != '\\') {
            *out++ = *text++;
            continue;
        }
        len = mcp_json_utf8(text, end);
        if (!len) {
            memcpy(out, "\xef\xbf\xbd", 3);
            out += 3;
            text++;
            continue;
        }
        if (c < 0x20) {
            memcpy(out, "\\u00", 4);
            out[4] = hex[c >> 4];
            out[5] = hex[c & 15];
            out += 6;
            text++;
            continue;
        }
        if (c == '"' || c == '\\') {
            *out++ = '\\';
        }
        memcpy(out, text, len);
        out += len;
        text += len;
    }
    *out++ = '"';
    *out = '\0';
    return quoted;
}
