#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Each MCP_LOGNO(nnnn) stands once, in the range of its folder, and has a heading with MCPnnnn in
# docs/log-messages.md; no heading is left of a tag that is gone. httpd's own numbers are not ours.
. "$(dirname "$0")/guard.sh"

page=$top/docs/log-messages.md

# "file tag" a line.
tags=$(shipped_sources | while read -r file; do
    grep -oE 'MCP_LOGNO\([0-9]+\)' "$file" | sed "s|^MCP_LOGNO(\(.*\))|$file \1|"
done)
headed=$(grep -E '^#' "$page" 2>/dev/null | grep -oE 'MCP[0-9]+' | sed 's/^MCP//' | sort -u)

range_of() {
    case $1 in
    "$top"/common/*) echo '1[0-9][0-9][0-9]' ;;
    "$top"/mod_mcp_proxy/*) echo '2[0-9][0-9][0-9]' ;;
    "$top"/mod_mcp_ratelimit/*) echo '3[0-9][0-9][0-9]' ;;
    "$top"/mod_mcp_cache/*) echo '4[0-9][0-9][0-9]' ;;
    *) echo none ;;
    esac
}

while read -r file tag; do
    test -n "$tag" || continue
    checked=$((checked + 1))
    case $tag in
    $(range_of "$file")) ;;
    *) bad "$file: MCP_LOGNO($tag) is not of this folder's range" ;;
    esac
    echo "$headed" | grep -qx "$tag" || bad "$file: MCP$tag has no heading in docs/log-messages.md"
done <<END
$tags
END

for tag in $(echo "$tags" | sed 's/.* //' | sort | uniq -d); do
    bad "MCP_LOGNO($tag) stands more than once"
done
for tag in $headed; do
    echo "$tags" | grep -q " $tag\$" || bad "docs/log-messages.md: no source has MCP$tag"
done
for file in $(shipped_sources); do
    found=$(grep -n 'APLOGNO *(' "$file") && bad "$file uses httpd's numbers: $found"
done
finish "log tags"
