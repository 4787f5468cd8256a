#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Each header compiles alone, and twice. CC and GUARD_CPPFLAGS come from make.
. "$(dirname "$0")/guard.sh"

folders=-I$top/common
for folder in "$top"/mod_mcp_*/; do
    folders="$folders -I$folder"
done
for header in $(all_sources | grep '\.h$'); do
    checked=$((checked + 1))
    printf '#include "%s"\n#include "%s"\nint guard_unit;\n' "$header" "$header" |
        ${CC:-cc} -std=gnu11 -fsyntax-only -Wall -Wextra -Wno-unused-parameter -Werror \
            $folders ${GUARD_CPPFLAGS-} -x c - ||
        bad "$header does not compile alone"
done
finish "headers that compile alone"
