#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Calls beside a crowd of clients that comes at once, through nginx, mod_proxy_http and mod_mcp_proxy:
# see README here. MCP_BUILD is the build tree (default: the source tree).
exec sh "$(dirname "$0")/run.sh" storm "$@"
