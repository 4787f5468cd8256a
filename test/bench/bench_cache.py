# SPDX-License-Identifier: Apache-2.0
"""How fast the cache is: hits against a static file, against mod_proxy_http and a slow tool, and
what a request pays that the cache has nothing to do with. See README. One run, about two minutes.

    python3 test/bench/bench_cache.py [--seconds 1] [--rounds 7] [--build DIR] [--size 2048]
                                      [--only REGEX]

Needs httpd, nginx (the backend), redis-server and wrk. Exits with 2 if a "must" is missed.
"""
import argparse
import asyncio
import json
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
import threading
import time

from cpu import cpu_seconds

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONNECTIONS = 32

LUA = """
wrk.method = "%(method)s"
wrk.body = %(body)s
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Accept"] = "application/json, text/event-stream"
wrk.headers["Authorization"] = "Bearer 0123456789abcdef"
function done(summary, latency)
  local e = summary.errors
  io.write(string.format("RATE %%f BAD %%d\\n", summary.requests * 1e6 / summary.duration,
           e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def apxs(name):
    tool = shutil.which("apxs") or shutil.which("apxs2")
    return subprocess.run([tool, "-q", name], check=True, capture_output=True,
                          text=True).stdout.strip()


def wait_for(address, family=socket.AF_INET):
    for _ in range(500):
        with socket.socket(family) as probe:
            try:
                return probe.connect(address)
            except OSError:
                time.sleep(0.01)
    raise RuntimeError("nothing listens at %r" % (address,))


class SlowTool(threading.Thread):
    """A backend whose tool takes 20 ms."""

    def __init__(self):
        super().__init__(daemon=True)
        self.ready = threading.Event()
        self.port = 0
        self.start()
        self.ready.wait()

    def run(self):
        asyncio.run(self.serve())

    async def serve(self):
        server = await asyncio.start_server(self.one, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self.ready.set()
        await server.serve_forever()

    async def one(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = re.search(rb"content-length: *(\d+)", head, re.I)
                await reader.readexactly(int(size[1]))
                await asyncio.sleep(0.020)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                             b"Content-Length: 36\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


class Bench:
    def __init__(self, options, work):
        self.options, self.work = options, work
        self.running = []
        self.rates, self.costs = {}, {}
        result = json.dumps({"content": [{"type": "text", "text": "x" * (options.size - 80)}]})
        self.answer = '{"jsonrpc":"2.0","id":1,"result":%s}' % result
        self.request = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
            "name": "get_product", "arguments": {"sku": "A-1", "fields": ["price", "stock"]}}})

    def start(self, *command):
        self.running.append(subprocess.Popen(command, stdin=subprocess.DEVNULL,
                                             stdout=subprocess.DEVNULL, start_new_session=True))
        return self.running[-1]

    def stop(self, process):
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        self.running.remove(process)

    def start_backends(self):
        self.backend, self.slow = free_port(), SlowTool()
        conf = self.work / "nginx.conf"
        conf.write_text("""
            worker_processes 1; pid %(work)s/nginx.pid; error_log %(work)s/nginx.log; daemon off;
            events { worker_connections 1024; }
            http { access_log off; keepalive_requests 100000000;
              server { listen 127.0.0.1:%(port)d; default_type application/json;
                location / { return 200 '%(answer)s'; } } }
            """ % {"work": self.work, "port": self.backend, "answer": self.answer})
        self.start("nginx", "-c", str(conf), "-e", str(self.work / "nginx.log"))
        self.redis = self.work / "redis.sock"
        self.start("redis-server", "--port", "0", "--unixsocket", str(self.redis), "--save", "",
                   "--unixsocketperm", "777", "--dir", str(self.work))
        wait_for(("127.0.0.1", self.backend))
        wait_for(str(self.redis), socket.AF_UNIX)

    def httpd(self, name, *, cache=(), backend=None, proxy="http", server=()):
        """Start httpd with one configuration; returns (process, port)."""
        folder, port = self.work / name, free_port()
        (folder / "htdocs").mkdir(parents=True, exist_ok=True)
        (folder / "htdocs" / "answer.json").write_text(self.answer)
        modules = ["mpm_event", "unixd", "authn_core", "authz_core", "slotmem_shm", "mime", "proxy",
                   "proxy_balancer", "lbmethod_byrequests", "proxy_http"]
        lines = ["LoadModule %s_module %s/mod_%s.so" % (m, apxs("LIBEXECDIR"), m) for m in modules
                 if os.path.exists("%s/mod_%s.so" % (apxs("LIBEXECDIR"), m))]
        for ours in (["cache"] if cache is not None else []) + (["proxy"] if proxy == "mcp" else []):
            lines.append("LoadModule mcp_%s_module %s/mod_mcp_%s/.libs/mod_mcp_%s.so"
                         % (ours, self.options.build, ours, ours))
        lines += ["User www-data", "Group www-data"] if os.geteuid() == 0 else []
        lines += ["ServerRoot %s" % folder, "DefaultRuntimeDir %s" % folder, "PidFile pid",
                  "ErrorLog error.log", "LogLevel warn", "ServerName localhost",
                  "Listen 127.0.0.1:%d" % port, "MaxKeepAliveRequests 0", "KeepAliveTimeout 60",
                  "StartServers 2", "ServerLimit 4", "ThreadsPerChild 64", "ThreadLimit 64",
                  "MinSpareThreads 1", "MaxSpareThreads 128", "MaxRequestWorkers 128",
                  "DocumentRoot %s/htdocs" % folder, "TypesConfig /dev/null", "AddType application/json json",
                  "<Directory %s/htdocs>" % folder, "Require all granted", "</Directory>", *server,
                  "<Location /mcp>", "ProxyPass http://127.0.0.1:%d/mcp keepalive=On max=200"
                  % (backend or self.backend),
                  *(["MCPProxy On"] if proxy == "mcp" else []), *(cache or ()), "</Location>"]
        (folder / "httpd.conf").write_text("\n".join(lines) + "\n")
        process = self.start(os.path.join(apxs("SBINDIR"), apxs("PROGNAME")), "-d", str(folder),
                             "-f", "httpd.conf", "-DFOREGROUND")
        wait_for(("127.0.0.1", port))
        return process, port

    def wrk(self, port, path, method="POST", connections=CONNECTIONS):
        script = self.work / "wrk.lua"
        body = "nil" if method == "GET" else json.dumps(self.request)
        script.write_text(LUA % {"method": method, "body": body})
        done = subprocess.run(["wrk", "-t1", "-c%d" % connections, "-d%ds" % self.options.seconds,
                               "-s", str(script), "http://127.0.0.1:%d%s" % (port, path)],
                              check=True, capture_output=True, text=True)
        rate, bad = re.search(r"RATE ([\d.]+) BAD (\d+)", done.stdout).groups()
        if int(bad):
            raise RuntimeError("%s failed requests at %s\n%s" % (bad, path, done.stdout))
        return float(rate)

    def rows(self):
        hit = ["MCPCacheTool get_* 1h"]
        far = ['MCPCacheStore "redis+unix:%s?db=5"' % self.redis]
        slow = {"backend": self.slow.port}
        return {
            "static": ({"cache": hit}, "/answer.json", "GET", CONNECTIONS),
            "shm hit": ({"cache": hit}, "/mcp", "POST", CONNECTIONS),
            "redis hit": ({"cache": hit, "server": far}, "/mcp", "POST", CONNECTIONS),
            "20 ms tool": ({"cache": None, **slow}, "/mcp", "POST", 1),
            "20 ms tool, hit": ({"cache": hit, **slow}, "/mcp", "POST", 1),
        }

    def pairs(self):
        """What passes, without the cache and with it; the same twice tells how much is chance."""
        other = ["MCPCacheTool other 1h"]
        how = ("/mcp", "POST", CONNECTIONS)
        return [{"mod_proxy_http": ({"cache": None}, *how),
                 "http, not named": ({"cache": other}, *how),
                 "http, again": ({"cache": None}, *how)},
                {"mod_mcp_proxy": ({"cache": None, "proxy": "mcp"}, *how),
                 "mcp, not named": ({"cache": other, "proxy": "mcp"}, *how)}]

    def measure(self, name, row, process, port):
        before = cpu_seconds(process.pid)
        rate = self.wrk(port, *row[1:])
        cost = (cpu_seconds(process.pid) - before) / (rate * self.options.seconds)
        self.rates.setdefault(name, []).append(rate)
        self.costs.setdefault(name, []).append(cost * 1e6)

    def compare(self, rows, number):
        """
        Measure rows that differ by little: each in a httpd of this round, so that none keeps one
        that is lucky, and there and back, so that a drift cancels out.
        """
        names = list(rows) if number % 2 else list(reversed(rows))
        running = {name: self.httpd(re.sub(r"\W", "", "%s-%d" % (name, number)), **rows[name][0])
                   for name in names}
        for name in names + names[::-1]:
            self.measure(name, rows[name], *running[name])
        for name in names:
            for values in (self.rates[name], self.costs[name]):
                values[-2:] = [statistics.mean(values[-2:])]
            self.stop(running[name][0])

    def run(self):
        """All rows in turn, again and again: neighbours in time have the same machine."""
        self.start_backends()
        wanted = re.compile(self.options.only)
        rows = {name: row for name, row in self.rows().items() if wanted.search(name)}
        pairs = [pair for pair in self.pairs() if any(map(wanted.search, pair))]
        running = {name: self.httpd(re.sub(r"\W", "", name), **row[0])
                   for name, row in rows.items()}
        for number in range(self.options.rounds):
            for name in (reversed(rows) if number % 2 else rows):
                self.measure(name, rows[name], *running[name])
            for pair in pairs:
                self.compare(pair, number)

    def finish(self):
        for process in list(self.running):
            self.stop(process)

    def median(self, name):
        return statistics.median(self.rates[name])

    def ratios(self, name, base, of=None):
        """The rounds' own, if both rows were measured."""
        values = of or self.rates
        return [a / b for a, b in zip(values.get(name, ()), values.get(base, ()))]

    def passing(self, name, base):
        """Where little matters: the mean, and how far off it may be by chance (95 %)."""
        ratios = self.ratios(name, base)
        if len(ratios) > 1:
            error = 1.96 * statistics.stdev(ratios) / len(ratios) ** 0.5
            print("%-15s / %-14s %6.3f of the rate in the mean, +- %.3f, %.3f of httpd's CPU" % (
                name, base, statistics.mean(ratios), error,
                statistics.mean(self.ratios(name, base, self.costs))))

    def report(self):
        print("%-18s %9s %10s   %s" % ("", "1/s", "us of CPU", "least and most 1/s"))
        for name, rates in self.rates.items():
            print("%-18s %9.0f %10.1f   %.0f .. %.0f" % (
                name, self.median(name), statistics.median(self.costs[name]), min(rates),
                max(rates)))
        checks = [
            ("shm hit", "static", 0.60, 0.85),
            ("shm hit", "mod_proxy_http", 1.0, 1.0),
            ("redis hit", "static", 0.40, 0.40),
            ("20 ms tool, hit", "20 ms tool", 50, 50),
            ("http, not named", "mod_proxy_http", 0.97, 1),
            ("mcp, not named", "mod_mcp_proxy", 0.97, 1),
        ]
        missed = 0
        print()
        for name, base, must, aim in checks:
            ratios = self.ratios(name, base)
            if ratios:
                value = statistics.median(ratios)
                missed += value < must
                print("%-15s / %-14s %8.3f   must %.2f, aim %.2f   %s" % (
                    name, base, value, must, aim, "MISSED" if value < must else "ok"))
        print()
        self.passing("http, not named", "mod_proxy_http")
        self.passing("mcp, not named", "mod_mcp_proxy")
        self.passing("http, again", "mod_proxy_http")
        return 2 if missed else 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--only", default="", help="rows, and those they are compared with")
    parser.add_argument("--build", default=os.environ.get("MCP_BUILD", str(ROOT)))
    options = parser.parse_args()
    work = pathlib.Path(tempfile.mkdtemp(prefix="mcpcache-"))
    work.chmod(0o755)
    bench = Bench(options, work)
    try:
        bench.run()
        return bench.report()
    finally:
        bench.finish()
        shutil.rmtree(work)


if __name__ == "__main__":
    sys.exit(main())
