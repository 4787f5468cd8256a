#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs the npm packages and runs the tests with real MCP clients and servers. Arguments are
# passed on to node (test files, --test-name-pattern=...); without any, all test files run.
# The last line is "N passed, N failed, N skipped"; the exit status is 0 only if none failed.
set -u
cd "$(dirname "$0")" || exit 1

finish() { # passed failed skipped
    echo "$1 passed, $2 failed, $3 skipped"
    [ "$2" -eq 0 ] && [ "$1" -gt 0 ]
    exit
}

if ! command -v npm >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1; then
    echo "Installing Node.js and npm (Debian packages) ..."
    (apt-get update && apt-get install -y --no-install-recommends nodejs npm) >/dev/null || true
fi
if [ -z "$(find node_modules/.package-lock.json -newer package-lock.json 2>/dev/null)" ]; then
    echo "Installing the npm packages (about 350 MB with a newer Node.js) ..."
    npm ci --no-progress --loglevel=error || finish 0 1 0
    touch node_modules/.package-lock.json
fi

# The system's Node.js where it is new enough, else the one from npm.
node=node
case $(uname -m) in aarch64) arch=arm64 ;; *) arch=x64 ;; esac
if ! node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null; then
    node=node_modules/node-linux-$arch/bin/node
fi

tap=$(mktemp)
trap 'rm -f "$tap"' EXIT

count() { sed -n "s/^# $1 \([0-9]*\)\$/\1/p" "$tap" | tail -n 1 | grep . || echo 0; }

run() { # files and arguments; sets good, bad and skips
    "$node" --test --test-concurrency=2 --test-timeout=180000 \
        --test-reporter=spec --test-reporter-destination=stdout \
        --test-reporter=tap --test-reporter-destination="$tap" "$@"
    status=$?
    # A hook that fails (the error log oracle) is not in node's own count of failed tests.
    hooks=$(grep -c "failureType: 'hookFailed'" "$tap")
    good=$(count pass) skips=$(count skipped) bad=$(($(count fail) + $(count cancelled) + hooks))
    [ "$status" -eq 0 ] || [ "$bad" -gt 0 ] || bad=1
}

# As test/run.sh does with integration tests: in CI, up to two files are tried once more, and named.
# Never after a crash: that one is no matter of a busy machine.
try_again() {
    files=$(sed -n "s|^ *location: '.*/\([a-z0-9_]*\.test\.mjs\):.*|./\1|p" "$tap" | sort -u)
    [ "${CI:-}" = true ] && [ "$bad" -gt 0 ] && [ -n "$files" ] || return 0
    [ "$(echo "$files" | wc -l)" -le 2 ] && ! grep -q 'exit signal' "$tap" || return 0
    all_good=$good all_bad=$bad all_skips=$skips
    # shellcheck disable=SC2086
    echo "== Once more:" $files
    # shellcheck disable=SC2086
    run $files
    if [ "$bad" -eq 0 ] && [ "$good" -gt 0 ]; then
        # shellcheck disable=SC2086
        echo "FLAKY:" $files "failed, and passed on the second try"
        all_good=$((all_good + all_bad)) all_bad=0
    fi
    good=$all_good bad=$all_bad skips=$all_skips
}

[ $# -gt 0 ] || set -- ./*.test.mjs
run "$@"
try_again
finish "$good" "$bad" "$skips"
