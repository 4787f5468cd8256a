#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Core files know nothing of httpd: mcp_* in common, mcp_httpd_* apart, and what the modules list in
# libmcp_*_core_la_SOURCES. They include no header of httpd, nor one of ours that is not core, for
# that one could. And the archives hold what their names say.
. "$(dirname "$0")/guard.sh"

httpd='(httpd|http_[a-z]+|ap_[a-z_]+|util_[a-z0-9_]+|scoreboard|mpm_common|mod_[a-z_]+)\.h'

core_files() {
    find "$top/common" -name 'mcp_*.[ch]' ! -name 'mcp_httpd_*' 2>/dev/null
    for makefile in "$top"/mod_mcp_*/Makefile.am; do
        test -f "$makefile" || continue
        words_of 'libmcp_[a-z]*_core_la_SOURCES' "$makefile" | sed "s|^|${makefile%Makefile.am}|"
    done
}

core=$(core_files | sort)
names=$(for file in $core; do basename "$file"; done)
for file in $core; do
    if test ! -f "$file"; then
        bad "$file is listed and does not exist"
        continue
    fi
    checked=$((checked + 1))
    found=$(grep -nE "^[[:space:]]*#[[:space:]]*include[[:space:]]*[<\"]$httpd" "$file") &&
        bad "$file knows httpd: $found"
    for own in $(sed -n 's/^[ \t]*#[ \t]*include[ \t]*"\([^"]*\)".*/\1/p' "$file"); do
        echo "$names" | grep -qx "$own" || bad "$file includes $own, which is not core"
    done
done

if test -f "$top/common/Makefile.am"; then
    for file in $(words_of libmcp_core_la_SOURCES "$top/common/Makefile.am" | grep '^mcp_httpd_'); do
        bad "common/Makefile.am: libmcp_core has $file"
    done
    for file in $(words_of libmcp_httpd_la_SOURCES "$top/common/Makefile.am" |
            grep -v '^mcp_httpd_'); do
        bad "common/Makefile.am: libmcp_httpd has $file"
    done
fi
finish "core files that know nothing of httpd"
