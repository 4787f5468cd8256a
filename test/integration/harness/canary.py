# SPDX-License-Identifier: Apache-2.0
"""Many users at once, each of whose answers holds a secret of his own; every answer is checked.

A worker is a process with a few connections. It reports how many answers it had, and the first one
that was not its user's, or not its request's.
"""
import multiprocessing
import random
import re
import socket

USERS = 40
CALLS = 12      # different arguments of one tool
TOOLS = ("get_a", "get_b")


def secret(user, tool, number):
    return "secret-of-%s-%s-%d-end" % (user, tool, number)


def answer(peer):
    """The backend's script: the secret of whoever asks."""
    while True:
        request = peer.read_request()
        tool = re.search(rb'"name":"(\w+)"', request.body)[1].decode()
        number = int(re.search(rb'"x":(\d+)', request.body)[1])
        ident = re.search(rb'"id":(\d+)', request.body)[1].decode()
        peer.answer(('{"jsonrpc":"2.0","id":%s,"result":{"text":"%s"}}' % (
            ident, secret(request.header("X-User"), tool, number))).encode())


def _request(rng, ident):
    user, tool, number = "u%d" % rng.randrange(USERS), rng.choice(TOOLS), rng.randrange(CALLS)
    members = ['"name":"%s"' % tool, '"arguments":{%s}' % ",".join(
        rng.sample(['"x":%d' % number, '"y":[1,2]', '"z":"a"'], 3))]
    rng.shuffle(members)
    body = '{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{%s}}' % (
        ident, ",".join(members))
    head = ("POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            "Accept: application/json\r\nX-User: %s\r\nContent-Length: %d\r\n\r\n")
    return (head % (user, len(body)) + body).encode(), secret(user, tool, number)


class _Client:
    def __init__(self, address, rng):
        self.address, self.rng, self.socket, self.buffer = address, rng, None, b""

    def one(self, ident):
        """Send one and read the answer; "ok", "hit", "broken", or what was wrong with it."""
        data, wanted = _request(self.rng, ident)
        if self.socket is None:
            self.socket, self.buffer = socket.create_connection(self.address, 30), b""
        cut = self.rng.random()
        if cut < 0.002:  # leave in the middle of the request, or without reading the answer
            self.socket.sendall(data[:self.rng.randrange(len(data))] if cut < 0.001 else data)
            self.drop()
            return "broken"
        self.socket.sendall(data)
        head, body = self._read()
        if not head.startswith(b"HTTP/1.1 200"):
            return "refused"
        if wanted.encode() not in body or b'"id":%d,' % ident not in body.replace(b" ", b"") \
                or body.count(b"secret-of-") != 1:
            return "WRONG: %r for %r" % (body, data)
        return "hit" if b"mcp; hit" in head else "ok"

    def _read(self):
        while b"\r\n\r\n" not in self.buffer:
            self._fill()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        size = re.search(rb"(?i)content-length: *(\d+)", head)
        size = int(size[1]) if size else 0
        while len(self.buffer) < size:
            self._fill()
        body, self.buffer = self.buffer[:size], self.buffer[size:]
        if re.search(rb"(?i)connection: *close", head):
            self.drop()
        return head, body

    def _fill(self):
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("closed")
        self.buffer += data

    def drop(self):
        if self.socket:
            self.socket.close()
        self.socket = None


def _work(address, seed, count, results):
    rng = random.Random(seed)
    clients = [_Client(address, rng) for _ in range(4)]
    tally = {"hit": 0, "ok": 0, "broken": 0, "refused": 0, "wrong": []}
    for number in range(count):
        client = rng.choice(clients)
        try:
            said = client.one(seed * 10000000 + number)
        except OSError:
            client.drop()
            said = "broken"
        if said.startswith("WRONG"):
            tally["wrong"].append(said)
            break
        tally[said] += 1
    results.put(tally)


class Canaries:
    """Start workers; finish() returns what all of them counted."""

    def __init__(self, address, count, workers=4):
        context = multiprocessing.get_context("fork")
        self.results = context.Queue()
        self.workers = [context.Process(target=_work, args=(
            address, number + 1, count // workers, self.results)) for number in range(workers)]
        for worker in self.workers:
            worker.start()

    @property
    def running(self):
        return any(worker.is_alive() for worker in self.workers)

    def finish(self):
        tallies = [self.results.get() for _ in self.workers]
        for worker in self.workers:
            worker.join()
        return {key: sum((t[key] for t in tallies), type(tallies[0][key])()) for key in tallies[0]}
