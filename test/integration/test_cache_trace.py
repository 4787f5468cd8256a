# SPDX-License-Identifier: Apache-2.0
"""How many of the hits that an oracle would have, on calls of agents as the SDK's client sent them:
samples/agent_trace.jsonl, recorded by test/real/record_trace.mjs. In the replay no id comes twice and
members come in any order, as with clients that write them so. Beside it nginx, keyed on the body."""
import json
import os
import pathlib
import random
import shutil
import subprocess

import pytest

from harness import gateway as gateways
from harness.caching import Tool, status
from harness.client import ACCEPT, JSON, Connection
from harness.wait import wait_until

TRACE = pathlib.Path(__file__).parent / "samples" / "agent_trace.jsonl"
READS = ("list_files", "search", "read_file")
CACHE = (*("MCPCacheTool %s 1h" % tool for tool in READS), "MCPCacheKey %{HTTP:X-User}")

NGINX = """
worker_processes 1; pid nginx.pid; error_log nginx.log; daemon off; %(user)s
events {}
http {
    access_log off; proxy_cache_path store keys_zone=answers:10m; proxy_temp_path temp;
    client_body_temp_path body; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
    server {
        listen 127.0.0.1:%(port)d;
        location / {
            proxy_pass %(backend)s; proxy_cache answers; proxy_cache_methods POST;
            proxy_cache_key "$http_x_user $request_body"; proxy_cache_valid 200 1h;
            add_header X-Cache $upstream_cache_status;
        }
    }
}
"""


class Nginx:
    def __init__(self, folder, backend):
        folder.mkdir()
        self.address = ("127.0.0.1", gateways.free_port())
        (folder / "nginx.conf").write_text(NGINX % {
            "port": self.address[1], "backend": backend.url,
            "user": "" if os.geteuid() else "user root;"})
        self.process = subprocess.Popen(
            ["nginx", "-p", str(folder), "-c", "nginx.conf", "-e", "nginx.log"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self._answers, "nginx to listen")

    def _answers(self):
        try:
            Connection(self.address).close()
        except OSError:
            return False
        return True

    def close(self):
        self.process.terminate()
        self.process.wait(10)


def calls():
    with open(TRACE, encoding="ascii") as lines:
        return [json.loads(line) for line in lines]


def identity(message):
    """What an oracle goes by: the tool and its arguments, as values."""
    return json.dumps([message["params"]["name"], message["params"]["arguments"]], sort_keys=True)


def shuffled(value, rng):
    if isinstance(value, dict):
        items = list(value.items())
        rng.shuffle(items)
        return {key: shuffled(item, rng) for key, item in items}
    return value


def replay(address, marks):
    """Send the trace; how many answers marks() takes for hits, and how many an oracle would have."""
    rng, known, oracle, hits = random.Random(1), set(), 0, 0
    with Connection(address) as client:
        for number, entry in enumerate(calls()):
            message = {**json.loads(entry["body"]), "id": "replay-%d" % number}
            key = entry["agent"], identity(message)
            if message["params"]["name"] in READS and not entry["isError"]:
                oracle += key in known
                known.add(key)
            answer = client.request("POST", "/mcp", [ACCEPT, JSON, ("X-User", entry["agent"])],
                                    json.dumps(shuffled(message, rng)).encode()).finish()
            assert answer.message()["id"] == message["id"]
            assert len(answer.message()["result"]["text"]) == entry["size"]
            hits += marks(answer)
    return hits, oracle


def recorded_server():
    """Answers each call as long as it was answered when the trace was recorded."""
    known = {identity(json.loads(entry["body"])): entry for entry in calls()}

    def answer(peer, message):
        entry = known[identity(message)]
        peer.answer(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {
            "text": "x" * entry["size"], "isError": entry["isError"]}}).encode())
    return Tool(answer)


def test_at_least_95_percent_of_an_oracles_hits(caching, backend):
    tool = recorded_server()
    hits, oracle = replay(caching(backend(tool), cache=CACHE).address,
                          lambda answer: status(answer) == "hit")
    print("%d hits of %d" % (hits, oracle))
    assert oracle > len(calls()) / 3
    assert 0.95 * oracle <= hits <= oracle
    assert len(tool.calls) == len(calls()) - hits


@pytest.mark.skipif(not shutil.which("nginx"), reason="nginx (Debian: nginx-light)")
def test_a_cache_that_is_keyed_on_the_body_has_no_hit(stage, keep, backend):
    nginx = keep(Nginx(stage.directory / "nginx", backend(recorded_server())))
    hits, _ = replay(nginx.address, lambda answer: answer.header("X-Cache") == "HIT")
    assert hits == 0
    with Connection(nginx.address) as client:
        bodies = [calls()[0]["body"].encode()] * 2
        again = [client.request("POST", "/mcp", [ACCEPT, JSON], body).finish() for body in bodies]
    assert again[1].header("X-Cache") == "HIT", "the same bytes would be one"
