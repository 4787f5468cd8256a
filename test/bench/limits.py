# SPDX-License-Identifier: Apache-2.0
"""Throughput and latency with and without limits: medians of rounds in which all take turns.

A backend (nginx, a fixed JSON answer), and before it httpd with mod_proxy_http, once without the
module and once with each store; nginx with limit_req; then the same for users that are refused.
"""
import argparse
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from cpu import cpu_seconds

ROUNDS = int(os.environ.get("ROUNDS", 5))
SECONDS = float(os.environ.get("SECONDS", 3))
CONNECTIONS = int(os.environ.get("CONNECTIONS", 16))
BODY = r'{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",' \
       r'\"params\":{\"name\":\"search\",\"arguments\":{\"q\":\"x\"}}}'
ANSWER = '{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"%s"}]}}' % ("x" * 200)

# What a client that is refused reads, but with an id that is always the same.
SAME_ANSWER = """Redirect 429
ErrorDocument 429 "%s"
Header always set X-RateLimit-Limit 1
Header always set X-RateLimit-Remaining 0
Header always set X-RateLimit-Reset 3600
Header always set Retry-After 3600""" % (
    '{"jsonrpc":"2.0","id":1,"error":{"code":-31429,"message":"Too many requests (messages): retry '
    'in 3600 s","data":{"error":"too_many_requests","limit":"messages","retryAfter":3600}}}'
).replace('"', '\\"')

LUA = """
wrk.method = "POST"
wrk.body = "%s"
local n = 0
function request()
  n = n + 1
  return wrk.format(nil, nil, {["Content-Type"] = "application/json",
                               ["X-User"] = "user" .. (n %% %d) .. "@example.com"})
end
function done(summary, latency)
  io.write(string.format("P50 %%d P99 %%d\\n", latency:percentile(50), latency:percentile(99)))
end
"""

# name, what it is compared with, the least ratio that must be kept, and what is aimed for
ROWS = (
    ("httpd, no limit", None, None, None),
    ("httpd, no limit, again", "httpd, no limit", None, None),
    ("httpd, shm", "httpd, no limit", 0.97, 0.97),
    ("httpd, shm, other place", None, None, None),
    ("httpd, shm, this place", "httpd, shm, other place", 0.97, 0.97),
    ("httpd, Redis", "httpd, no limit", 0.90, 0.95),
    ("httpd, Redis, 1000 users", "httpd, no limit", None, None),
    ("httpd, Redis, small buckets", "httpd, no limit", 0.90, 0.95),
    ("nginx, no limit", None, None, None),
    ("nginx, limit_req", "nginx, no limit", None, None),
    ("httpd, fixed 429", None, None, None),
    ("httpd, fixed 429, same answer", "httpd, fixed 429", None, None),
    ("httpd, refused (shm)", "httpd, fixed 429, same answer", 0.95, 1.0),
    ("httpd, refused (Redis)", "httpd, fixed 429, same answer", 0.95, 1.0),
    ("nginx, refused by limit_req", None, None, None),
)
# microseconds added to the median: must, aim
MOST_LATENCY = {"httpd, Redis": (100, 40), "httpd, Redis, small buckets": (100, 40)}
# Who asks, in turn. A small bucket (200/60s burst=50) must do for a user's share of a measurement.
USERS = {"httpd, Redis, 1000 users": 1000, "httpd, Redis, small buckets": 5000}
# The same processes with and without a limit: neither is luckier than the other.
PLACES = {"httpd, shm, other place": "/free", "httpd, shm, this place": "/mcp"}
# Before each measurement, in seconds: a bucket lends to who has asked for a while.
AHEAD = {"httpd, Redis, 1000 users": 4, "httpd, Redis, small buckets": 8}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port):
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    sys.exit("bench: nothing listens on port %d" % port)


class Bench:
    def __init__(self, build):
        self.build = pathlib.Path(build)
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="mcplimits."))
        self.work.chmod(0o755)
        self.processes = []
        self.ports = {}
        self.pids = {}

    def run(self, *command):
        self.processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL,
                                               stderr=subprocess.DEVNULL,
                                               stdout=subprocess.DEVNULL))
        return self.processes[-1].pid

    def start(self):
        apxs = shutil.which("apxs") or shutil.which("apxs2") or "apxs"
        self.modules = subprocess.check_output([apxs, "-q", "LIBEXECDIR"], text=True).strip()
        self.backend = free_port()
        self.socket = self.work / "redis"
        self.run("redis-server", "--port", "0", "--unixsocket", str(self.socket),
                 "--unixsocketperm", "777", "--save", "", "--dir", str(self.work))
        self.start_nginx()
        key = 'MCPRateLimitKey "%{HTTP:X-User}"'
        free, none = key + "\n MCPRateLimitMessages 1000000/1s", key + "\n MCPRateLimitMessages 1/1h"
        redis = "redis+unix:%s?db=4" % self.socket
        self.start_httpd("httpd, no limit")
        self.start_httpd("httpd, no limit, again")
        self.start_httpd("httpd, shm", "shm", free)
        self.start_httpd("httpd, Redis", redis, free)
        for known in self.ports, self.pids:
            known.update((place, known["httpd, shm"]) for place in PLACES)
            known["httpd, Redis, 1000 users"] = known["httpd, Redis"]
        self.start_httpd("httpd, Redis, small buckets", redis,
                         key + "\n MCPRateLimitMessages 200/60s burst=50")
        self.start_httpd("httpd, fixed 429", None, "Redirect 429")
        self.start_httpd("httpd, fixed 429, same answer", None, SAME_ANSWER)
        self.start_httpd("httpd, refused (shm)", "shm", none)
        self.start_httpd("httpd, refused (Redis)", redis, none)

    def start_nginx(self):
        names = ("nginx, no limit", "nginx, limit_req", "nginx, refused by limit_req")
        for name in names:
            self.ports[name] = free_port()
        proxy = ("proxy_pass http://backend; proxy_http_version 1.1; "
                 "proxy_set_header Connection '';")
        limit = "limit_req zone=%s burst=1000000 nodelay; limit_req_status 429;"
        config = self.work / "nginx.conf"
        config.write_text("""
worker_processes 2; daemon off; pid %s; error_log /dev/null crit;
events { worker_connections 1024; }
http { access_log off; keepalive_requests 100000000;
limit_req_zone $http_x_user zone=free:10m rate=1000000r/s;
limit_req_zone $http_x_user zone=none:10m rate=1r/m;
upstream backend { server 127.0.0.1:%d; keepalive 64; keepalive_requests 100000000; }
server { listen 127.0.0.1:%d; location / { default_type application/json; return 200 '%s'; } }
server { listen 127.0.0.1:%d; location / { %s } }
server { listen 127.0.0.1:%d; location / { %s %s } }
server { listen 127.0.0.1:%d; location / { limit_req zone=none; limit_req_status 429; %s } }
}""" % (self.work / "nginx.pid", self.backend, self.backend, ANSWER, self.ports[names[0]], proxy,
        self.ports[names[1]], limit % "free", proxy, self.ports[names[2]], proxy))
        self.pids.update((name, None) for name in names)
        self.run("nginx", "-c", str(config), "-p", str(self.work))

    def start_httpd(self, name, store=None, limits=""):
        port = self.ports[name] = free_port()
        folder = self.work / re.sub(r"\W+", "-", name)
        folder.mkdir()
        names = ["mpm_event", "authz_core", "alias", "headers", "proxy", "proxy_http"]
        lines = ['LoadModule %s_module "%s/mod_%s.so"' % (n, self.modules, n) for n in names]
        if store:
            lines += ['LoadModule mcp_ratelimit_module "%s/mod_mcp_ratelimit/.libs/'
                      'mod_mcp_ratelimit.so"' % self.build, 'MCPRateLimitStore "%s"' % store]
        if os.geteuid() == 0:
            lines += ["User www-data", "Group www-data"]
        lines += ['ServerRoot "%s"' % folder, "PidFile pid", "ErrorLog error.log",
                  "LogLevel warn", "ServerName localhost", "Listen 127.0.0.1:%d" % port,
                  "StartServers 2", "ServerLimit 2", "ThreadsPerChild 25", "MaxRequestWorkers 50",
                  "MaxKeepAliveRequests 0", '<Location "/mcp">',
                  ' ProxyPass "http://127.0.0.1:%d/"' % self.backend, limits, "</Location>",
                  'ProxyPass "/free" "http://127.0.0.1:%d/"' % self.backend]
        (folder / "conf").write_text("\n".join(lines) + "\n")
        program = shutil.which("apache2") or shutil.which("httpd")
        self.pids[name] = self.run(program, "-d", str(folder), "-f", "conf", "-DFOREGROUND")

    def stop(self):
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait(20)
        shutil.rmtree(self.work)

    def cost(self, name, seconds):
        """The rate, and the processor time of a request in seconds, of httpd's; nginx: 0."""
        pid = self.pids[name]
        before = cpu_seconds(pid) if pid else 0
        rate = self.measure(name, seconds)[0]
        return rate, (cpu_seconds(pid) - before) / (rate * max(1, round(seconds))) if pid else 0

    def p50_of_few(self, name):
        """With two connections, so that it is the time of a request, not of a queue."""
        return self.measure(name, 1, connections=2)[1]

    def measure(self, name, seconds, connections=CONNECTIONS):
        users = USERS.get(name, 1)
        script = self.work / ("users-%d.lua" % users)
        script.write_text(LUA % (BODY, users))
        text = subprocess.check_output(
            ["wrk", "-t1", "-c%d" % connections, "-d%ds" % max(1, round(seconds)), "--latency",
             "-s", str(script),
             "http://127.0.0.1:%d%s" % (self.ports[name], PLACES.get(name, "/mcp"))], text=True)
        rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])
        errors = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
        refused = "429" in name or "refused" in name
        total = int(re.search(r"(\d+) requests in", text)[1])
        wrong = (int(errors[1]) if errors else 0) if not refused else (
            total - (int(errors[1]) if errors else 0))
        if wrong > (4 if refused else 0):
            print("note: %s: %d answers of %d were not what is measured" % (name, wrong, total))
        return rate, float(re.search(r"P50 (\d+)", text)[1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True)
    parser.add_argument("--only", default="", help="rows whose name matches, and what they need")
    arguments = parser.parse_args()
    wanted = [row for row in ROWS if re.search(arguments.only, row[0])]
    while {row[1] for row in wanted if row[1]} - {row[0] for row in wanted}:
        wanted += [row for row in ROWS if row not in wanted
                   and any(row[0] == other for _, other, *_ in wanted)]
    rows = [row for row in ROWS if row in wanted]
    results = {name: [] for name, *_ in rows}
    for number in range(ROUNDS):
        one_round(arguments.build, list(results)[::-1 if number % 2 else 1], results)
    return report(rows, results)


def one_round(build, names, results):
    """All processes are of this round: one may be lucky, or unlucky, for as long as it lives."""
    bench = Bench(build)
    try:
        bench.start()
        for port in bench.ports.values():
            wait_for(port)
        for name in names:
            bench.measure(name, 1)
        for name in names:
            if name in AHEAD:
                bench.measure(name, AHEAD[name])
            results[name].append((*bench.cost(name, SECONDS), bench.p50_of_few(name)))
    finally:
        bench.stop()


def mean_of(ratios):
    """In percent, and what it may be off by chance in 19 of 20 runs."""
    text = "%.1f" % (100 * statistics.mean(ratios))
    if len(ratios) > 1:
        text += " +- %.1f" % (196 * statistics.stdev(ratios) / len(ratios) ** 0.5)
    return text


def compare(mine, theirs, must, aim):
    """A row beside the one that it is measured by; its text, and whether it misses what it must."""
    rates = [one[0] / other[0] for one, other in zip(mine, theirs)]
    ratio = statistics.median(rates)
    text = " %7.1f%% (mean %s" % (100 * ratio, mean_of(rates))
    if mine[0][1] and theirs[0][1]:
        text += ", CPU %s" % mean_of([one[1] / other[1] for one, other in zip(mine, theirs)])
    text += ")"
    if not must:
        return text, False
    missed = ratio < must
    return text + "  %.0f%% (%.0f%%)%s" % (100 * must, 100 * aim, "  MISSED" * missed), missed


def report(rows, results):
    missed = 0
    print("%-30s %12s %8s %8s %8s  %s" % ("", "requests/s", "CPU us", "p50 us", "ratio",
                                          "must (aim)"))
    for name, other, must, aim in rows:
        rate, cpu, p50 = (statistics.median(values) for values in zip(*results[name]))
        line = "%-30s %12.0f %8.1f %8.0f" % (name, rate, 1e6 * cpu, p50)
        if other:
            text, is_missed = compare(results[name], results[other], must, aim)
            line += text
            missed += is_missed
        if name in MOST_LATENCY:
            added = statistics.median(mine[2] - theirs[2] for mine, theirs
                                      in zip(results[name], results[other]))
            most, best = MOST_LATENCY[name]
            line += "  %+.0f us, must +%d (+%d)%s" % (added, most, best,
                                                     "" if added <= most else "  MISSED")
            missed += added > most
        print(line)
    return 2 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
