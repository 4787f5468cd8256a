#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# No function is longer than 100 lines, from its first line to its closing brace, no file longer than
# 1000, and no line longer than 100 columns. A function is what stands between braces in the first
# column, behind a bracket.
. "$(dirname "$0")/guard.sh"

for file in $(all_sources); do
    checked=$((checked + 1))
    lines=$(wc -l <"$file")
    test "$lines" -le 1000 || bad "$file has $lines lines"
    wide=$(awk 'length > 100 { printf "%d ", FNR }' "$file")
    test -z "$wide" || bad "$file: wider than 100 columns: ${wide% }"
    long=$(awk '
        /^[A-Za-z_]/ && !open { if (!start) start = FNR; head = $0 }
        !/^[A-Za-z_ \t{]/ && !open { start = 0 }
        /^$/ && !open { start = 0 }
        /^\{/ { open = 1; if (!start) start = FNR }
        /^\}/ {
            if (open && FNR - start + 1 > 100)
                printf "%s (%d lines), ", head, FNR - start + 1
            open = start = 0
        }' "$file")
    test -z "$long" || bad "$file: too long: ${long%, }"
done
finish "sources that are no longer than they may be"
