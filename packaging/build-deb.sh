#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes a Debian package of a source tarball and has lintian judge it.
#
#   sh packaging/build-deb.sh mod-mcp-VERSION.tar.gz [FOLDER]    (or: make deb)
#
# The package and what belongs to its source are put into FOLDER (by default the current one).
# DEBFULLNAME and DEBEMAIL say whose package it is.
set -eu

say() { printf '%s\n' "$*"; }
give_up() { say "build-deb: $*" >&2; exit 1; }

[ $# -ge 1 ] && [ -f "$1" ] || give_up "name a tarball that make dist has made"
tarball=$(realpath "$1")
out=$(realpath "${2:-.}")
name=$(basename "$tarball" .tar.gz)
version=${name#mod-mcp-}
maintainer="${DEBFULLNAME:-mod-mcp maintainers} <${DEBEMAIL:-mod-mcp@users.noreply.github.com}>"
for tool in dpkg-buildpackage dh_apache2 lintian; do
    command -v "$tool" >/dev/null ||
        give_up "no $tool: apt-get install dpkg-dev debhelper apache2-dev lintian"
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

say "Unpacking $name ..."
cp "$tarball" "$work/mod-mcp_$version.orig.tar.gz"
tar -xzf "$tarball" -C "$work"
cd "$work/$name"
cp -R packaging/debian debian
# The day of the tarball's newest entry: the same tarball makes the same package.
sed -i -e "s/@VERSION@/$version/" -e "s/@DATE@/$(LC_ALL=C date -u -R -r CHANGES)/" \
    -e "s|@MAINTAINER@|$maintainer|" debian/changelog debian/control

say "Building (half a minute) ..."
dpkg-buildpackage -us -uc >"$work/log" 2>&1 || { tail -n 40 "$work/log" >&2; give_up "that failed"; }

say "Asking lintian ..."
lintian --allow-root --fail-on error,warning --tag-display-limit 0 "$work"/*.changes ||
    give_up "lintian objects"
cp "$work"/mod-mcp_"$version"* "$work"/libapache2-mod-mcp*.deb "$out"
say "$(ls "$out"/libapache2-mod-mcp_"$version"*.deb)"
