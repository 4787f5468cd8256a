# SPDX-License-Identifier: Apache-2.0
"""A real redis-server of the test's own, on a free port and a unix socket, and a way to ask it."""
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import threading

from .gateway import free_port
from .wait import PATIENCE, wait_until


class RedisError(Exception):
    """The server's error reply."""


class RedisClient:
    """RESP2, as much as the tests need."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(10 * PATIENCE)
        self.socket.connect(path)
        self.file = self.socket.makefile("rb")

    def close(self):
        self.file.close()
        self.socket.close()

    def __call__(self, *words):
        self.send(*words)
        return self._reply()

    def send(self, *words):
        """Ask without waiting."""
        parts = [w if isinstance(w, bytes) else str(w).encode() for w in words]
        data = b"*%d\r\n" % len(parts)
        self.socket.sendall(data + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts))

    def _reply(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("redis-server went away")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise RedisError(rest.decode())
        if kind == b"+":
            return rest.decode()
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        return None if rest == b"-1" else [self._reply() for _ in range(int(rest))]


class Redis:
    """redis-server. Data live in memory only, so a restart forgets everything."""

    environment = None

    def __init__(self, *arguments):
        self.arguments = [str(a) for a in arguments]
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="mcp-redis-"))
        self.directory.chmod(0o755)
        self.port = free_port()
        self.path = str(self.directory / "socket")
        self.process = None
        self.start()

    def start(self):
        program = shutil.which("redis-server")
        assert program, "redis-server is not installed (Debian: redis-server)"
        command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket",
                   self.path, "--unixsocketperm", "777", "--save", "", "--appendonly", "no",
                   "--dir", str(self.directory), *self.arguments]
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, start_new_session=True,
                                            env=self.environment)
        wait_until(self._answers, "redis-server to answer")
        return self

    def _answers(self):
        try:
            client = RedisClient(self.path)
        except OSError:
            return False
        try:
            client("PING")
        except RedisError:
            pass
        except OSError:
            return False
        finally:
            client.close()
        return True

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def restart(self):
        self.kill()
        return self.start()

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def close(self):
        if self.process.poll() is None:
            self.resume()
            self.kill()
        shutil.rmtree(self.directory)

    def client(self, db=4):
        made = RedisClient(self.path)
        made("SELECT", db)
        return made

    def ask(self, *words, db=4):
        client = self.client(db)
        try:
            return client(*words)
        finally:
            client.close()

    def keys(self, db=4):
        return {key.decode() for key in self.ask("KEYS", "*", db=db)}

    def calls(self):
        """How many scripts have been called."""
        text = self.ask("INFO", "commandstats").decode()
        return sum(int(line.split("calls=")[1].split(",")[0]) for line in text.splitlines()
                   if line.startswith(("cmdstat_evalsha", "cmdstat_eval:")))

    @property
    def store(self):
        return '"redis+unix:%s?db=4"' % self.path

    @property
    def tcp_store(self):
        return '"redis://127.0.0.1:%d/4"' % self.port


NONSENSE = {
    "http": b"HTTP/1.1 400 Bad Request\r\n\r\n", "zeros": b"\x00" * 500,
    "too-many": b"+OK\r\n" * 50, "length": b"$-5\r\n", "array": b"*1000000000\r\n", "close": b"",
}


def answering(reply):
    """For FakeServer: this to everything; nothing: the end."""
    def script(sock):
        while sock.recv(65536):
            sock.sendall(reply)
            if not reply:
                return
    return script


class FakeServer:
    """Accepts on a unix socket and does what script(socket) says, a thread a connection."""

    def __init__(self, script):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="mcp-fake-"))
        self.directory.chmod(0o755)
        self.path = str(self.directory / "socket")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.path)
        os.chmod(self.path, 0o777)
        self.listener.listen(100)
        self.script = script
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        try:
            self.script(sock)
        except OSError:
            pass
        finally:
            sock.close()

    @property
    def store(self):
        return '"redis+unix:%s?db=4"' % self.path

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        shutil.rmtree(self.directory)
