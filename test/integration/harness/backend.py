# SPDX-License-Identifier: Apache-2.0
"""Backends that do exactly what a test says, one thread a connection.

A script is a function of one Peer, run for each connection. What a backend saw is in its peers:
bytes and times. A script ends quietly when the gateway goes away or the backend is closed.
"""
import os
import socket
import ssl
import struct
import tempfile
import threading
import time

from . import certs
from .wait import DEADLINE, wait_until


class Gone(Exception):
    """The gateway closed the connection, or the test is over."""


class Request:
    def __init__(self, head, body):
        self.head, self.body = head, body
        lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, self.version = lines[0].split(" ", 2)
        self.headers = [
            tuple(part.strip() for part in line.split(":", 1)) for line in lines[1:] if line
        ]

    def header(self, name, default=None):
        """The value of a header that stands once."""
        values = self.header_all(name)
        assert len(values) < 2, "%s stands %d times" % (name, len(values))
        return values[0] if values else default

    def header_all(self, name):
        return [value for key, value in self.headers if key.lower() == name.lower()]


class Peer:
    """The backend's side of one connection."""

    def __init__(self, backend, sock, number):
        self.backend, self.socket, self.number = backend, sock, number
        self.received = b""
        self.sent = 0
        self.requests = []
        self.opened = time.monotonic()
        self.closed_at = None  # when the gateway's end was seen
        self.was_reset = False
        self._unread = b""

    def _receive(self):
        try:
            data = self.socket.recv(65536)
        except (ConnectionError, ssl.SSLError):
            self.was_reset, data = True, b""
        except OSError:
            raise Gone() from None
        if not data:
            self.closed_at = self.closed_at or time.monotonic()
            raise Gone()
        self.received += data
        self._unread += data

    def _take(self, size):
        data, self._unread = self._unread[:size], self._unread[size:]
        return data

    def read_head(self):
        """Wait for a whole request head; the body stays unread."""
        while b"\r\n\r\n" not in self._unread:
            self._receive()
        head = self._take(self._unread.index(b"\r\n\r\n") + 4)
        request = Request(head[:-4], b"")
        self.requests.append(request)
        return request

    def _read_exactly(self, size):
        while len(self._unread) < size:
            self._receive()
        return self._take(size)

    def _read_line(self):
        while b"\r\n" not in self._unread:
            self._receive()
        return self._take(self._unread.index(b"\r\n") + 2)

    def read_request(self):
        """Wait for a whole request, body included."""
        request = self.read_head()
        if request.header("Transfer-Encoding"):
            while size := int(self._read_line().split(b";")[0], 16):
                request.body += self._read_exactly(size)
                self._read_exactly(2)
            while self._read_line() != b"\r\n":
                pass
        else:
            request.body = self._read_exactly(int(request.header("Content-Length", "0")))
        return request

    def send(self, data):
        view = memoryview(data)
        try:
            while view:
                count = self.socket.send(view[:65536])
                self.sent += count
                view = view[count:]
        except (OSError, ssl.SSLError):
            self.closed_at = self.closed_at or time.monotonic()
            raise Gone() from None
        return self

    def send_slowly(self, data):
        """One byte a packet (TCP_NODELAY is on)."""
        for number in range(len(data)):
            self.send(data[number : number + 1])
            time.sleep(0.0005)
        return self

    def answer(self, body=b"{}", status="200 OK", headers=(), content_type="application/json"):
        """A complete response with Content-Length."""
        lines = ["HTTP/1.1 " + status, "Content-Length: %d" % len(body)]
        lines += ["Content-Type: " + content_type] if content_type else []
        lines += ["%s: %s" % pair for pair in headers]
        return self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body)

    def begin_stream(self, headers=(), chunked=True):
        """The head of an event stream."""
        lines = ["HTTP/1.1 200 OK", "Content-Type: text/event-stream"]
        lines += ["Transfer-Encoding: chunked"] if chunked else ["Connection: close"]
        lines += ["%s: %s" % pair for pair in headers]
        return self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    def chunk(self, data):
        return self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def end_chunks(self):
        return self.send(b"0\r\n\r\n")

    def wait_gone(self):
        """Until the gateway closes; what comes before is recorded."""
        while True:
            self._receive()

    def wait(self, event):
        """Until the test sets the event."""
        while not event.wait(0.01):
            if self.backend.is_closed:
                raise Gone()
        return self

    def close(self):
        self._shut()
        raise Gone()

    def reset(self):
        """RST instead of FIN."""
        sock = self.socket
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        raise Gone()

    def half_close(self):
        """FIN, but go on reading."""
        self.socket.shutdown(socket.SHUT_WR)
        return self

    def _shut(self):
        try:
            if isinstance(self.socket, ssl.SSLSocket):
                self.socket.settimeout(1)
                self.socket.unwrap()
        except (OSError, ValueError):
            pass
        try:
            # A shutdown first: another thread's recv() does not notice a close().
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.socket.close()


class Backend:
    """A listening backend. script(peer) runs per connection; peers lists them in order."""

    def __init__(self, script, *, tls=False, unix=False, send_buffer=None):
        self.script, self.tls, self.send_buffer = script, tls, send_buffer
        self.scheme = "https" if tls else "http"  # what its URL says; a test may lie
        self.peers = []
        self.errors = []
        self.is_closed = False
        self.port = self.path = None
        if unix:
            self.path = os.path.join(tempfile.mkdtemp(prefix="mcp-unix-"), "socket")
            self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.listener.bind(self.path)
            os.chmod(os.path.dirname(self.path), 0o755)
            os.chmod(self.path, 0o777)
            self.listener.listen(100)
        else:
            self._bind(0)

    def _bind(self, port):
        self.listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.send_buffer:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.send_buffer)
        self.listener.bind(("127.0.0.1", port))
        self.listener.listen(1000)
        self.port = self.listener.getsockname()[1]

    def start(self):
        self.is_closed = False
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()
        return self

    def restart(self, script=None):
        """Listen again on the same port."""
        self.script = script or self.script
        self._bind(self.port)
        return self.start()

    @property
    def url(self):
        if self.path:
            return "unix:%s|http://localhost" % self.path
        host = "localhost" if self.scheme == "https" else "127.0.0.1"
        return "%s://%s:%d" % (self.scheme, host, self.port)

    def _accept(self, listener):
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            if not self.path:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        peer = None
        try:
            if self.tls:
                sock = certs.server_context().wrap_socket(sock, server_side=True)
            peer = Peer(self, sock, len(self.peers))
            self.peers.append(peer)
            self.script(peer)
        except (Gone, ssl.SSLError, ConnectionError):
            pass
        except Exception as error:  # a mistake in a script must not go unseen
            self.errors.append(error)
        finally:
            if peer:
                peer._shut()
            else:
                sock.close()

    @property
    def requests(self):
        return [request for peer in self.peers for request in peer.requests]

    def wait_requests(self, count):
        """Until that many requests have come (their heads); returns them."""
        wait_until(lambda: len(self.requests) >= count, "%d requests" % count)
        return self.requests

    def wait_gone(self, number=0, timeout=None):
        """Until the gateway has closed that connection."""
        wait_until(
            lambda: len(self.peers) > number and self.peers[number].closed_at,
            "the gateway to close connection %d" % number,
            timeout or DEADLINE,
        )
        return self.peers[number]

    def kill(self):
        """As if the process died: nothing listens, every connection is closed."""
        self.is_closed = True
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()
        for peer in self.peers:
            try:
                peer.socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.kill()
        if self.path:
            os.unlink(self.path)
            os.rmdir(os.path.dirname(self.path))


class BlackHole:
    """An address that takes connections up to the backlog and then answers no SYN."""

    tls = False

    def __init__(self):
        self.listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(0)
        self.port = self.listener.getsockname()[1]
        self.fillers = []
        # The kernel takes one or two beyond the backlog; the first that hangs says it is full.
        for _ in range(8):
            filler = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            filler.settimeout(0.2)
            self.fillers.append(filler)
            try:
                filler.connect(("127.0.0.1", self.port))
            except TimeoutError:
                return
        raise AssertionError("the backlog never filled")

    @property
    def url(self):
        return "http://127.0.0.1:%d" % self.port

    def close(self):
        for sock in [*self.fillers, self.listener]:
            sock.close()


class Nobody:
    """An address where nobody listens: connections are refused."""

    tls = False

    def __init__(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = "http://127.0.0.1:%d" % self.port

    def close(self):
        """Nothing to close."""
