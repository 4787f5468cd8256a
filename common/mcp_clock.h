/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_CLOCK_H
#define MCP_CLOCK_H

#include <apr_time.h>

/**
 * Now, in microseconds of a clock that never steps and that all processes of this machine
 * share (CLOCK_MONOTONIC). It says nothing about the time of day.
 */
apr_time_t mcp_clock_now(void);

/** Unit tests only: every later mcp_clock_now() answers @a now; 0 goes back to the real clock. */
void mcp_clock_set(apr_time_t now);

#endif
