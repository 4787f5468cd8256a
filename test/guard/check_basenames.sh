#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# No two sources have one name: the error log names a file without its folder.
. "$(dirname "$0")/guard.sh"

names=$(all_sources | sed 's|.*/||' | sort)
checked=$(echo "$names" | grep -c .)
for name in $(echo "$names" | uniq -d); do
    bad "more than one file is named $name:" $(all_sources | grep "/$name\$")
done
finish "sources with a name of their own"
