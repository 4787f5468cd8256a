#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Fuzzes one target for a while: test/fuzz/run.sh fuzz_mcp_rpc [SECONDS [OPTION...]]
# Needs clang. What it learns goes to a folder that is thrown away; what crashes it stays in the
# current folder, to become a file of the corpus and a unit test.
set -eu
target=${1:?"usage: run.sh TARGET [SECONDS [OPTION...]]"}
seconds=${2:-60}
shift
test $# -eq 0 || shift
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

flags="-std=gnu11 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined"
packages="apr-1 apr-util-1 hiredis json-c libcrypto"
# The archive that the modules link, without what links httpd.
sources=$(ls "$top"/common/mcp_*.c | grep -v /mcp_httpd_)
# Beside it, the one file of a module that the target is named after.
sources="$sources $(ls "$top"/mod_*/"${target#fuzz_}.c" 2>/dev/null || true)"
# shellcheck disable=SC2046,SC2086 # lists of words
${CC:-clang} $flags -I"$top/common" -I"$top/mod_mcp_cache" -I"$top/mod_mcp_proxy" \
    $(pkg-config --cflags $packages) \
    -o "$work/$target" "$here/$target.c" $sources $(pkg-config --libs $packages)

mkdir "$work/found"
options=
test ! -f "$here/dict/${target#fuzz_}.dict" || options="-dict=$here/dict/${target#fuzz_}.dict"
"$work/$target" -max_total_time="$seconds" $options "$@" "$work/found" \
    "$here/corpus/${target#fuzz_}"
