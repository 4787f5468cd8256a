# SPDX-License-Identifier: Apache-2.0
"""Many MCP clients at once, on one asyncio loop in a thread of its own.

Listeners hold a standing stream each and open it again when it ends; callers call again and again
on a connection that they keep, as HTTP client libraries do: they take a new one when they see that
the old one was closed, and never send a request twice. What went wrong is in the fleet's lists.
"""
import asyncio
import json
import random
import threading
import time

from .client import call, rpc
from .wait import DEADLINE, wait_until

INITIALIZE = rpc(
    "initialize",
    {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "fleet", "version": "1"},
    },
    0,
)


class Lost(Exception):
    """The connection ended before the answer was whole."""


class Answer:
    def __init__(self, head):
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ", 2)[1])
        self.headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:] if line)
        }
        self.body = b""


class Line:
    """A connection that is kept while the server keeps it."""

    def __init__(self, port):
        self.port = port
        self.reader = self.writer = None

    def close(self):
        if self.writer:
            self.writer.transport.abort()
        self.reader = self.writer = None

    async def _connect(self):
        if self.reader and (self.reader.at_eof() or self.reader.exception()):
            self.close()
        if not self.reader:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)

    async def send(self, method, headers, message=None):
        """A request, and the head of its answer."""
        await self._connect()
        body = json.dumps(message).encode() if message else b""
        lines = ["%s /mcp HTTP/1.1" % method, "Host: localhost:%d" % self.port, *headers]
        lines += ["Content-Type: application/json", "Content-Length: %d" % len(body)] if body else []
        try:
            self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + body)
            return Answer((await self.reader.readuntil(b"\r\n\r\n"))[:-4])
        except (OSError, asyncio.IncompleteReadError) as error:
            self.close()
            raise Lost("no answer: %r" % error) from None

    async def chunks(self, answer):
        """The body as it comes, to its proper end."""
        try:
            if answer.headers.get("transfer-encoding") != "chunked":
                yield await self.reader.readexactly(int(answer.headers.get("content-length", 0)))
                return
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                yield (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readexactly(2)
        except (OSError, asyncio.IncompleteReadError) as error:
            self.close()
            raise Lost("half an answer: %r" % error) from None

    async def ask(self, method, headers, message=None):
        """A request and its whole answer."""
        answer = await self.send(method, headers, message)
        async for chunk in self.chunks(answer):
            answer.body += chunk
        if answer.headers.get("connection") == "close":
            self.close()
        return answer


class Member:
    """One client with a session of its own."""

    def __init__(self, fleet):
        self.fleet, self.session, self.home = fleet, None, None

    def headers(self, accept="application/json, text/event-stream"):
        return ["Accept: " + accept, "Mcp-Session-Id: " + self.session]

    async def join(self, line):
        answer = await line.ask(
            "POST", ["Accept: application/json, text/event-stream"], INITIALIZE
        )
        assert answer.status == 200, answer.status
        self.session = answer.headers["mcp-session-id"]

    async def listen(self):
        """Hold the standing stream, again and again."""
        fleet = self.fleet
        while not fleet.is_over:
            line = Line(fleet.port)
            try:
                answer = await line.send("GET", self.headers("text/event-stream"))
                if answer.status != 200:
                    fleet.refused.append(answer.status)
                else:
                    fleet.listening += 1
                    try:
                        async for _ in line.chunks(answer):
                            pass
                        fleet.ended += 1
                    finally:
                        fleet.listening -= 1
            except (Lost, OSError) as error:
                fleet.broken.append(str(error))
            finally:
                line.close()
            await asyncio.sleep(random.uniform(0, fleet.back_after))
            if fleet.anew and not fleet.is_over:
                await self.begin_anew()

    async def begin_anew(self):
        """As a client that has lost its session: initialize, and a call."""
        line = Line(self.fleet.port)
        try:
            await self.join(line)
            self.home = None
            await self.call_once(line, 1)
        except (Lost, OSError, AssertionError) as error:
            self.fleet.broken.append(str(error))
        finally:
            line.close()

    async def call_steadily(self, pause):
        """One call after the other; each must be answered by the member that has the session."""
        line, number = Line(self.fleet.port), 0
        try:
            while not self.fleet.is_over:
                number += 1
                await self.call_once(line, number)
                await asyncio.sleep(pause)
        finally:
            line.close()

    async def call_once(self, line, number):
        began = time.monotonic()
        try:
            answer = await line.ask("POST", self.headers(), call("whoami", number))
            self.fleet.answered += 1
            self.fleet.latencies.append(time.monotonic() - began)
            self.check(answer, number)
        except (Lost, OSError) as error:
            self.fleet.lost.append(str(error))

    def check(self, answer, number):
        if answer.status != 200:
            self.fleet.wrong.append((answer.status, answer.body))
            return
        message = json.loads(answer.body)
        home = message["result"]["server"]
        if message["id"] != number or home != (self.home or home):
            self.fleet.wrong.append(message)
        self.home = home


class Fleet:
    def __init__(self, gateway, back_after=0.2, anew=False):
        """back_after: a listener is back within this many seconds. anew: with a new session."""
        self.port, self.back_after, self.anew = gateway.port, back_after, anew
        self.listening = self.ended = self.answered = 0
        self.broken, self.refused = [], []  # streams
        self.lost, self.wrong = [], []  # calls
        self.latencies = []
        self.is_over = False
        self._tasks = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def _run(self, coroutine, timeout=4 * DEADLINE):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout)

    async def _join(self, count):
        members = [Member(self) for _ in range(count)]

        async def some(mine):
            line = Line(self.port)
            for member in mine:
                await member.join(line)
            line.close()

        await asyncio.gather(*(some(members[start::16]) for start in range(16)))
        return members

    async def _start(self, members, what):
        self._tasks += [asyncio.ensure_future(what(member)) for member in members]

    def listen(self, count):
        """So many more listeners; returns when all have their stream."""
        wanted = self.listening + count
        members = self._run(self._join(count))
        self._run(self._start(members, Member.listen))
        self.wait_listening(wanted)
        return members

    def wait_listening(self, count, timeout=4 * DEADLINE):
        wait_until(lambda: self.listening == count, "%d listeners" % count, timeout)

    def call(self, count, pause=0.01):
        """So many more callers; returns when calls are answered."""
        members, before = self._run(self._join(count)), self.answered
        self._run(self._start(members, lambda member: member.call_steadily(pause)))
        self.wait_answered(before + 2 * count)
        return members

    def wait_answered(self, count):
        wait_until(lambda: self.answered >= count, "%d answers" % count, 4 * DEADLINE)

    def go_on(self, count=200):
        """Until so many more calls have been answered."""
        self.wait_answered(self.answered + count)

    def close(self):
        async def end():
            self.is_over = True
            for task in self._tasks:
                task.cancel()
            for error in await asyncio.gather(*self._tasks, return_exceptions=True):
                if error and not isinstance(error, asyncio.CancelledError):
                    self.wrong.append(error)

        if self._thread.is_alive():
            self._run(end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)
            self._loop.close()
