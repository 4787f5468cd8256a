/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Addresses of stores. A password never stands in the address itself, where configuration dumps
 * and logs would show it: it is read from a file, whose first line it is.
 */
#include "mcp_store_url.h"

#include <apr_file_info.h>
#include <apr_file_io.h>
#include <apr_lib.h>
#include <apr_strings.h>
#include <string.h>

#include "mcp_value.h"

#define MAX_DB 65535
#define MAX_UNIX_PATH 107 /* sun_path, and its NUL */
#define MAX_PASSWORD 4096

static const char *read_number(const char *text, apr_int64_t min, apr_int64_t max,
                               apr_int64_t *out)
{
    if (!apr_isdigit(*text) || mcp_value_count(text, out) != APR_SUCCESS || *out < min
        || *out > max) {
        return "bad number";
    }
    return NULL;
}

static const char *parse_shm(const char *text, mcp_store_url_t *url, apr_pool_t *p)
{
    url->kind = MCP_STORE_SHM;
    url->name = "shm";
    if (!*text) {
        return NULL;
    }
    if (*text != ':' || mcp_value_size(text + 1, &url->size) != APR_SUCCESS || url->size < 1) {
        return "shm takes a size, as in shm:65536";
    }
    return NULL;
}

/* HOST:PORT, [IPV6]:PORT; the port may be left out. */
static const char *parse_host(char *text, mcp_store_url_t *url, apr_pool_t *p)
{
    apr_int64_t port = 6379;
    char *colon;

    if (*text == '[') {
        char *end = strchr(text, ']');

        if (!end || (end[1] && end[1] != ':')) {
            return "an IPv6 address stands in brackets";
        }
        *end = '\0';
        url->host = text + 1;
        colon = end[1] ? end + 1 : NULL;
    }
    else {
        colon = strchr(text, ':');
        url->host = text;
    }
    if (colon) {
        *colon = '\0';
        if (read_number(colon + 1, 1, 65535, &port)) {
            return "the port is a number from 1 to 65535";
        }
    }
    if (!*url->host) {
        return "the host is missing";
    }
    url->port = (apr_uint16_t)port;
    return NULL;
}

static const char *parse_tcp(const char *text, mcp_store_url_t *url, apr_pool_t *p)
{
    char *rest = apr_pstrdup(p, text);
    char *slash = strchr(rest, '/');
    char *at;
    apr_int64_t db = 0;
    const char *error;

    url->kind = MCP_STORE_REDIS;
    if (slash) {
        *slash = '\0';
        if (slash[1] && read_number(slash + 1, 0, MAX_DB, &db)) {
            return "the database is a number";
        }
    }
    at = strrchr(rest, '@');
    if (at) {
        *at = '\0';
        if (strchr(rest, ':')) {
            return "a password does not belong into the address; use password=file:PATH";
        }
        if (!*rest) {
            return "the user before @ is missing";
        }
        url->user = rest;
        rest = at + 1;
    }
    error = parse_host(rest, url, p);
    url->db = (int)db;
    url->name = apr_psprintf(p, strchr(url->host ? url->host : "", ':') ? "redis://[%s]:%d/%d"
                                                                        : "redis://%s:%d/%d",
                             url->host, (int)url->port, url->db);
    return error;
}

static const char *parse_unix(const char *text, mcp_store_url_t *url, apr_pool_t *p)
{
    char *path = apr_pstrdup(p, text);
    char *query = strchr(path, '?');
    apr_int64_t db = 0;

    url->kind = MCP_STORE_REDIS_UNIX;
    if (query) {
        *query++ = '\0';
        if (strncmp(query, "db=", 3) != 0 || read_number(query + 3, 0, MAX_DB, &db)) {
            return "behind the path only ?db=N may stand";
        }
    }
    if (*path != '/') {
        return "the path of the socket is absolute";
    }
    if (strlen(path) > MAX_UNIX_PATH) {
        return "the path of the socket is too long";
    }
    url->path = path;
    url->db = (int)db;
    url->name = apr_psprintf(p, "redis+unix:%s?db=%d", path, url->db);
    return NULL;
}

/* Whoever opens a pipe waits for who writes to it, and a device may never end. */
static apr_status_t open_regular(const char *path, apr_file_t **file, int *is_regular,
                                 apr_pool_t *p)
{
    apr_finfo_t info = { .filetype = APR_NOFILE };
    apr_status_t rv = apr_file_open(file, path, APR_FOPEN_READ | APR_FOPEN_NONBLOCK,
                                    APR_FPROT_OS_DEFAULT, p);

    if (rv == APR_SUCCESS) {
        apr_file_info_get(&info, APR_FINFO_TYPE, *file);
        *is_regular = info.filetype == APR_REG;
    }
    return rv;
}

static const char *read_password_file(const char *name, const char *root, mcp_store_url_t *url,
                                      apr_pool_t *p)
{
    apr_file_t *file;
    int is_regular;
    apr_size_t len = MAX_PASSWORD;
    char *path, *buf = apr_palloc(p, MAX_PASSWORD + 1);
    apr_status_t rv = apr_filepath_merge(&path, root, name, APR_FILEPATH_TRUENAME, p);

    if (rv != APR_SUCCESS) {
        return apr_psprintf(p, "password file %s: no path", name);
    }
    rv = open_regular(path, &file, &is_regular, p);
    if (rv != APR_SUCCESS) {
        char reason[120];

        return apr_psprintf(p, "password file %s: %s", path,
                            apr_strerror(rv, reason, sizeof(reason)));
    }
    if (!is_regular) {
        apr_file_close(file);
        return apr_psprintf(p, "password file %s: it is no regular file", path);
    }
    rv = apr_file_read_full(file, buf, MAX_PASSWORD, &len);
    apr_file_close(file);
    buf[len] = '\0';
    buf[strcspn(buf, "\r\n")] = '\0';
    if ((rv != APR_SUCCESS && !APR_STATUS_IS_EOF(rv)) || !*buf) {
        return apr_psprintf(p, "password file %s: its first line must hold the password", path);
    }
    url->password = buf;
    return NULL;
}

static const char *parse_option(const char *option, const char *root, mcp_store_url_t *url,
                                apr_pool_t *p)
{
    static const char prefix[] = "password=file:";

    if (strncmp(option, prefix, sizeof(prefix) - 1) != 0) {
        return strncmp(option, "password=", 9) == 0
            ? "a password is read from a file: password=file:PATH"
            : apr_psprintf(p, "'%s' is no option of a store", option);
    }
    if (url->kind == MCP_STORE_SHM) {
        return "shm takes no password";
    }
    if (url->password) {
        return "password= stands twice";
    }
    if (!option[sizeof(prefix) - 1]) {
        return "password=file: lacks its path";
    }
    url->password = "";
    return root ? read_password_file(option + sizeof(prefix) - 1, root, url, p) : NULL;
}

const char *mcp_store_url_parse(const char *text, const char *root, mcp_store_url_t *url,
                                apr_pool_t *p)
{
    char *rest = apr_pstrdup(p, text);
    char *last = NULL;
    char *word = apr_strtok(rest, " \t", &last);
    const char *error;

    memset(url, 0, sizeof(*url));
    if (!word) {
        return "no store is named";
    }
    if (strncmp(word, "shm", 3) == 0) {
        error = parse_shm(word + 3, url, p);
    }
    else if (strncmp(word, "redis://", 8) == 0) {
        error = parse_tcp(word + 8, url, p);
    }
    else if (strncmp(word, "redis+unix:", 11) == 0) {
        error = parse_unix(word + 11, url, p);
    }
    else {
        error = "no store has this form";
    }
    while (!error && (word = apr_strtok(NULL, " \t", &last)) != NULL) {
        error = parse_option(word, root, url, p);
    }
    if (!error && url->user && !url->password) {
        error = "a user needs password=file:PATH";
    }
    return error;
}
