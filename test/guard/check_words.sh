#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# No path of the machine on which something was written, no package registry and no mark of a merge
# that was not finished, in any file; no fixed temporary file in what ships. (The brackets keep this file from finding itself.)
. "$(dirname "$0")/guard.sh"

own='[/]work/|[/]root/'
registries='registry[.](npmjs|yarnpkg|npmmirror)|pypi[.]org|pythonhosted[.]org'
registries="$registries|(deb|security)[.]debian[.]org"
temporary='[/]tmp/'
unmerged='^(<<<<<<<|>>>>>>>) '

# What is written by hand; neither what was built nor what was installed beside it.
written() {
    find "$top" \( -name .git -o -name node_modules -o -name autom4te.cache -o -name .libs \
        -o -name .deps -o -name build-aux -o -name build -o -name _build -o -name corpus \
        -o -name __pycache__ -o -name .pytest_cache \) -prune -o -type f \( -name '*.[ch]' \
        -o -name '*.def' -o -name '*.am' -o -name '*.ac' -o -name mcp.m4 -o -name '*.md' \
        -o -name '*.sh' -o -name '*.py' -o -name '*.js' -o -name '*.mjs' -o -name '*.cjs' \
        -o -name '*.ts' -o -name '*.json' -o -name '*.lua' -o -name '*.conf' -o -name '*.load' \
        -o -name '*.spec.in' -o -name '*.yml' -o -name '*.toml' -o -name '*.cfg' -o -name '*.in' \
        -o -name README -o -name CHANGES -o -name CONTRIBUTING -o -name SECURITY -o -name run \
        -o -path '*/debian/*' \) ! -name Makefile.in ! -name config.h.in -print | sort
}

# The file list is large: one grep for all.
list=$(written)
checked=$(echo "$list" | grep -c .)
if test "$checked" -gt 0; then
    found=$(echo "$list" | tr '\n' '\0' | xargs -0 grep -nHE "$own|$registries|$unmerged") &&
        bad "$found"
    found=$(echo "$list" | grep -v "^$top/test/" | tr '\n' '\0' |
        xargs -0 -r grep -nHE "$temporary") && bad "$found"
fi
finish "files without words of one machine"
