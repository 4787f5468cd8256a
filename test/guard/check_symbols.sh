#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A module exports its module structure and nothing else: httpd loads modules so that the symbols of
# one are found by the next, which would then run the wrong copy of common/.
. "$(dirname "$0")/guard.sh"

for folder in "$top"/mod_mcp_*/; do
    test -d "$folder" || continue
    name=$(basename "$folder")
    so=$build/$name/.libs/$name.so
    if test ! -f "$so"; then
        bad "$so has not been built"
        continue
    fi
    checked=$((checked + 1))
    symbols=$(${NM:-nm} -D --defined-only "$so" | sed 's/.* //' | tr '\n' ' ')
    test "$symbols" = "${name#mod_}_module " || bad "$so exports: $symbols"
done
finish "modules that export one symbol"
