# SPDX-License-Identifier: Apache-2.0
# What the guards share; each sources this. A guard is called as check_x.sh [TOP [BUILD]]: the tree
# to look at, and the one it was built in. It says what is wrong, line by line, and fails; and it
# fails as well if it found nothing to check, since then it guards nothing.
set -u
top=${1:-${srcdir:-test}/..}
build=${2:-${top_builddir:-$top}}
export LC_ALL=C

wrong=0
checked=0

bad() {
    echo "$*" >&2
    wrong=$((wrong + 1))
}

# What ships as C, one file a line.
shipped_sources() {
    find "$top"/common "$top"/mod_mcp_* -name '*.[ch]' 2>/dev/null | sort
}

all_sources() {
    {
        shipped_sources
        find "$top"/test -name node_modules -prune -o -name '*.[ch]' -print 2>/dev/null
    } | sort
}

# The value of a variable in a Makefile.am, over continued lines, a word a line.
words_of() {
    sed -e ':join' -e '/\\$/N; s/\\\n//; tjoin' "$2" |
        sed -n "s/^$1 *+\{0,1\}= *//p" | tr -s ' \t' '\n\n' | sed '/^$/d'
}

finish() {
    if test "$checked" -eq 0; then
        echo "found nothing to check: $1" >&2
        exit 1
    fi
    test "$wrong" -eq 0 || exit 1
    echo "$checked checked: $1"
}
