/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records as bytes. Encrypted: version, nonce (12 bytes, random), text, tag (16). What a record
 * belongs to is authenticated with it and not stored. A route: generation, recent, since in network
 * order, then the two texts, each with its NUL.
 */
#include "mcp_proxy_record.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <string.h>

#include "mcp_sha256.h"

#define VERSION 1
#define NONCE 12
#define TAG 16
#define OVERHEAD (1 + NONCE + TAG)
#define ROUTE_FIXED 16
#define MOST_IN_A_MINUTE 3
#define MINUTE apr_time_from_sec(60)

static const char purpose[] = "mcp_proxy rescue record 1";

apr_status_t mcp_record_add_key(mcp_record_keys_t *keys, const void *secret, apr_size_t len)
{
    unsigned size = MCP_RECORD_KEY;

    if (keys->count == MCP_RECORD_KEYS) {
        return APR_ENOSPC;
    }
    if (!HMAC(EVP_sha256(), secret, (int)len, (const unsigned char *)purpose, sizeof(purpose) - 1,
              keys->key[keys->count], &size)) {
        return APR_EGENERAL;
    }
    keys->count++;
    return APR_SUCCESS;
}

/* The session, its owner and the kind of record, in one text. */
#define SUBJECT (2 * MCP_SESSION_DIGEST + 1)

static void write_subject(const mcp_session_key_t *session, mcp_record_kind_e kind,
                          unsigned char subject[SUBJECT])
{
    memcpy(subject, session->id, MCP_SESSION_DIGEST);
    memcpy(subject + MCP_SESSION_DIGEST, session->owner, MCP_SESSION_DIGEST);
    subject[2 * MCP_SESSION_DIGEST] = (unsigned char)kind;
}

void mcp_record_name(const mcp_session_key_t *session, mcp_record_kind_e kind,
                     unsigned char name[MCP_RECORD_NAME])
{
    unsigned char subject[SUBJECT];

    write_subject(session, kind, subject);
    mcp_sha256(subject, sizeof(subject), name);
}

static int encrypt(EVP_CIPHER_CTX *ctx, const unsigned char *key, const unsigned char *subject,
                   mcp_span_t plain, unsigned char *out)
{
    unsigned char *text = out + 1 + NONCE;
    int len;

    *out = VERSION;
    return RAND_bytes(out + 1, NONCE) == 1
        && EVP_EncryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, out + 1) == 1
        && EVP_EncryptUpdate(ctx, NULL, &len, subject, SUBJECT) == 1
        && EVP_EncryptUpdate(ctx, text, &len, (const unsigned char *)plain.p, (int)plain.len) == 1
        && EVP_EncryptFinal_ex(ctx, text + plain.len, &len) == 1
        && EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, TAG, text + plain.len) == 1;
}

apr_status_t mcp_record_encrypt(const mcp_record_keys_t *keys, const mcp_session_key_t *session,
                                mcp_record_kind_e kind, mcp_span_t plain, apr_pool_t *p,
                                mcp_span_t *sealed)
{
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    unsigned char *out = apr_palloc(p, plain.len + OVERHEAD);
    unsigned char subject[SUBJECT];
    int done;

    write_subject(session, kind, subject);
    done = ctx && keys->count > 0 && encrypt(ctx, keys->key[0], subject, plain, out);
    EVP_CIPHER_CTX_free(ctx);
    *sealed = (mcp_span_t){ (char *)out, plain.len + OVERHEAD };
    return done ? APR_SUCCESS : APR_EGENERAL;
}

static int decrypt(EVP_CIPHER_CTX *ctx, const unsigned char *key, const unsigned char *subject,
                   mcp_span_t sealed, unsigned char *out)
{
    const unsigned char *in = (const unsigned char *)sealed.p, *text = in + 1 + NONCE;
    apr_size_t size = sealed.len - OVERHEAD;
    unsigned char tag[TAG];
    int len;

    memcpy(tag, text + size, TAG);
    return EVP_DecryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, in + 1) == 1
        && EVP_DecryptUpdate(ctx, NULL, &len, subject, SUBJECT) == 1
        && EVP_DecryptUpdate(ctx, out, &len, text, (int)size) == 1
        && EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_TAG, TAG, tag) == 1
        && EVP_DecryptFinal_ex(ctx, out + size, &len) == 1;
}

apr_status_t mcp_record_decrypt(const mcp_record_keys_t *keys, const mcp_session_key_t *session,
                                mcp_record_kind_e kind, mcp_span_t sealed, apr_pool_t *p,
                                mcp_span_t *plain)
{
    EVP_CIPHER_CTX *ctx;
    unsigned char subject[SUBJECT], *out;
    int i, done = 0;

    if (sealed.len < OVERHEAD || *sealed.p != VERSION) {
        return APR_EACCES;
    }
    ctx = EVP_CIPHER_CTX_new();
    out = apr_palloc(p, sealed.len - OVERHEAD + 1);
    write_subject(session, kind, subject);
    for (i = 0; ctx && !done && i < keys->count; i++) {
        done = decrypt(ctx, keys->key[i], subject, sealed, out);
    }
    EVP_CIPHER_CTX_free(ctx);
    out[sealed.len - OVERHEAD] = '\0';
    *plain = (mcp_span_t){ (char *)out, sealed.len - OVERHEAD };
    return done ? APR_SUCCESS : APR_EACCES;
}

static char *put_number(char *to, apr_uint64_t number, int bytes)
{
    while (bytes--) {
        *to++ = (char)(number >> 8 * bytes);
    }
    return to;
}

static apr_uint64_t get_number(const char **from, int bytes)
{
    apr_uint64_t number = 0;

    while (bytes--) {
        number = number << 8 | (unsigned char)*(*from)++;
    }
    return number;
}

mcp_span_t mcp_record_write_route(const mcp_record_route_t *route, apr_pool_t *p)
{
    apr_size_t member = strlen(route->member) + 1, session = strlen(route->session) + 1;
    char *out = apr_palloc(p, ROUTE_FIXED + member + session), *to = out;

    to = put_number(to, route->generation, 4);
    to = put_number(to, route->recent, 4);
    to = put_number(to, (apr_uint64_t)route->since, 8);
    memcpy(to, route->member, member);
    memcpy(to + member, route->session, session);
    return (mcp_span_t){ out, ROUTE_FIXED + member + session };
}

apr_status_t mcp_record_read_route(mcp_span_t bytes, mcp_record_route_t *route)
{
    const char *from = bytes.p, *end = bytes.p + bytes.len, *nul;

    if (bytes.len < ROUTE_FIXED + 2 || end[-1]) {
        return APR_EGENERAL;
    }
    route->generation = (apr_uint32_t)get_number(&from, 4);
    route->recent = (apr_uint32_t)get_number(&from, 4);
    route->since = (apr_time_t)get_number(&from, 8);
    nul = memchr(from, '\0', (apr_size_t)(end - from));
    route->member = from;
    route->session = nul + 1;
    return nul + 1 < end ? APR_SUCCESS : APR_EGENERAL;
}

int mcp_record_may_rescue(mcp_record_route_t *route, apr_time_t now)
{
    if (now < route->since || now - route->since >= MINUTE) {
        route->since = now;
        route->recent = 0;
    }
    return ++route->recent <= MOST_IN_A_MINUTE;
}
