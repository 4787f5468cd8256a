#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Every configuration file in conf/ and every example in docs/directives.md passes "httpd -t";
# the a2enmod files do so in the order in which Debian reads them, without a warning. A broken
# file must fail the same check, or this guard would be of no use. Exit status 77: not built, or
# no httpd here.
set -u
top=$(cd "${srcdir:-$(dirname "$0")/..}/.." 2>/dev/null && pwd)
[ -f "$top/conf/mcp.conf" ] || top=$(cd "$(dirname "$0")/../.." && pwd)
module=${MCP_PROXY_SO:-$(pwd)/../mod_mcp_proxy/.libs/mod_mcp_proxy.so}
[ -f "$module" ] || module=$top/mod_mcp_proxy/.libs/mod_mcp_proxy.so
httpd=
for program in "${HTTPD:-}" /usr/sbin/apache2 /usr/sbin/httpd; do
    [ -z "$httpd" ] && [ -n "$program" ] && [ -x "$program" ] && httpd=$program
done
modules=
for place in "${HTTPD_MODULES:-}" /usr/lib/apache2/modules /usr/lib64/httpd/modules; do
    [ -z "$modules" ] && [ -n "$place" ] && [ -d "$place" ] && modules=$place
done
if [ ! -f "$module" ] || [ -z "$httpd" ] || [ -z "$modules" ]; then
    echo "no mod_mcp_proxy.so or no httpd here"
    exit 77
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/logs" "$work/mods-enabled"
failed=0
checked=0

openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=mcp.example.com \
    -keyout "$work/key.pem" -out "$work/cert.pem" >/dev/null 2>&1

load() { # module names
    for name in "$@"; do
        [ -f "$modules/mod_$name.so" ] && echo "LoadModule ${name}_module $modules/mod_$name.so"
    done
}

# Paths of the examples that exist only on an operator's machine.
localise() {
    sed -e "s|/etc/ssl/certs/ssl-cert-snakeoil.pem|$work/cert.pem|" \
        -e "s|/etc/ssl/certs/ca-certificates.crt|$work/cert.pem|" \
        -e "s|/etc/ssl/private/ssl-cert-snakeoil.key|$work/key.pem|" "$1"
}

# Prints what httpd says about the file, with all modules loaded that the examples use.
syntax() {
    {
        load mpm_event authz_core authz_host unixd log_config alias headers env setenvif \
            reqtimeout watchdog proxy proxy_http proxy_balancer proxy_hcheck slotmem_shm \
            socache_shmcb ssl http2
        echo "LoadModule mcp_proxy_module $module"
        printf 'ServerRoot %s\nServerName mcp.example.com\nListen 127.0.0.1:8080\n' "$work"
        localise "$1"
    } >"$work/httpd.conf"
    "$httpd" -t -f "$work/httpd.conf" 2>&1
}

must_pass() { # file name
    checked=$((checked + 1))
    said=$(syntax "$1") && [ "$said" = "Syntax OK" ] && return
    echo "FAIL: $2: $said"
    failed=$((failed + 1))
}

# What a fresh Debian reads: mods-enabled/*.load by name, then mods-enabled/*.conf by name.
must_pass_enabled() {
    checked=$((checked + 1))
    for name in authz_core mpm_event proxy proxy_balancer slotmem_shm; do
        load "$name" >"$work/mods-enabled/$name.load"
    done
    cp "$top/conf/mcp_proxy.load" "$work/mods-enabled/"
    sed "s|/usr/lib/apache2/modules/mod_mcp_proxy.so|$module|" "$top/conf/mcp_proxy.conf" \
        >"$work/mods-enabled/mcp_proxy.conf"
    printf '%s\n' "ServerRoot $work" "ServerName mcp.example.com" "Listen 127.0.0.1:8080" \
        'IncludeOptional mods-enabled/*.load' 'IncludeOptional mods-enabled/*.conf' \
        '<Location "/mcp">' 'ProxyPass "http://127.0.0.1:3001/mcp"' 'MCPProxy On' '</Location>' \
        >"$work/enabled.conf"
    said=$("$httpd" -t -f "$work/enabled.conf" 2>&1) && [ "$said" = "Syntax OK" ] && return
    echo "FAIL: a2enmod files: $said"
    failed=$((failed + 1))
}

# Each <Example> of the manual is a block of its own between ```apache and ```.
split_examples() {
    awk -v out="$work/example-" '
        /^```apache/ { n++; on = 1; next }
        /^```/ { on = 0 }
        on { print > (out n ".conf") }
    ' "$top/docs/directives.md"
}

for file in "$top"/conf/mcp.conf "$top"/conf/examples/*.conf; do
    must_pass "$file" "${file#"$top"/}"
done
must_pass_enabled
split_examples
for file in "$work"/example-*.conf; do
    must_pass "$file" "docs/directives.md, example $(cat "$file")"
done

# The commented defaults of the reference must be as good as its other lines.
sed 's/^\( *\)#\(MCPProxy[A-Za-z]* \)/\1\2/' "$top/conf/mcp.conf" >"$work/all.conf"
must_pass "$work/all.conf" "conf/mcp.conf with every default written out"

echo 'MCPProxyNoSuchThing On' >"$work/broken.conf"
if said=$(syntax "$work/broken.conf"); then
    echo "FAIL: a broken file passes: $said"
    failed=$((failed + 1))
fi
[ "$checked" -gt 20 ] || { echo "FAIL: only $checked files were checked"; failed=1; }
echo "$checked configurations checked, $failed failed"
[ "$failed" -eq 0 ]
