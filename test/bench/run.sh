#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Measures nginx, HAProxy, stock mod_proxy_http and mod_mcp_proxy side by side: see README here.
# MCP_BUILD is the build tree (default: the source tree). QUICK=1 is for trying the tools out.
# run.sh storm ... runs storm.py in place of bench.py.
set -eu
program=bench
[ "${1-}" != storm ] || { program=storm; shift; }
here=$(cd "$(dirname "$0")" && pwd)
build=${MCP_BUILD:-$(cd "$here/../.." && pwd)}
PATH=$PATH:/usr/sbin:/sbin

missing=
command -v nginx >/dev/null || missing="$missing nginx-light"
[ $program = storm ] || command -v haproxy >/dev/null || missing="$missing haproxy"
command -v apache2 >/dev/null || command -v httpd >/dev/null || missing="$missing apache2"
command -v python3 >/dev/null || missing="$missing python3"
command -v cc >/dev/null || missing="$missing gcc libc6-dev"
if [ -n "$missing" ]; then
    [ "$(id -u)" = 0 ] || { echo "bench: install first:$missing" >&2; exit 1; }
    # shellcheck disable=SC2086 # a list of packages
    { apt-get update && apt-get install -y --no-install-recommends $missing; } >&2
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/mcpbench.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
chmod 755 "$work"
if [ -f "$build/test/Makefile" ]; then
    make -s -C "$build/test" bench >&2
    load=$build/test/bench/mcpload
else
    load=$work/mcpload
    cc -std=gnu11 -D_GNU_SOURCE -O2 -o "$load" "$here"/mcpload*.c
fi
module=$build/mod_mcp_proxy/.libs/mod_mcp_proxy.so
ulimit -Sn "$(ulimit -Hn)"
PYTHONDONTWRITEBYTECODE=1
export PYTHONDONTWRITEBYTECODE
python3 "$here/$program.py" --load "$load" --module "$module" --work "$work" "$@"
