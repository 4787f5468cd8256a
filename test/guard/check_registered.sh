#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Each test is run: programs and guards are listed in test/Makefile.am, and each START_TEST is added
# to a case in its own file. Those with real clients need no list to be run, but one to be shipped.
. "$(dirname "$0")/guard.sh"

makefile=$top/test/Makefile.am
listed=$(for variable in UNIT_TESTS FUZZ_TARGETS GUARDS; do
    test ! -f "$makefile" || words_of $variable "$makefile"
done)

for file in "$top"/test/unit/test_*.c "$top"/test/fuzz/fuzz_*.c "$top"/test/guard/check_*.sh \
        "$top"/test/guard/selftest.sh; do
    test -f "$file" || continue
    checked=$((checked + 1))
    name=${file#"$top"/test/}
    echo "$listed" | grep -qx "${name%.c}" || bad "$name is not in test/Makefile.am"
    for test in $(sed -n 's/^START_TEST(\(.*\))$/\1/p' "$file"); do
        tr -d '\n' <"$file" | grep -qE "tcase_add_[a-z_]*test[a-z_]*\([^;]*[, ]$test[,)]" ||
            bad "$name: $test is in no case"
    done
done
for file in "$top"/test/real/*.test.mjs; do
    test -f "$file" || continue
    checked=$((checked + 1))
    name=${file#"$top"/test/}
    words_of EXTRA_DIST "$makefile" | grep -qx "$name" ||
        bad "$name is not shipped by test/Makefile.am"
done
finish "tests that are run"
