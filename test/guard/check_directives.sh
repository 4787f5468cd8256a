#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Each directive has a heading with its name in docs/directives.md, and no heading is left of one
# that is gone. A directive is a string that is its name, in a .def file or a source of a module.
. "$(dirname "$0")/guard.sh"

page=$top/docs/directives.md
name='MCP(Proxy|RateLimit|Cache)[A-Za-z]*'

tables=$(find "$top"/mod_mcp_* -name '*.def' 2>/dev/null)
test -n "$tables" || bad "no .def file"
directives=$(find "$top"/mod_mcp_* \( -name '*.def' -o -name '*.c' \) -exec cat {} + 2>/dev/null |
    grep -oE "\"$name\"" | tr -d '"' | sort -u)
headed=$(grep -E '^#' "$page" 2>/dev/null | grep -oE "$name" | sort -u)

for file in $tables; do
    # Each entry of a table names a directive; one that does not would go unseen here.
    entries=$(grep -c '^MCP_DIRECTIVE(' "$file")
    named=$(grep -oE "\"$name\"" "$file" | sort -u | wc -l)
    test "$entries" -eq "$named" || bad "$file: $entries entries, $named names"
done
for directive in $directives; do
    checked=$((checked + 1))
    echo "$headed" | grep -qx "$directive" ||
        bad "$directive has no heading in docs/directives.md"
done
for directive in $headed; do
    echo "$directives" | grep -qx "$directive" ||
        bad "docs/directives.md: no module has $directive"
done
finish "directives"
