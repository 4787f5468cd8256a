#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs a package, uses it as its operator would, upgrades it, and removes it; then installs the
# same modules with apxs.
#
#   sh packaging/test-deb.sh libapache2-mod-mcp_VERSION_ARCH.deb
#
# All of it happens in a copy of this system that is gone afterwards: an overlay over the root
# file system, with processes and a network of its own. That takes root, and Debian's apache2.
# Exit status: 0 if all was well, 1 if not, 77 if it cannot be done here.
set -u

say() { printf '%s\n' "$*"; }
skip() { say "test-deb: skipped: $*"; exit 77; }

outside() {
    [ -f "$1" ] || { say "test-deb: no such file: $1"; exit 1; }
    [ "$(id -u)" -eq 0 ] || skip "needs root"
    for tool in unshare dpkg dpkg-deb a2enmod python3 curl; do
        command -v $tool >/dev/null || skip "no $tool"
    done
    ! dpkg-query -W -f '${Status}' libapache2-mod-mcp 2>/dev/null | grep -q ' installed' ||
        skip "libapache2-mod-mcp is installed on this system"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT TERM
    cp "$0" "$1" "$work"
    mkdir "$work/copy"
    unshare --mount --net --pid --fork --kill-child sh "$0" --overlay "$work" "$(basename "$1")"
    status=$?
    exit $status
}

# In namespaces of our own. The copy's /test is ours.
overlay() {
    work=$1
    mount --make-rprivate / &&
        mount -t tmpfs none "$work/copy" &&
        mkdir "$work/copy/upper" "$work/copy/work" "$work/copy/root" &&
        mount -t overlay none "$work/copy/root" -o \
            "lowerdir=/,upperdir=$work/copy/upper,workdir=$work/copy/work" || exit 77
    root=$work/copy/root
    mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev" || exit 77
    mount -t tmpfs none "$root/run" && mount -t tmpfs none "$root/tmp" || exit 77
    mkdir "$root/run/lock" "$root/test"
    cp "$0" "$root/test/test.sh"
    cp "$work/$2" "$root/test/first.deb"
    python3 -c 'import socket, struct, fcntl
with socket.socket() as s:
    fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 0x49))'
    exec chroot "$root" sh /test/test.sh --inside
}

server() {
    cat <<'PYTHON'
import http.server
import json
import uuid

sessions, calls = set(), []


class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        session = self.headers.get("Mcp-Session-Id")
        if message["method"] == "initialize":
            session = uuid.uuid4().hex
            sessions.add(session)
        calls.append(message)
        result = {"content": [{"type": "text", "text": "answer %d" % len(calls)}]}
        body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()
        self.send_response(200 if session in sessions else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Mcp-Session-Id", session or "")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *unused):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", 3001), Server).serve_forever()
PYTHON
}

site() {
    cat <<'CONF'
<Proxy "balancer://mcp">
    BalancerMember "http://127.0.0.1:3001" route=a
    ProxySet lbmethod=mcp
</Proxy>
<Location "/mcp">
    ProxyPass "balancer://mcp/mcp"
    MCPProxy On
    MCPRateLimitMessages 200/60s
    MCPCacheTool get_product 300s
</Location>
CONF
}

check() { # what command...
    what=$1
    shift
    if "$@" >/test/said 2>&1; then
        say "ok: $what"
    else
        say "FAILED: $what"
        cat /test/said
        tail -n 20 /var/log/apache2/error.log 2>/dev/null
        exit 1
    fi
}

post() { # message: prints head and body
    curl -sS -i -m 10 http://127.0.0.1:80/mcp -H 'Content-Type: application/json' \
        -H 'Accept: application/json, text/event-stream' ${session:+-H "Mcp-Session-Id: $session"} \
        -d "$1"
}

# Asks until the answer has that; reloads and restarts take their moment.
answers() { # text message
    for _ in $(seq 100); do
        post "$2" >/test/answer 2>&1
        ! grep -qi "$1" /test/answer || return 0
        sleep 0.1
    done
    cat /test/answer
    return 1
}

product='{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"get_product"}}'
other='{"jsonrpc":"2.0","id":8,"method":"tools/call","params":{"name":"other"}}'
started='{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}'

reloads() { grep -c 'AH00493' /var/log/apache2/error.log; }

begin() {
    # Reloads by maintainer scripts are what is tested, so nothing may forbid them here.
    rm -f /usr/sbin/policy-rc.d
    : >/var/log/apache2/error.log
    a2dismod -q -f auth_openidc security2 >/dev/null 2>&1
    rm -f /etc/apache2/sites-enabled/*
    printf 'Listen 127.0.0.1:80\nServerName localhost\n' >/etc/apache2/ports.conf
    server >/test/server.py
    python3 /test/server.py &
    site >/etc/apache2/sites-available/mcp.conf
}

all_modules_loaded() {
    apache2ctl -M 2>&1 | grep -c 'mcp_\(proxy\|ratelimit\|cache\)_module' | grep -qx 3
}

starts_and_serves() {
    check "it starts" apache2ctl start
    check "a client opens a session" answers '^mcp-session-id: [0-9a-f]' "$started"
    session=$(sed -n 's/^[Mm]cp-[Ss]ession-[Ii]d: \([0-9a-f]*\).*/\1/p' /test/answer)
    check "a tool is called, within the limits" answers '^x-ratelimit-limit: 200' "$other"
    check "a result is stored" answers '^cache-status: mcp; fwd=miss; stored' "$product"
    check "and served again" answers '^cache-status: mcp; hit' "$product"
}

newer() {
    dpkg-deb -R /test/first.deb /test/newer
    sed -i 's/^Version: .*/&+test1/' /test/newer/DEBIAN/control
    dpkg-deb -b /test/newer /test/second.deb >/dev/null
}

was_reloaded() {
    for _ in $(seq 100); do
        [ "$(reloads)" -le "$1" ] || return 0
        sleep 0.1
    done
    return 1
}

nothing_left() {
    ! find /etc/apache2 /usr/lib/apache2 /var/lib/apache2 -name '*mcp_*' | grep .
}

inside() {
    begin
    check "the package installs" dpkg -i /test/first.deb
    check "it switches nothing on" sh -c '! a2query -m | grep mcp'
    check "a2enmod switches all three on" a2enmod mcp_proxy mcp_ratelimit mcp_cache
    check "and what they need" a2query -m proxy_balancer
    a2ensite -q mcp >/dev/null
    check "httpd -t passes" apache2ctl configtest
    check "all three are loaded" all_modules_loaded
    starts_and_serves

    count=$(reloads)
    check "it reloads" apache2ctl graceful
    check "the reload comes to pass" was_reloaded "$count"
    check "the session goes on" answers '"answer' "$other"

    newer
    count=$(reloads)
    check "a newer package installs" dpkg -i /test/second.deb
    check "and httpd is reloaded by it" was_reloaded "$count"
    check "the session goes on" answers '"answer' "$other"
    check "the modules are still on" all_modules_loaded

    a2dissite -q mcp >/dev/null
    check "the package is purged" dpkg --purge libapache2-mod-mcp
    check "nothing is left of it" nothing_left
    check "httpd -t passes without it" apache2ctl configtest
    check "httpd goes on" apache2ctl graceful

    with_apxs
    say "All is well."
}

# Without a package: httpd's own tool installs the modules that make has made, and switches them on.
with_apxs() {
    command -v apxs >/dev/null || return 0
    dpkg-deb -x /test/first.deb /test/files
    for name in proxy ratelimit cache; do
        check "apxs installs mod_mcp_$name" \
            apxs -i -a -n "mcp_$name" "/test/files/usr/lib/apache2/modules/mod_mcp_$name.so"
    done
    check "a2enmod switches on what they need" a2enmod proxy proxy_balancer slotmem_shm
    a2ensite -q mcp >/dev/null
    check "httpd -t passes" apache2ctl configtest
    check "all three are loaded" all_modules_loaded
    check "httpd stops" apache2ctl stop
    session=
    check "and has stopped" gone
    starts_and_serves
}

gone() {
    for _ in $(seq 100); do
        curl -s -m 1 http://127.0.0.1:80/ >/dev/null || [ -f /run/apache2/apache2.pid ] || return 0
        sleep 0.1
    done
    return 1
}

case ${1:-} in
--overlay) overlay "$2" "$3" ;;
--inside) inside ;;
'') sed -n '3,12s/^# \{0,1\}//p' "$0"; exit 2 ;;
*) outside "$1" ;;
esac
