# SPDX-License-Identifier: Apache-2.0
"""A small MCP server in memory, of any of the three generations, for many connections at once.

It runs on one asyncio loop in a thread of its own. Tools: whoami, echo, hold (answers when the test
calls release()), progress (SSE with notifications), ask (asks the client back), fail (HTTP 500).
"""
import asyncio
import json
import threading
import time
import uuid
from urllib.parse import parse_qs, urlsplit

from .wait import DEADLINE, wait_until

VERSION = "2025-11-25"


class Seen:
    """A request as it came."""

    def __init__(self, method, target, headers, body, connection):
        self.method, self.target, self.headers, self.body = method, target, headers, body
        self.connection = connection

    def header(self, name):
        found = [value for key, value in self.headers if key.lower() == name.lower()]
        return found[0] if found else None

    def message(self):
        return json.loads(self.body) if self.body else None


class Stream:
    """A standing stream that is open, or was."""

    def __init__(self, session, request, writer):
        self.session, self.request, self.writer = session, request, writer
        self.closed_at = None


class McpServer:
    """era: "sessions", "sse" or "stateless". endpoint: what the endpoint event says ({id})."""

    tls = False

    def __init__(self, name="a", era="sessions", endpoint="/message?sessionId={id}", prefix=""):
        self.name, self.era, self.endpoint, self.prefix = name, era, endpoint, prefix
        self.sessions = {}  # id -> list of open writers
        self.requests = []
        self.streams = []
        self.replies = []  # what clients POSTed without a method
        self.waiting = 0  # calls of "hold" not yet answered
        self.is_healthy = True  # what GET /health says
        self.one_stream = False  # 409 for a second standing stream of a session, as SDKs answer
        self.connections = 0
        self.make_id = lambda: uuid.uuid4().hex
        # How it behaves otherwise than it should.
        self.opening_waits = False  # until release()
        self.holds_everything = False  # requests in a session, until release()
        self.refuses_to_open = False
        self.forgets_at_once = False  # no session that it opens is known
        self.opens_by_stream = False
        self.instructions = None  # what initialize says
        self.more_headers = []  # of each answer without a stream
        self.answers_with_session = False  # as some do with every answer
        self.has_no_streams = False
        self.tools = None  # the answer to tools/list
        self.lists_by_stream = False
        self._release = None
        self._writers = set()
        self._loop = asyncio.new_event_loop()
        self._server = None
        self.port = 0
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.listen()

    # What a test does with it

    @property
    def url(self):
        return "http://127.0.0.1:%d%s" % (self.port, self.prefix)

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(DEADLINE)

    def listen(self):
        """Listen, again on the same port after kill()."""
        self.run(self._listen())
        return self

    def restart(self, forget=True):
        """As if the process died and another one was there at once; with forget, it knows nothing."""

        async def again():
            writers = list(self._writers)
            if forget:
                self.sessions.clear()
            for writer in writers:
                writer.transport.abort()

        self.run(again())

    def kill(self, forget=True):
        """As if the process died; with forget, its sessions are gone too."""
        self.run(self._kill())
        if forget:
            self.sessions.clear()

    def close(self):
        self.run(self._kill())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def push(self, session, message, ident=None):
        """Send a message on every standing stream of a session."""
        self.push_bytes(session, sse(message, ident))

    def push_bytes(self, session, data):
        async def write():
            for stream in self.open_streams(session):
                stream.writer.write(chunk(data))

        self.run(write())

    def end_streams(self, session, clean=True):
        """End them with the last chunk, or break them off."""

        async def end():
            for stream in self.open_streams(session):
                if clean:
                    stream.writer.write(b"0\r\n\r\n")
                    stream.closed_at = time.monotonic()
                else:
                    stream.writer.transport.abort()

        self.run(end())

    def connected(self):
        """How many connections are open."""
        return len(self._writers)

    def open_streams(self, session=None):
        return [
            s for s in list(self.streams) if s.closed_at is None and session in (None, s.session)
        ]

    def wait_streams(self, count):
        wait_until(
            lambda: len(self.open_streams()) == count,
            "%d open streams at server %s" % (count, self.name),
        )

    def wait_waiting(self, count):
        wait_until(lambda: self.waiting == count, "%d calls to wait at %s" % (count, self.name))

    def release(self):
        """Answer every call of "hold"."""
        self._loop.call_soon_threadsafe(lambda: self._release.set())

    # The server

    async def _listen(self):
        self._release = asyncio.Event()
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, backlog=4096, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _kill(self):
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        while self._writers:
            await asyncio.sleep(0.001)

    async def _serve(self, reader, writer):
        self._writers.add(writer)
        self.connections += 1
        number = self.connections
        try:
            while await self._one(reader, writer, number):
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            for stream in self.streams:
                if stream.writer is writer and stream.closed_at is None:
                    stream.closed_at = time.monotonic()
            writer.close()

    async def _one(self, reader, writer, number):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ", 2)
        headers = [tuple(p.strip() for p in line.split(":", 1)) for line in head[1:] if line]
        seen = Seen(method, target, headers, b"", number)
        if seen.header("Transfer-Encoding"):
            seen.body = await _chunked(reader)
        else:
            seen.body = await reader.readexactly(int(seen.header("Content-Length") or 0))
        self.requests.append(seen)
        if self.prefix and not target.startswith(self.prefix):
            return _reply(writer, 404, {"wrong": "prefix"})
        return await self._route(seen, reader, writer)

    async def _route(self, seen, reader, writer):
        if seen.target == "/health":
            return _reply(writer, 200 if self.is_healthy else 503, {})
        if seen.method == "GET" and (self.era == "stateless" or self.has_no_streams):
            return _reply(writer, 405, error(None, -32000, "no standing streams"))
        if seen.method == "GET":
            return await self._standing(seen, reader, writer)
        if seen.method == "DELETE":
            known = self.sessions.pop(seen.header("Mcp-Session-Id"), None)
            return _reply(writer, 204 if known is not None else 404, None)
        if seen.method == "HEAD" and self._session_of(seen) not in self.sessions:
            return _reply(writer, 404, None)
        if seen.method != "POST":
            return _reply(writer, 200, {})
        return await self._post(seen, reader, writer)

    def _session_of(self, seen):
        if seen.header("Mcp-Session-Id"):
            return seen.header("Mcp-Session-Id")
        parts = urlsplit(seen.target)
        query = parse_qs(parts.query)
        for name in ("sessionId", "session_id"):
            if name in query:
                return query[name][0]
        last = parts.path.rsplit("/", 1)[-1]
        return last if self.era == "sse" and last != "message" else None

    async def _standing(self, seen, reader, writer):
        session = self._session_of(seen) if self.era == "sessions" else self.make_id()
        if self.era == "sessions" and session not in self.sessions:
            return _reply(writer, 404 if session else 400, error(None, -32001, "no such session"))
        if self.one_stream and self.open_streams(session):
            return _reply(writer, 409, error(None, -32000, "only one stream"))
        self.sessions.setdefault(session, [])
        _stream_head(writer)
        if self.era == "sse":
            where = self.endpoint.format(id=session, port=self.port)
            writer.write(chunk(b"event: endpoint\ndata: %s\n\n" % where.encode()))
        await self._hold_stream(Stream(session, seen, writer), reader)
        return False

    async def _hold_stream(self, stream, reader):
        """The stream is open until the peer goes; a push or end_streams() writes on it."""
        self.streams.append(stream)
        await reader.read(1)
        stream.closed_at = stream.closed_at or time.monotonic()

    async def _post(self, seen, reader, writer):
        message = seen.message()
        if isinstance(message, list):
            return _reply(writer, 200, [result(m["id"], {}) for m in message if "id" in m])
        method = message.get("method")
        if self.era == "sessions" and method == "initialize":
            return await self._open(message, reader, writer)
        session = self._session_of(seen)
        if self.era != "stateless" and session not in self.sessions:
            return _reply(writer, 404, error(message.get("id"), -32001, "no such session"))
        if method is None or "id" not in message:
            self.replies += [message] if method is None else []
            return _reply(writer, 202, None, self.more_headers)
        if method == "subscriptions/listen":
            _stream_head(writer)
            writer.write(chunk(sse({"jsonrpc": "2.0", "method": "notifications/subscribed"})))
            await self._hold_stream(Stream(None, seen, writer), reader)
            return False
        if self.holds_everything:
            await self._wait_release(reader)
        return await self._answer(session, message, reader, writer)

    async def _open(self, message, reader, writer):
        """A new session."""
        if self.opening_waits:
            await self._wait_release(reader)
        if self.refuses_to_open:
            return _reply(writer, 200, error(message["id"], -32602, "made to refuse"))
        session = self.make_id()
        if not self.forgets_at_once:
            self.sessions[session] = []
        answer = result(
            message["id"],
            {
                "protocolVersion": VERSION,
                "capabilities": {},
                "serverInfo": {"name": self.name, "version": "1"},
            },
        )
        if self.instructions:
            answer["result"]["instructions"] = self.instructions
        if self.opens_by_stream:
            _stream_head(writer, [("Mcp-Session-Id", session)])
            note = {"jsonrpc": "2.0", "method": "notifications/message", "params": {}}
            writer.write(chunk(sse(note)) + chunk(sse(answer)) + b"0\r\n\r\n")
            return True
        return _reply(writer, 200, answer, [("Mcp-Session-Id", session)])

    async def _answer(self, session, message, reader, writer):
        if self.era == "sse":
            for stream in self.open_streams(session):
                stream.writer.write(chunk(sse(result(message["id"], self._simple(message)))))
            return _reply(writer, 202, None)
        if message["method"] == "tools/list" and self.tools:
            answer = result(message["id"], {"tools": self.tools})
            if self.lists_by_stream:
                _stream_head(writer)
                writer.write(chunk(sse(answer)) + b"0\r\n\r\n")
                return True
            return _reply(writer, 200, answer)
        if message["method"] != "tools/call":
            return _reply(writer, 200, result(message["id"], {"server": self.name}))
        tool = message["params"]["name"]
        if tool == "hold":
            await self._wait_release(reader)
        elif tool == "progress":
            return self._progress(message, writer)
        elif tool == "ask":
            return await self._ask(message, writer)
        elif tool == "fail":
            return _reply(writer, 500, error(message["id"], -32603, "made to fail"))
        headers = [("Mcp-Session-Id", session)] if self.answers_with_session else []
        return _reply(writer, 200, result(message["id"], self._simple(message)), headers)

    def _simple(self, message):
        return {"server": self.name, "echo": (message.get("params") or {}).get("arguments")}

    async def _wait_release(self, reader):
        """Until release(); ConnectionError when the peer goes first."""
        self.waiting += 1
        released, gone = (asyncio.ensure_future(x) for x in (self._release.wait(), reader.read(1)))
        try:
            await asyncio.wait((released, gone), return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                raise ConnectionResetError()
        finally:
            self.waiting -= 1
            released.cancel()
            gone.cancel()
            await asyncio.gather(released, gone, return_exceptions=True)

    def _progress(self, message, writer):
        _stream_head(writer)
        for number in range(message["params"]["arguments"].get("count", 3)):
            writer.write(
                chunk(
                    sse(
                        {
                            "jsonrpc": "2.0",
                            "method": "notifications/progress",
                            "params": {"progressToken": 1, "progress": number},
                        }
                    )
                )
            )
        writer.write(chunk(sse(result(message["id"], {"server": self.name}))) + b"0\r\n\r\n")
        return True

    async def _ask(self, message, writer):
        """A request from server to client on the call's own stream; ends when it is answered."""
        _stream_head(writer)
        writer.write(
            chunk(
                sse(
                    {
                        "jsonrpc": "2.0",
                        "id": "ask-1",
                        "method": "sampling/createMessage",
                        "params": {},
                    }
                )
            )
        )
        while not any(reply.get("id") == "ask-1" for reply in self.replies):
            if writer.is_closing():
                raise ConnectionResetError()
            await asyncio.sleep(0.005)
        writer.write(
            chunk(sse(result(message["id"], {"answered": self.replies[-1]["result"]})))
            + b"0\r\n\r\n"
        )
        return True


async def _chunked(reader):
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass
    return body


def _reply(writer, status, message, headers=()):
    body = b"" if message is None else json.dumps(message).encode()
    lines = ["HTTP/1.1 %d Status" % status] + ["%s: %s" % pair for pair in headers]
    lines += ["Content-Type: application/json"] if body else []
    lines += [] if status == 204 else ["Content-Length: %d" % len(body)]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + body)
    return True


def _stream_head(writer, headers=()):
    lines = ["%s: %s\r\n" % pair for pair in headers]
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
        b"X-Accel-Buffering: no\r\nTransfer-Encoding: chunked\r\n%s\r\n" % "".join(lines).encode()
    )


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def sse(message, ident=None):
    """One SSE event."""
    prefix = b"" if ident is None else b"id: %s\n" % str(ident).encode()
    return prefix + b"event: message\ndata: " + json.dumps(message).encode() + b"\n\n"


def result(ident, value):
    return {"jsonrpc": "2.0", "id": ident, "result": value}


def error(ident, code, text):
    return {"jsonrpc": "2.0", "id": ident, "error": {"code": code, "message": text}}
