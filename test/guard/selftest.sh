#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The guards guard: each passes on a small tree that is in order, fails on an empty one, and fails
# on what it is there for, saying so. A guard without a case here fails this test.
set -u
guards=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/tree
failures=0
cases=0
proven=

# The guards look at their own trees here, not at the one that make names.
unset srcdir top_builddir
GUARD_CPPFLAGS=
export GUARD_CPPFLAGS

make_module() {
    printf '%s\n' "$2" | ${CC:-cc} -shared -fPIC -x c - -o "$work/$1" || exit 1
}
make_module one.so 'int mcp_proxy_module;'
make_module two.so 'int mcp_proxy_module; int mcp_shared;'
make_module other.so 'int mcp_other_module;'

put() {
    mkdir -p "$(dirname "$tree/$1")"
    cat >"$tree/$1"
}

good_tree() {
    rm -rf "$tree"
    put common/Makefile.am <<'END'
libmcp_core_la_SOURCES = \
	mcp_a.c mcp_a.h
libmcp_httpd_la_SOURCES = mcp_httpd_b.c
END
    put common/mcp_a.h <<'END'
#ifndef MCP_A_H
#define MCP_A_H
int mcp_a(void);
#endif
END
    put common/mcp_a.c <<'END'
#include "mcp_a.h"

int mcp_a(void)
{
    return 0;
}
END
    put common/mcp_httpd_b.c <<'END'
#include <httpd.h>
#define MCP_LOGNO(n) "MCP" #n ": "
static const char text[] = MCP_LOGNO(1001) "text";
END
    put mod_mcp_proxy/Makefile.am <<'END'
libmcp_proxy_core_la_SOURCES = mcp_proxy_core.c \
	mcp_proxy_core.h
END
    put mod_mcp_proxy/mcp_proxy_core.h </dev/null
    echo '#include "mcp_a.h"' | put mod_mcp_proxy/mcp_proxy_core.c
    put mod_mcp_proxy/mod_mcp_proxy.c <<'END'
#include <http_config.h>
static const char text[] = MCP_LOGNO(2001) "text";
AP_INIT_FLAG("MCPProxyByHand", 0, 0, 0, 0)
END
    put mod_mcp_proxy/mcp_proxy.def <<'END'
MCP_DIRECTIVE(ENABLED, MCP_CONF_FLAG, MCP_CONF_LOCATION,
              "MCPProxy", 0, 0, 1, "On or Off", "text")
END
    printf '%s\n' '# Log messages' '## MCP1001' '## MCP2001' | put docs/log-messages.md
    printf '%s\n' '# Directives' '## `MCPProxy`' '## MCPProxyByHand' | put docs/directives.md
    printf '%s\n' 'UNIT_TESTS = \' '	unit/test_mcp_a' | put test/Makefile.am
    put test/unit/test_mcp_a.c <<'END'
START_TEST(behaves)
{
}
END_TEST
int main(void)
{
    tcase_add_test(tcase, behaves);
}
END
    mkdir -p "$tree/mod_mcp_proxy/.libs"
    cp "$work/one.so" "$tree/mod_mcp_proxy/.libs/mod_mcp_proxy.so"
}

complain() {
    echo "$*" >&2
    test ! -s "$work/said" || sed 's/^/    /' "$work/said" >&2
    failures=$((failures + 1))
}

run_guard() {
    sh "$guards/check_$1.sh" "$tree" >"$work/said" 2>&1
}

# fails GUARD WHAT-IT-SAYS COMMANDS: in a good tree that the commands have spoilt.
fails() {
    good_tree
    cases=$((cases + 1))
    proven="$proven $1"
    (cd "$tree" && eval "$3") || complain "check_$1 could not be tried on: $3"
    if run_guard "$1"; then
        complain "check_$1 let pass: $3"
    elif ! grep -q "$2" "$work/said"; then
        complain "check_$1 failed on \"$3\" and did not say \"$2\""
    fi
}

long_function() {
    echo 'static int longer(int a,'
    echo '                  int b)'
    echo '{'
    yes '    a++;' | head -n "$1"
    echo '}'
}

fails layers 'knows httpd' 'echo "#include <httpd.h>" >>common/mcp_a.c'
fails layers 'knows httpd' 'echo " # include \"http_log.h\"" >>mod_mcp_proxy/mcp_proxy_core.h'
fails layers 'knows httpd' 'echo "#include <mod_proxy.h>" >>mod_mcp_proxy/mcp_proxy_core.c'
fails layers 'which is not core' 'echo "#include \"mcp_httpd_b.h\"" >>common/mcp_a.h'
fails layers 'which is not core' 'echo "#include \"mcp_proxy.h\"" >>mod_mcp_proxy/mcp_proxy_core.c'
fails layers 'does not exist' 'rm mod_mcp_proxy/mcp_proxy_core.c'
fails layers 'libmcp_core has' 'echo "libmcp_core_la_SOURCES = mcp_httpd_b.c" >common/Makefile.am'
fails layers 'libmcp_httpd has' 'echo "libmcp_httpd_la_SOURCES = mcp_a.c" >common/Makefile.am'
fails symbols 'mcp_shared' 'cp ../two.so mod_mcp_proxy/.libs/mod_mcp_proxy.so'
fails symbols 'mcp_other_module' 'cp ../other.so mod_mcp_proxy/.libs/mod_mcp_proxy.so'
fails symbols 'has not been built' 'mkdir mod_mcp_cache'
fails basenames 'named mcp_a.c' 'cp common/mcp_a.c mod_mcp_proxy'
fails basenames 'named mcp_a.h' 'cp common/mcp_a.h test/unit'
fails headers 'mcp_a.h does not' 'echo "mcp_a_t *mcp_b(void);" >common/mcp_a.h'
fails headers 'mcp_a.h does not' 'echo "typedef struct a_t { int a; } a_t;" >common/mcp_a.h'
fails log_tags 'no heading' 'echo "x MCP_LOGNO(2002) x" >>mod_mcp_proxy/mod_mcp_proxy.c'
fails log_tags 'no source has' 'echo "## MCP2002" >>docs/log-messages.md'
fails log_tags 'more than once' 'echo "x MCP_LOGNO(2001) x" >>mod_mcp_proxy/mod_mcp_proxy.c'
fails log_tags 'range' 'sed -i s/2001/3001/ docs/log-messages.md mod_mcp_proxy/mod_mcp_proxy.c'
fails log_tags 'no heading' 'rm docs/log-messages.md'
fails log_tags "httpd's numbers" 'echo "APLOGNO(03262)" >>mod_mcp_proxy/mod_mcp_proxy.c'
fails directives 'MCPProxy has no heading' 'sed -i "/MCPProxy\`/d" docs/directives.md'
fails directives 'ByHand has no heading' 'sed -i /ByHand/d docs/directives.md'
fails directives 'no module has MCPCacheGone' 'echo "## MCPCacheGone" >>docs/directives.md'
fails directives 'no .def file' 'rm mod_mcp_proxy/mcp_proxy.def'
fails directives '2 entries, 1 names' \
    'echo "MCP_DIRECTIVE(X, \"MPCTypo\")" >>mod_mcp_proxy/mcp_proxy.def'
fails sizes 'longer(int a, (101 lines' 'long_function 97 >>common/mcp_a.c'
fails sizes 'mcp_a.h has 1001 lines' 'yes "/* */" | head -n 1001 >common/mcp_a.h'
fails sizes 'mcp_a.h: wider than 100 columns: 1$' 'printf "/* %095d */\n" 0 >common/mcp_a.h'
fails words 'mcp_a.h' 'echo "<<<<<<< ""HEAD" >>common/mcp_a.h'
fails words 'README' 'echo "see /""work/main" >README'
fails words 'lock.json' 'echo "https://registry"".npmjs.org/x" >test/lock.json'
fails words 'fetch.py' 'echo "http://deb"".debian.org/x" >test/fetch.py'
fails words 'quick.sh' 'mkdir conf; echo "log=/""tmp/x" >conf/quick.sh'
fails registered 'test_mcp_b.c is not in' 'echo >test/unit/test_mcp_b.c'
fails registered 'fuzz_mcp_b.c is not in' 'mkdir test/fuzz; echo >test/fuzz/fuzz_mcp_b.c'
fails registered 'check_b.sh is not in' 'mkdir test/guard; echo >test/guard/check_b.sh'
fails registered 'b.test.mjs is not shipped' 'mkdir test/real; echo >test/real/b.test.mjs'
fails registered 'forgotten is in no case' 'echo "START_TEST(forgotten)" >>test/unit/test_mcp_a.c'

for guard in "$guards"/check_*.sh; do
    name=$(basename "$guard" .sh)
    name=${name#check_}
    good_tree
    run_guard "$name" || complain "check_$name fails on a tree that is in order"
    rm -rf "$tree"
    mkdir "$tree"
    if run_guard "$name"; then
        complain "check_$name passes on an empty tree"
    elif ! grep -q 'found nothing to check' "$work/said"; then
        complain "check_$name does not say that there was nothing to check"
    fi
    case " $proven " in
    *" $name "*) ;;
    *) complain "check_$name has no case in selftest.sh" ;;
    esac
done

# What is exactly as long as allowed, passes.
good_tree
long_function 96 >>"$tree/common/mcp_a.c"
printf '/* %094d */\n' 0 >>"$tree/common/mcp_a.c"
run_guard sizes || complain "check_sizes refuses a function of 100 lines, or a line of 100 columns"

echo "$cases cases, $failures failures"
test "$failures" -eq 0
