/* SPDX-License-Identifier: Apache-2.0 */
/* Sealed session ids: see the header for the format. */
#include "mcp_proxy_seal.h"

#include <string.h>

#include <apr_strings.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

#define VERSION "mcp-session/1"
#define KEY_ID 4
#define IV 16
#define HEAD (KEY_ID + IV)
#define KEY 32
#define DIGEST 32
/* Far beyond what httpd takes in a header field. */
#define ID_MOST (64 * 1024)

typedef struct sealing_key_t {
    EVP_MAC_CTX *mac; /* with its key, to be copied */
    unsigned char key[KEY];
    unsigned char id[KEY_ID];
} sealing_key_t;

struct mcp_seal_t {
    EVP_CIPHER *cipher;
    int count;
    sealing_key_t *keys;
};

/* What a text is bound to, beside the version of the format. */
typedef struct bond_t {
    const char *scope, *owner;
} bond_t;

/* ---- keys ---- */

static EVP_MAC_CTX *make_mac(EVP_MAC *mac, const unsigned char *key)
{
    char digest[] = "SHA256";
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_end()
    };
    EVP_MAC_CTX *ctx = EVP_MAC_CTX_new(mac);

    if (ctx && EVP_MAC_init(ctx, key, KEY, params) != 1) {
        EVP_MAC_CTX_free(ctx);
        ctx = NULL;
    }
    return ctx;
}

static int derive(EVP_KDF *kdf, EVP_MAC *mac, const unsigned char *from, sealing_key_t *key)
{
    unsigned char out[2 * KEY + KEY_ID];
    char digest[] = "SHA256", label[] = VERSION;
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)from, MCP_KEY_BYTES),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, label, sizeof(label) - 1),
        OSSL_PARAM_construct_end()
    };
    EVP_KDF_CTX *ctx = EVP_KDF_CTX_new(kdf);
    int done = ctx && EVP_KDF_derive(ctx, out, sizeof(out), params) == 1;

    EVP_KDF_CTX_free(ctx);
    if (done) {
        memcpy(key->key, out, KEY);
        key->mac = make_mac(mac, out + KEY);
        memcpy(key->id, out + 2 * KEY, KEY_ID);
    }
    OPENSSL_cleanse(out, sizeof(out));
    return done && key->mac;
}

static apr_status_t wipe(void *data)
{
    mcp_seal_t *seal = data;
    int i;

    for (i = 0; i < seal->count; i++) {
        EVP_MAC_CTX_free(seal->keys[i].mac);
    }
    OPENSSL_cleanse(seal->keys, (size_t)seal->count * sizeof(*seal->keys));
    EVP_CIPHER_free(seal->cipher);
    return APR_SUCCESS;
}

apr_status_t mcp_seal_create(mcp_seal_t **made, const mcp_keys_t *keys, apr_pool_t *p)
{
    mcp_seal_t *seal = apr_pcalloc(p, sizeof(*seal));
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    EVP_MAC *mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    int i, done;

    seal->cipher = EVP_CIPHER_fetch(NULL, "AES-256-CTR", NULL);
    seal->count = keys->count;
    seal->keys = apr_pcalloc(p, (apr_size_t)keys->count * sizeof(*seal->keys));
    apr_pool_cleanup_register(p, seal, wipe, apr_pool_cleanup_null);
    done = kdf && mac && seal->cipher;
    for (i = 0; i < keys->count && done; i++) {
        done = derive(kdf, mac, keys->keys[i], &seal->keys[i]);
    }
    EVP_KDF_free(kdf);
    EVP_MAC_free(mac);
    *made = seal;
    return done ? APR_SUCCESS : APR_EGENERAL;
}

/* ---- the text ---- */

/* base64url without padding. */
static char *encode(apr_pool_t *p, const unsigned char *bytes, apr_size_t len)
{
    char *text = apr_palloc(p, 4 * ((len + 2) / 3) + 1), *at;

    EVP_EncodeBlock((unsigned char *)text, bytes, (int)len);
    for (at = text; *at && *at != '='; at++) {
        *at = *at == '+' ? '-' : *at == '/' ? '_' : *at;
    }
    *at = '\0';
    return text;
}

/*
 * The other way. The bits that a last character has to spare must be zero, and so on: the bytes
 * must give this very text again, so that no other one opens.
 */
static unsigned char *decode(apr_pool_t *p, const char *text, apr_size_t *len)
{
    apr_size_t text_len = strlen(text), padded = (text_len + 3) & ~(apr_size_t)3, i;
    unsigned char *bytes;
    char *copy;

    *len = text_len * 3 / 4;
    if (text_len > 2 * ID_MOST || *len < HEAD + 1) {
        return NULL;
    }
    copy = apr_palloc(p, padded + 1);
    for (i = 0; i < padded; i++) {
        char c = i < text_len ? text[i] : '=';

        copy[i] = c == '-' ? '+' : c == '_' ? '/' : c;
    }
    copy[padded] = '\0';
    bytes = apr_palloc(p, padded);
    if (EVP_DecodeBlock(bytes, (unsigned char *)copy, (int)padded) != (int)(padded / 4 * 3)
        || strcmp(encode(p, bytes, *len), text) != 0) {
        return NULL;
    }
    return bytes;
}

/* ---- HMAC and cipher ---- */

static int add(EVP_MAC_CTX *ctx, const char *text)
{
    return EVP_MAC_update(ctx, (const unsigned char *)text, strlen(text) + 1) == 1;
}

/* The IV that goes with a plain text. */
static int digest(const sealing_key_t *key, const bond_t *bond, const unsigned char *plain,
                  apr_size_t len, unsigned char *iv)
{
    EVP_MAC_CTX *ctx = EVP_MAC_CTX_dup(key->mac);
    unsigned char out[DIGEST] = { 0 };
    size_t out_len = 0;
    int done = ctx && add(ctx, VERSION) && add(ctx, bond->scope) && add(ctx, bond->owner)
        && EVP_MAC_update(ctx, plain, len) == 1
        && EVP_MAC_final(ctx, out, &out_len, sizeof(out)) == 1 && out_len == DIGEST;

    EVP_MAC_CTX_free(ctx);
    memcpy(iv, out, IV);
    return done;
}

/* In counter mode there and back are the same. */
static int run_cipher(const mcp_seal_t *seal, const sealing_key_t *key, const unsigned char *iv,
                      const unsigned char *in, unsigned char *out, apr_size_t len)
{
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int n, done = ctx && EVP_EncryptInit_ex2(ctx, seal->cipher, key->key, iv, NULL) == 1
        && EVP_EncryptUpdate(ctx, out, &n, in, (int)len) == 1 && n == (int)len;

    EVP_CIPHER_CTX_free(ctx);
    return done;
}

static bond_t bond_of(const char *scope, const char *identity, apr_pool_t *p)
{
    return (bond_t){ scope, identity ? apr_pstrcat(p, "user ", identity, NULL) : "nobody" };
}

const char *mcp_seal_id(const mcp_seal_t *seal, const char *scope, const char *identity,
                        const char *member, const char *id, apr_pool_t *p)
{
    apr_size_t member_len = strlen(member) + 1, id_len = strlen(id), len = member_len + id_len;
    const sealing_key_t *key = &seal->keys[0];
    bond_t bond = bond_of(scope, identity, p);
    unsigned char *plain, *bytes;

    if (!id_len || len > ID_MOST) {
        return NULL;
    }
    plain = apr_palloc(p, len);
    memcpy(plain, member, member_len);
    memcpy(plain + member_len, id, id_len);
    bytes = apr_palloc(p, HEAD + len);
    memcpy(bytes, key->id, KEY_ID);
    return digest(key, &bond, plain, len, bytes + KEY_ID)
            && run_cipher(seal, key, bytes + KEY_ID, plain, bytes + HEAD, len)
        ? encode(p, bytes, HEAD + len) : NULL;
}

static int opens(const mcp_seal_t *seal, const sealing_key_t *key, const bond_t *bond,
                 const unsigned char *bytes, apr_size_t len, unsigned char *plain)
{
    unsigned char iv[IV];

    return memcmp(key->id, bytes, KEY_ID) == 0
        && run_cipher(seal, key, bytes + KEY_ID, bytes + HEAD, plain, len)
        && digest(key, bond, plain, len, iv) && CRYPTO_memcmp(iv, bytes + KEY_ID, IV) == 0;
}

apr_status_t mcp_seal_open(const mcp_seal_t *seal, const char *scope, const char *identity,
                           const char *text, const char **member, const char **id, apr_pool_t *p)
{
    apr_size_t len;
    unsigned char *bytes = decode(p, text, &len), *plain, *end = NULL;
    bond_t bond;
    int i;

    if (!bytes) {
        return APR_NOTFOUND;
    }
    bond = bond_of(scope, identity, p);
    len -= HEAD;
    plain = apr_palloc(p, len + 1);
    plain[len] = '\0';
    for (i = 0; i < seal->count && !end; i++) {
        if (opens(seal, &seal->keys[i], &bond, bytes, len, plain)) {
            end = memchr(plain, '\0', len);
        }
    }
    if (!end) {
        return APR_NOTFOUND;
    }
    *member = (char *)plain;
    *id = (char *)end + 1;
    return APR_SUCCESS;
}
