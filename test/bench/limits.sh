#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What mod_mcp_ratelimit costs, and nginx's limit_req beside it: see README here.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
build=${MCP_BUILD:-$(cd "$here/../.." && pwd)}
PATH=$PATH:/usr/sbin:/sbin

missing=
command -v nginx >/dev/null || missing="$missing nginx-light"
command -v wrk >/dev/null || missing="$missing wrk"
command -v redis-server >/dev/null || missing="$missing redis-server"
command -v apache2 >/dev/null || command -v httpd >/dev/null || missing="$missing apache2"
command -v python3 >/dev/null || missing="$missing python3"
if [ -n "$missing" ]; then
    [ "$(id -u)" = 0 ] || { echo "bench: install first:$missing" >&2; exit 1; }
    # shellcheck disable=SC2086 # a list of packages
    { apt-get update && apt-get install -y --no-install-recommends $missing; } >&2
fi
PYTHONDONTWRITEBYTECODE=1 exec python3 "$here/limits.py" --build "$build" "$@"
