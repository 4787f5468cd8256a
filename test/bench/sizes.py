# SPDX-License-Identifier: Apache-2.0
"""What docs/sizing.md counts with, measured: memory and descriptors of an idle stream, over plain
HTTP and over TLS, threads, shared memory, and connections to Redis.

    python3 test/bench/sizes.py [--streams 2000] [--build DIR]

Takes half a minute. Memory is the proportional set size (PSS) of httpd's children, after opening
the streams minus before; what the kernel keeps in socket buffers is not in it.
"""
import argparse
import json
import os
import pathlib
import resource
import shutil
import sys
import tempfile
import threading

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "integration"))
arguments = argparse.ArgumentParser(description=__doc__)
arguments.add_argument("--streams", type=int, default=2000)
arguments.add_argument("--build")
options = arguments.parse_args()
if options.build:
    os.environ["MCP_BUILD"] = options.build

# They read the environment when they are imported.
# pylint: disable=wrong-import-position
from harness import certs, process  # noqa: E402
from harness.client import call  # noqa: E402
from harness.gateway import Gateway, load_lines  # noqa: E402
from harness.mcpserver import McpServer  # noqa: E402
from harness.redisd import Redis  # noqa: E402
from harness.shipped import BUILD  # noqa: E402
from harness.wait import wait_until  # noqa: E402

LISTEN = [("Accept", "text/event-stream")]
OURS = ["LoadModule mcp_%s_module %s/mod_mcp_%s/.libs/mod_mcp_%s.so" % (n, BUILD, n, n)
        for n in ("ratelimit", "cache")]


def say(what, value, unit=""):
    print("%-52s %10s %s" % (what, value, unit), flush=True)


def with_gateway(work, name, use, era="sse", **settings):
    """use(gateway, server) in front of one server."""
    folder = work / name
    folder.mkdir()
    server = McpServer("a", era)
    gateway = Gateway(folder, [server], streams=100000, **settings)
    gateway.start()
    try:
        return use(gateway, server)
    finally:
        gateway.leave()
        gateway.stop()
        server.close()


def open_streams(gateway, server, number):
    for count in range(number):
        gateway.connect().request("GET", "/mcp", LISTEN)
        if count % 500 == 499:
            print("  %d of %d streams" % (count + 1, number), file=sys.stderr)
    wait_until(lambda: len(server.open_streams()) == number, "the streams")


def measure_streams(gateway, server):
    for _ in range(3):
        warm = [gateway.connect().request("GET", "/mcp", LISTEN) for _ in range(100)]
        for one in warm:
            one.connection.close()
        wait_until(lambda: not server.open_streams(), "the end of the first streams")
    before = gateway.pss_kib(), gateway.descriptor_count(), gateway.thread_count()
    open_streams(gateway, server, options.streams)
    return (*((b - a) / options.streams
              for a, b in zip(before[:2], (gateway.pss_kib(), gateway.descriptor_count()))),
            before[2], gateway.thread_count())


def report_streams(work, name, **settings):
    memory, files, before, after = with_gateway(work, name, measure_streams, **settings)
    say("memory of an idle stream, %s" % name, "%.1f" % memory, "KiB")
    say("descriptors of a stream, %s" % name, "%.2f" % files)
    say("threads without streams, and with them, %s" % name, "%d, %d" % (before, after))


def measure_redis(gateway, server, redis, threads):
    """All threads of a child ask at once, for as long as connections are added."""
    body = json.dumps(call("get_x")).encode()
    head = [("Content-Type", "application/json"), ("Accept", "application/json, text/event-stream")]

    def ask():
        with gateway.connect() as client:
            for _ in range(100):
                client.request("POST", "/mcp", head, body).finish()

    askers = [threading.Thread(target=ask) for _ in range(4 * threads)]
    for one in askers:
        one.start()
    most = 0
    while any(one.is_alive() for one in askers):
        most = max(most, int(redis.ask("INFO", "clients").decode().split("connected_clients:")[1]
                             .split()[0]) - 1)
    return most


def report_redis(work):
    redis = Redis()
    lines = ["MCPRateLimitMessages 1000000/60s", "MCPRateLimitStreams 100000",
             "MCPCacheTool get_* 300s"]
    stores = ['MCPRateLimitStore "redis://127.0.0.1:%d/1"' % redis.port,
              'MCPCacheStore "redis://127.0.0.1:%d/2"' % redis.port]
    most = with_gateway(
        work, "redis", lambda gateway, server: measure_redis(gateway, server, redis, 16),
        era="stateless", location=lines, server=OURS + stores)
    say("connections to Redis, a child of 16 threads, busy", most)
    redis.close()


def report_base(work):
    def measure(gateway, _):
        child = gateway.children()[0]
        return gateway.pss_kib(), process.descriptors(child), gateway.thread_count()

    memory, files, threads = with_gateway(work, "base", measure, threads=64, server=OURS)
    say("memory of a child of 64 threads, all modules, idle", "%.1f" % (memory / 1024), "MiB")
    say("descriptors of it", files)
    say("threads of it", threads)


def main():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
    work = pathlib.Path(tempfile.mkdtemp(prefix="mcp-sizes-"))
    work.chmod(0o755)
    certs.set_dir(work)
    try:
        report_base(work)
        report_streams(work, "HTTP")
        if load_lines(["ssl"]):
            report_streams(work, "TLS", tls=True)
        report_redis(work)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
