# SPDX-License-Identifier: Apache-2.0
"""A gateway with mod_mcp_cache, alone or beside mod_mcp_proxy, and a backend that counts calls."""
import json
import pathlib
import subprocess

from . import gateway as gateways
from .client import ACCEPT, JSON, basic
from .wait import wait_until

MODULE = gateways.BUILD / "mod_mcp_cache" / ".libs" / "mod_mcp_cache.so"
AUTH = ('AuthType Basic', 'AuthName "test"', 'AuthUserFile users', 'Require valid-user')
STATELESS = "2026-07-28"


class CachingGateway(gateways.Gateway):
    """alone: without mod_mcp_proxy, in front of mod_proxy_http. cache: lines of the location."""

    def __init__(self, directory, backends=(), *, alone=False, cache=("MCPCacheTool * 60s",),
                 location=(), server=(), store=None, timeout="5s", **options):
        lines = ['LoadModule mcp_cache_module "%s"' % MODULE]
        # On a busy machine the default of 25ms is now and then too short, which is a miss.
        lines += ['MCPCacheStore %s' % store, "MCPCacheTimeout " + timeout] if store else []
        lines += ['<Location "/forget">', '  SetHandler mcp-cache', '</Location>']
        options.setdefault("mcp", not alone)
        super().__init__(directory, backends, location=[*cache, *location],
                         server=[*lines, *server], **options)
        self.alone = alone
        if alone:
            self.lbmethod, self.streams = "byrequests", 0

    def config(self):
        lines = super().config().splitlines()
        if self.alone:
            lines = [line for line in lines if "mcp_proxy_module" not in line
                     and not line.strip().startswith("MCPProxy")]
        return "\n".join(lines) + "\n"

    def forget(self, query=""):
        return self.request("DELETE", "/forget" + query)


class CacheRedis:
    """A redis-server of our own on a unix socket and a port, nothing on disk."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(exist_ok=True)
        self.directory.chmod(0o777)
        self.socket = self.directory / "redis.sock"
        self.port = gateways.free_port()
        self.process = None
        self.start()

    @property
    def store(self):
        return '"redis+unix:%s?db=5"' % self.socket

    def start(self):
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket",
             str(self.socket), "--unixsocketperm", "777", "--save", "", "--appendonly", "no",
             "--dir", str(self.directory), "--logfile", str(self.directory / "redis.log")],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: self.command("PING") == "PONG", "redis-server to answer")
        return self

    def command(self, *arguments):
        done = subprocess.run(["redis-cli", "-s", str(self.socket), "-n", "5", *arguments],
                              capture_output=True, text=True, check=False, errors="replace")
        return done.stdout.strip()

    def keys(self, pattern="*"):
        return sorted(self.command("--scan", "--pattern", pattern).split())

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def close(self):
        self.kill()


def post(gateway, message, *, user=None, headers=(), path="/mcp", connection=None):
    """POST a message (or bytes), read all of the answer."""
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    mine = [ACCEPT, JSON, *headers]
    names = [name.lower() for name, _ in headers]
    mine = [pair for pair in mine[:2] if pair[0].lower() not in names] + list(headers)
    if user:
        mine.append(basic(user, gateways.USERS[user]))
    if connection:
        return connection.request("POST", path, mine, body).finish()
    return gateway.request("POST", path, mine, body)


def status(answer):
    """What became of it, by Cache-Status."""
    said = answer.header("Cache-Status", "")
    if said.startswith("mcp; hit"):
        return "hit"
    return {"mcp; fwd=miss; stored": "miss", "mcp; fwd=bypass": "bypass"}.get(said, said)



class Tool:
    """A script for a backend: answer(peer, message) for each request, and all messages kept."""

    def __init__(self, answer):
        self.answer, self.calls = answer, []

    def __call__(self, peer):
        while True:
            request = peer.read_request()
            message = json.loads(request.body) if request.body else {}
            self.calls.append(message)
            self.answer(peer, message)


def as_json(peer, message, result=None, **options):
    """The plain answer: the result, with the request's id."""
    value = {"n": 1} if result is None else result
    peer.answer(json.dumps({"jsonrpc": "2.0", "id": message.get("id"), "result": value}).encode(),
                **options)


def as_stream(peer, *messages):
    """An event stream of these messages, then its end."""
    peer.begin_stream()
    for message in messages:
        peer.chunk(b"event: message\ndata: " + json.dumps(message).encode() + b"\n\n")
    peer.end_chunks()
