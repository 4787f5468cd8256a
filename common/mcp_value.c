/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Values of a configuration. A reader takes the whole text or nothing: a unit that is mistyped must
 * not pass as a number in another unit. No state, no locks.
 */
#include "mcp_value.h"

#include <stddef.h>
#include <string.h>
#include <strings.h>

typedef struct unit_t {
    const char *name;
    apr_int64_t factor;
} unit_t;

/* What a number without a unit counts stands in the unit "". Each ends with NULL. */
static const unit_t durations[] = {
    { "", APR_USEC_PER_SEC },
    { "ms", 1000 },
    { "s", APR_USEC_PER_SEC },
    { "m", 60 * APR_USEC_PER_SEC },
    { "mi", 60 * APR_USEC_PER_SEC },
    { "h", 3600 * APR_USEC_PER_SEC },
    { "d", 24 * 3600 * APR_USEC_PER_SEC },
    { NULL, 0 }
};
static const unit_t sizes[] = {
    { "", 1 },
    { "K", 1024 },
    { "M", 1024 * 1024 },
    { "G", 1024 * 1024 * 1024 },
    { NULL, 0 }
};
static const unit_t counts[] = {
    { "", 1 },
    { NULL, 0 }
};

/* Read a number and its unit, towards minus infinity if @a sign is -1: there is room
 * for one more. */
static apr_status_t read_number(const char *text, const unit_t *units, int sign, apr_int64_t *out)
{
    const char *unit = text + strspn(text, "0123456789");
    apr_int64_t value = 0;

    if (unit == text) {
        return APR_EINVAL;
    }
    while (units->name && strcasecmp(units->name, unit)) {
        units++;
    }
    if (!units->name) {
        return APR_EINVAL;
    }
    for (; text < unit; text++) {
        if (__builtin_mul_overflow(value, 10, &value)
            || __builtin_add_overflow(value, sign * (*text - '0'), &value)) {
            return APR_ERANGE;
        }
    }
    if (__builtin_mul_overflow(value, units->factor, &value)) {
        return APR_ERANGE;
    }
    *out = value;
    return APR_SUCCESS;
}

apr_status_t mcp_value_duration(const char *text, apr_interval_time_t *out)
{
    return read_number(text, durations, 1, out);
}

apr_status_t mcp_value_size(const char *text, apr_int64_t *out)
{
    return read_number(text, sizes, 1, out);
}

apr_status_t mcp_value_count(const char *text, apr_int64_t *out)
{
    int is_negative = *text == '-';

    return read_number(text + is_negative, counts, is_negative ? -1 : 1, out);
}

apr_size_t mcp_value_decimal(char *buf, apr_int64_t number)
{
    char text[MCP_VALUE_DECIMAL];
    apr_uint64_t rest = number < 0 ? 0 - (apr_uint64_t)number : (apr_uint64_t)number;
    apr_size_t at = sizeof(text) - 1;

    text[at] = '\0';
    do {
        text[--at] = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest);
    if (number < 0) {
        text[--at] = '-';
    }
    memcpy(buf, text + at, sizeof(text) - at);
    return sizeof(text) - 1 - at;
}

int mcp_value_matches(const char *pattern, const char *text)
{
    const char *star = NULL, *retry = NULL;

    /*
     * Going back to the last * alone is enough: what an earlier one could still take, the last one
     * can take as well. So the cost is a product of two lengths, never a power.
     */
    while (*text) {
        if (*pattern == '*') {
            star = ++pattern;
            retry = text;
        }
        else if (*pattern == '?' || *pattern == *text) {
            pattern++;
            text++;
        }
        else if (star) {
            pattern = star;
            text = ++retry;
        }
        else {
            return 0;
        }
    }
    return pattern[strspn(pattern, "*")] == '\0';
}

/* What stands for itself in a key. A table: keys are escaped for every request. */
static const char is_plain[256] = {
    ['a' ... 'z'] = 1, ['A' ... 'Z'] = 1, ['0' ... '9'] = 1,
    ['-'] = 1, ['.'] = 1, ['_'] = 1, ['~'] = 1, ['@'] = 1, ['+'] = 1
};

const char *mcp_value_escape(const char *bytes, apr_size_t len, apr_pool_t *p)
{
    static const char hex[] = "0123456789ABCDEF";
    char *escaped = apr_palloc(p, 3 * len + 1), *out = escaped;
    apr_size_t i = 0;

    while (i < len && is_plain[(unsigned char)bytes[i]]) {
        i++;
    }
    memcpy(out, bytes, i);
    out += i;
    for (; i < len; i++) {
        unsigned char c = (unsigned char)bytes[i];

        if (is_plain[c]) {
            *out++ = (char)c;
            continue;
        }
        *out++ = '%';
        *out++ = hex[c >> 4];
        *out++ = hex[c & 15];
    }
    *out = '\0';
    return escaped;
}
