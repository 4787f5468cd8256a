/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_VALUE_H
#define MCP_VALUE_H

#include <apr_pools.h>
#include <apr_time.h>

/*
 * Values as they stand in a configuration. Each reader takes the whole text or nothing and returns
 * APR_EINVAL for what it does not take, APR_ERANGE for what does not fit.
 */

/**
 * "10s", "250ms", "5m" or "5mi", "4h", "1d", in any case; seconds if bare. In microseconds, never
 * negative.
 */
apr_status_t mcp_value_duration(const char *text, apr_interval_time_t *out);

/** "4M", "64K", "1G", in any case; bytes if bare. Never negative. */
apr_status_t mcp_value_size(const char *text, apr_int64_t *out);

/** A decimal number, with an optional minus. */
apr_status_t mcp_value_count(const char *text, apr_int64_t *out);

/** Room for any apr_int64_t as text. */
#define MCP_VALUE_DECIMAL 24

/** @a number as text into @a buf, which has MCP_VALUE_DECIMAL bytes. @return its length */
apr_size_t mcp_value_decimal(char *buf, apr_int64_t number);

/**
 * Whether @a text fits @a pattern: * is any run of bytes, ? any one byte. Case counts. Takes at
 * most a time that grows with the product of the two lengths.
 */
int mcp_value_matches(const char *pattern, const char *text);

/** Percent-encode every byte but A-Z a-z 0-9 - . _ ~ @ + so that ':' cannot occur. From @a p. */
const char *mcp_value_escape(const char *bytes, apr_size_t len, apr_pool_t *p);

#endif
