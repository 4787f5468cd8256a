/* SPDX-License-Identifier: Apache-2.0 */
/* The file of keys. */
#include "mcp_proxy_keys.h"

#include <string.h>

#include <apr_file_io.h>
#include <apr_strings.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

#define FILE_MOST (16 * 1024)
#define TEXT ((MCP_KEY_BYTES + 2) / 3 * 4)
#define MAKE_ONE "openssl rand -base64 32"

static apr_status_t wipe(void *data)
{
    mcp_keys_wipe(data);
    return APR_SUCCESS;
}

void mcp_keys_wipe(mcp_keys_t *keys)
{
    OPENSSL_cleanse(keys->keys, (size_t)keys->count * MCP_KEY_BYTES);
    keys->count = 0;
}

/* 44 characters, the last of them a =. The bits that the one before it spares are not looked at. */
static int read_key(const char *text, apr_size_t len, unsigned char *key)
{
    unsigned char bytes[TEXT];
    int done = len == TEXT && memchr(text, '=', TEXT) == text + TEXT - 1
        && EVP_DecodeBlock(bytes, (const unsigned char *)text, TEXT) == MCP_KEY_BYTES + 1;

    if (done) {
        memcpy(key, bytes, MCP_KEY_BYTES);
    }
    OPENSSL_cleanse(bytes, sizeof(bytes));
    return done;
}

static const char *read_lines(const char *text, mcp_keys_t *keys, apr_pool_t *p)
{
    int line = 1;

    for (;; line++) {
        apr_size_t whole = strcspn(text, "\n"), skip = strspn(text, " \t\r"), len;

        len = skip < whole ? whole - skip : 0;
        while (len && strchr(" \t\r", text[skip + len - 1])) {
            len--;
        }
        if (len && text[skip] != '#') {
            if (!read_key(text + skip, len, keys->keys[keys->count])) {
                return apr_psprintf(p, "line %d is not base64 of %d bytes; " MAKE_ONE " makes one",
                                    line, MCP_KEY_BYTES);
            }
            keys->count++;
        }
        if (!text[whole]) {
            break;
        }
        text += whole + 1;
    }
    return keys->count ? NULL : "there is no key in it; " MAKE_ONE " makes one";
}

static const char *reason(apr_status_t rv, apr_pool_t *p)
{
    char text[120];

    return apr_pstrdup(p, apr_strerror(rv, text, sizeof(text)));
}

static const char *check_file(apr_file_t *file, apr_pool_t *p)
{
    apr_finfo_t info;
    apr_status_t rv = apr_file_info_get(&info, APR_FINFO_PROT | APR_FINFO_TYPE | APR_FINFO_SIZE,
                                        file);

    if (rv != APR_SUCCESS) {
        return reason(rv, p);
    }
    if (info.filetype != APR_REG) {
        return "it is no regular file";
    }
    if (info.protection & (APR_FPROT_GREAD | APR_FPROT_GWRITE | APR_FPROT_WREAD
                           | APR_FPROT_WWRITE)) {
        return "group or others can read or write it; chmod 600 makes it the owner's";
    }
    return info.size > FILE_MOST ? "it is too large for a file of keys" : NULL;
}

static mcp_keys_t *make_room(apr_size_t file_len, apr_pool_t *p)
{
    mcp_keys_t *keys = apr_pcalloc(p, sizeof(*keys));

    keys->keys = apr_pcalloc(p, (file_len / TEXT + 1) * MCP_KEY_BYTES);
    apr_pool_cleanup_register(p, keys, wipe, apr_pool_cleanup_null);
    return keys;
}

const char *mcp_keys_read(const char *path, mcp_keys_t **keys, apr_pool_t *p)
{
    char text[FILE_MOST + 1];
    apr_size_t len = 0;
    apr_file_t *file;
    const char *error;
    /* Whoever opens a pipe waits for who writes to it. */
    apr_status_t rv = apr_file_open(&file, path, APR_FOPEN_READ | APR_FOPEN_BINARY
                                    | APR_FOPEN_NONBLOCK, APR_FPROT_OS_DEFAULT, p);

    if (rv != APR_SUCCESS) {
        return reason(rv, p);
    }
    error = check_file(file, p);
    if (!error) {
        rv = apr_file_read_full(file, text, FILE_MOST, &len);
        error = rv == APR_SUCCESS || APR_STATUS_IS_EOF(rv) ? NULL : reason(rv, p);
    }
    apr_file_close(file);
    if (!error) {
        text[len] = '\0';
        *keys = make_room(len, p);
        error = strlen(text) == len ? read_lines(text, *keys, p) : "there is a zero byte in it";
    }
    OPENSSL_cleanse(text, sizeof(text));
    return error;
}
