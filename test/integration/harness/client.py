# SPDX-License-Identifier: Apache-2.0
"""A raw HTTP/1.1 client: every byte is the test's, and the end of a body is told from a break."""
import base64
import ctypes
import json
import re
import socket
import ssl
import struct
import time

from .wait import DEADLINE

ACCEPT = ("Accept", "application/json, text/event-stream")
JSON = ("Content-Type", "application/json")
SO_ATTACH_FILTER = 26


class Broken(AssertionError):
    """The connection ended, but the response had not."""


class Connection:
    """One client connection. Use as a context manager, or close() it."""

    def __init__(self, address, *, host="localhost", tls=None, timeout=None, receive_buffer=None):
        self.host = host
        self.timeout = DEADLINE if timeout is None else timeout
        self.buffer = b""
        self.eof = False
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(self.timeout)
        self.socket.connect(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def close(self):
        self.socket.close()

    def reset(self):
        """Close with a RST instead of a FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def fall_silent(self):
        """From now on this socket's kernel takes no packet, as a machine that was unplugged."""
        nothing = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
        program = struct.pack("HL", 1, ctypes.addressof(nothing))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)

    def shutdown_write(self):
        self.socket.shutdown(socket.SHUT_WR)

    def send(self, data):
        self.socket.settimeout(self.timeout)
        self.socket.sendall(data)
        return self

    def head(self, method, target, headers=(), body=None):
        """The bytes of a request head, with Host and, for a body, Content-Length."""
        headers = list(headers.items() if isinstance(headers, dict) else headers)
        names = {name.lower() for name, _ in headers}
        if "host" not in names:
            headers.insert(0, ("Host", self.host))
        if body is not None and not names & {"content-length", "transfer-encoding"}:
            headers.append(("Content-Length", str(len(body))))
        lines = ["%s %s HTTP/1.1" % (method, target)]
        lines += ["%s: %s" % (name, value) for name, value in headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def request(self, method, target, headers=(), body=None):
        """Send a request and read the head of its response."""
        if isinstance(body, (dict, list)):
            body = json.dumps(body).encode()
        self.send(self.head(method, target, headers, body) + (body or b""))
        return self.response(is_head=method == "HEAD")

    def response(self, is_head=False):
        """Read a response head (skipping 1xx, which it keeps)."""
        interim = []
        while True:
            self.fill_until(lambda: b"\r\n\r\n" in self.buffer)
            if b"\r\n\r\n" not in self.buffer:
                raise EOFError("no response; got %r" % self.buffer[:200])
            head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
            response = Response(self, head, is_head)
            if response.status >= 200:
                response.interim = interim
                return response
            interim.append(response.status)

    def fill(self, deadline=None):
        """Read once what is there; False at the end of the connection."""
        left = self.timeout if deadline is None else max(0.001, deadline - time.monotonic())
        self.socket.settimeout(left)
        try:
            data = self.socket.recv(65536)
        except (ConnectionError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise AssertionError("nothing came in time; have %r" % self.buffer[-200:]) from None
            data = b""
        self.buffer += data
        self.eof = not data
        return bool(data)

    def fill_until(self, condition):
        deadline = time.monotonic() + self.timeout
        while not condition() and self.fill(deadline):
            pass

    def fill_now(self):
        """Read what is there without waiting; False if nothing is."""
        if self.eof:
            return False
        self.socket.settimeout(0)
        try:
            data = self.socket.recv(65536)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            data = b""
        self.buffer += data
        self.eof = not data
        return True

    def is_closed_by_server(self):
        """Whether the end of the connection has come (what came before it is kept)."""
        self.fill_now()
        return self.eof


class Response:
    """A response whose body is read as it comes. ended: None, "complete" or "broken"."""

    def __init__(self, connection, head, is_head):
        lines = head.decode("latin-1").split("\r\n")
        version, status, *reason = lines[0].split(" ", 2)
        self.connection, self.version, self.status = connection, version, int(status)
        self.reason = reason[0] if reason else ""
        self.headers = [tuple(part.strip() for part in line.split(":", 1)) for line in lines[1:]]
        self.body = b""
        self.interim = []
        self.ended = None
        self._taken = 0
        self._left = 0
        if is_head or self.status in (204, 304) or self.status < 200:
            self._kind, self.ended = "none", "complete"
        elif "chunked" in self.header("Transfer-Encoding", "").lower():
            self._kind = "chunked"
        elif self.header("Content-Length") is not None:
            self._kind, self._left = "length", int(self.header("Content-Length"))
            self._decode()
        else:
            self._kind = "close"

    def header(self, name, default=None):
        """The value of a header that stands once."""
        values = self.header_all(name)
        assert len(values) < 2, "%s stands %d times" % (name, len(values))
        return values[0] if values else default

    def header_all(self, name):
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def _decode_length(self):
        data = self.connection.buffer[: self._left]
        self.connection.buffer = self.connection.buffer[len(data) :]
        self.body += data
        self._left -= len(data)
        if not self._left:
            self.ended = "complete"

    def _decode_chunked(self):
        """One step; False: needs more bytes."""
        buffer = self.connection.buffer
        if self._left > 2:
            data = buffer[: self._left - 2]
            self.body += data
            self._left -= len(data)
            self.connection.buffer = buffer[len(data) :]
            return bool(data)
        if self._left:
            if len(buffer) < 2:
                return False
            assert buffer[:2] == b"\r\n", "no end of a chunk: %r" % buffer[:20]
            self.connection.buffer, self._left = buffer[2:], 0
            return True
        line, found, rest = buffer.partition(b"\r\n")
        if not found:
            return False
        size = int(line.split(b";")[0], 16)
        if size:
            self.connection.buffer, self._left = rest, size + 2
            return True
        if not rest.startswith(b"\r\n"):
            return False
        self.connection.buffer = rest[2:]
        self.ended = "complete"
        return False

    def _decode(self):
        if self.ended:
            return
        if self._kind == "length":
            self._decode_length()
        elif self._kind == "close":
            self.body += self.connection.buffer
            self.connection.buffer = b""
        else:
            while self._decode_chunked():
                pass
        if not self.ended and self.connection.eof:
            self.ended = "complete" if self._kind == "close" else "broken"

    def poll(self):
        """Take what is there without waiting; returns self."""
        while not self.ended and self.connection.fill_now():
            self._decode()
        return self

    def wait(self, condition, what, timeout=None):
        """Read until condition(); AssertionError when the body ends or the deadline comes first."""
        deadline = time.monotonic() + (self.connection.timeout if timeout is None else timeout)
        self._decode()
        while not condition():
            if self.ended:
                raise Broken(
                    "ended (%s) before %s; body ends %r" % (self.ended, what, self.body[-200:])
                )
            self.connection.fill(deadline)
            self._decode()

    def wait_end(self, timeout=None):
        """Read to the end; returns "complete" or "broken"."""
        self.wait(lambda: self.ended, "its end", timeout)
        return self.ended

    def finish(self):
        """Read to the proper end, and return self."""
        if self.wait_end() != "complete":
            raise Broken("response broken off after %r" % self.body[-200:])
        return self

    def read_until(self, marker):
        """Everything not yet taken up to the marker, the marker included."""
        self.wait(lambda: marker in self.body[self._taken :], repr(marker))
        end = self.body.index(marker, self._taken) + len(marker)
        data, self._taken = self.body[self._taken : end], end
        return data

    def next_event(self):
        """The next SSE event that is no comment, as a dict of its fields ("data" lines joined)."""
        while True:
            event = parse_event(self.read_until(b"\n\n"))
            if event:
                return event

    def json(self):
        return json.loads(self.finish().body)

    def message(self):
        """The JSON-RPC message in a JSON answer, or the last one of an event stream."""
        if "event-stream" not in self.header("Content-Type", ""):
            return self.json()
        blocks = self.finish().body.replace(b"\r\n", b"\n").split(b"\n\n")
        return [
            json.loads(event["data"]) for event in map(parse_event, blocks) if event.get("data")
        ][-1]


def parse_event(block):
    event = {}
    for line in block.decode().splitlines():
        name, _, value = line.partition(":")
        if name:
            value = value[1:] if value.startswith(" ") else value
            event[name] = event[name] + "\n" + value if name in event else value
    return event


def rpc(method, params=None, ident=1):
    """A JSON-RPC request; a notification with ident=None."""
    message = {"jsonrpc": "2.0", "method": method}
    if ident is not None:
        message["id"] = ident
    if params is not None:
        message["params"] = params
    return message


def call(tool, ident=1, **arguments):
    return rpc("tools/call", {"name": tool, "arguments": arguments}, ident)


def open_sse(gw, path="/sse", headers=()):
    """A standing stream of HTTP+SSE, and the URL it names."""
    stream = gw.connect().request("GET", path, [("Accept", "text/event-stream"), *headers])
    assert stream.status == 200
    event = stream.next_event()
    assert event["event"] == "endpoint"
    return stream, event["data"]


def post_sse(gw, url, ident=1):
    """A call to the URL that open_sse() gave; its answer comes in the stream."""
    target = re.sub(r"^https?://[^/]+", "", url)
    return gw.request("POST", target, [ACCEPT, JSON], json.dumps(call("whoami", ident)).encode())


def basic(user, word):
    return (
        "Authorization",
        "Basic " + base64.b64encode(("%s:%s" % (user, word)).encode()).decode(),
    )


class Mcp:
    """An MCP client of the sessions era: each request on a connection of its own."""

    def __init__(self, gateway, path="/mcp", headers=()):
        self.gateway, self.path, self.extra = gateway, path, list(headers)
        self.session = None

    def headers(self):
        mine = [ACCEPT, JSON, *self.extra]
        return mine + ([("Mcp-Session-Id", self.session)] if self.session else [])

    def post(self, message, headers=()):
        """POST and read the whole answer."""
        return self.gateway.request(
            "POST", self.path, self.headers() + list(headers), json.dumps(message).encode()
        )

    def start(self, message, connection=None):
        """POST and read only the head; the response holds its connection."""
        connection = connection or self.gateway.connect()
        return connection.request("POST", self.path, self.headers(), message)

    def initialize(self):
        answer = self.post(
            rpc(
                "initialize",
                {
                    "protocolVersion": "2025-11-25",
                    "capabilities": {},
                    "clientInfo": {"name": "test", "version": "1"},
                },
                0,
            )
        )
        assert answer.status == 200, answer.body
        self.session = answer.header("Mcp-Session-Id")
        return self

    def call(self, tool, **arguments):
        answer = self.post(call(tool, **arguments))
        assert answer.status == 200, (answer.status, answer.body)
        return answer.message()["result"]

    def where(self):
        """The name of the server that answers."""
        return self.call("whoami")["server"]

    def listen(self, headers=(), connection=None):
        """The standing GET stream; its head has come."""
        connection = connection or self.gateway.connect()
        mine = [(k, v) for k, v in self.headers() if k not in ("Accept", "Content-Type")]
        return connection.request(
            "GET", self.path, [("Accept", "text/event-stream"), *mine, *headers]
        )

    def delete(self):
        return self.gateway.request("DELETE", self.path, self.headers())


def assert_rpc_error(response, status, ident=None, code=None):
    """An answer that the gateway made: status, and a JSON-RPC error with the request's id."""
    response.finish()
    assert response.status == status, (response.status, response.body)
    assert response.header("Content-Type", "").startswith("application/json"), response.headers
    message = json.loads(response.body)
    assert message["jsonrpc"] == "2.0"
    assert message["error"]["code"] == (-31000 - status if code is None else code)
    assert isinstance(message["error"]["message"], str) and message["error"]["message"]
    if ident is None:
        assert message.get("id") is None
    else:
        assert message["id"] == ident and type(message["id"]) is type(ident)
