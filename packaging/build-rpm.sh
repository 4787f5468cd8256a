#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes RPM packages, source and binary, of a source tarball and has rpmlint judge the spec file.
#
#   sh packaging/build-rpm.sh mod-mcp-VERSION.tar.gz [FOLDER]    (or: make rpm)
#
# The packages are put into FOLDER (by default the current one). On a system without RPM packages
# of its own the build works as well, but what it makes fits that system's httpd only.
set -eu
export LC_ALL=C LANGUAGE=

say() { printf '%s\n' "$*"; }
give_up() { say "build-rpm: $*" >&2; exit 1; }

[ $# -ge 1 ] && [ -f "$1" ] || give_up "name a tarball that make dist has made"
tarball=$(realpath "$1")
out=$(realpath "${2:-.}")
name=$(basename "$tarball" .tar.gz)
version=${name#mod-mcp-}
command -v rpmbuild >/dev/null || give_up "no rpmbuild: install rpm-build (Debian: rpm)"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
mkdir "$work/SOURCES" "$work/SPECS"
cp "$tarball" "$work/SOURCES"
spec=$work/SPECS/mod_mcp.spec
tar -xzf "$tarball" -O "$name/packaging/rpm/mod_mcp.spec.in" |
    sed -e "s/@VERSION@/$version/" -e "s/@DATE@/$(LC_ALL=C date -u -r "$tarball" '+%a %b %d %Y')/" >"$spec"

if command -v rpmlint >/dev/null; then
    say "Asking rpmlint ..."
    rpmlint "$spec" || give_up "rpmlint objects"
fi
# Only a system of RPM packages can tell whether what the build requires is installed.
[ -n "$(rpm -qa 2>/dev/null | head -n 1)" ] && check= || check=--nodeps
say "Building (half a minute) ..."
rpmbuild --define "_topdir $work" $check -ba "$spec" >"$work/log" 2>&1 ||
    { tail -n 40 "$work/log" >&2; give_up "that failed"; }
find "$work/RPMS" "$work/SRPMS" -name '*.rpm' -exec cp {} "$out" \; -exec basename {} \;
