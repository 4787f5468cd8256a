# SPDX-License-Identifier: Apache-2.0
"""Chromium without a window, spoken to over two pipes (--remote-debugging-pipe): no driver, no
library. One Browser a test; a Page is a tab with its own size, colours and rules."""
import base64
import fcntl
import json
import os
import pathlib
import select
import shutil
import subprocess
import tempfile
import time

from .wait import DEADLINE, PATIENCE, wait_until

TO_BROWSER, FROM_BROWSER = 3, 4  # the descriptors that it looks for


def program():
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    is_client = True  # to be closed before its gateways are judged

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="mcp-chromium-")
        (theirs_in, self._out), (self._in, theirs_out) = os.pipe(), os.pipe()
        # Out of the way of the two numbers that they are to have.
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (theirs_in, theirs_out)]

        def place():
            os.dup2(ends[0], TO_BROWSER)
            os.dup2(ends[1], FROM_BROWSER)

        self.process = subprocess.Popen(
            [program(), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--no-first-run", "--disable-background-networking", "--disable-component-update",
             "--hide-scrollbars", "--force-color-profile=srgb", "--remote-debugging-pipe",
             "--user-data-dir=" + self.folder, "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            close_fds=False, preexec_fn=place, start_new_session=True)
        for fd in (theirs_in, theirs_out, *ends):
            os.close(fd)
        self._buffer, self._count, self.events = b"", 0, []

    def close(self):
        if self.process.poll() is not None:
            return
        self.process.kill()
        self.process.wait(10)
        os.close(self._out)
        os.close(self._in)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, deadline):
        """The next message."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0, deadline - time.monotonic()))
            data = os.read(self._in, 1 << 20) if ready else b""
            if not data:
                raise AssertionError("chromium does not answer")
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def command(self, method, session=None, **parameters):
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data):]
        deadline = time.monotonic() + 2 * DEADLINE
        while True:
            answer = self._read(deadline)
            if answer.get("id") == message["id"]:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._take(answer)

    def _take(self, event):
        self.events.append(event)
        if event.get("method") == "Page.javascriptDialogOpening":
            self._count += 1
            answer = {"id": self._count, "method": "Page.handleJavaScriptDialog",
                      "params": {"accept": True}, "sessionId": event["sessionId"]}
            os.write(self._out, json.dumps(answer).encode() + b"\0")

    def page(self, **options):
        return Page(self, **options)


class Page:
    def __init__(self, browser, width=1200, height=900, dark=False, script=True, headers=()):
        self.browser, self.width, self.height = browser, width, height
        target = browser.command("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.command("Target.attachToTarget", targetId=target,
                                       flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.do(domain + ".enable")
        self.resize(width, height)
        scheme = "dark" if dark else "light"
        self.do("Emulation.setEmulatedMedia",
                features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.do("Emulation.setScriptExecutionDisabled", value=not script)
        if headers:
            self.do("Network.setExtraHTTPHeaders", headers=dict(headers))

    def do(self, method, **parameters):
        return self.browser.command(method, self.session, **parameters)

    def resize(self, width, height):
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=height,
                deviceScaleFactor=1, mobile=width < 500)

    def seen(self, method):
        """The events of that kind so far."""
        return [e["params"] for e in self.browser.events
                if e.get("method") == method and e.get("sessionId") == self.session]

    def open(self, url):
        before = len(self.seen("Page.loadEventFired"))
        result = self.do("Page.navigate", url=url)
        assert not result.get("errorText"), result
        self.wait_loaded(before)

    def wait_loaded(self, before):
        wait_until(lambda: self.tell("1") and len(self.seen("Page.loadEventFired")) > before,
                   "the page", 2 * DEADLINE)

    def loads(self):
        return len(self.seen("Page.loadEventFired"))

    def tell(self, expression):
        """The value of an expression on the page, a promise awaited."""
        result = self.do("Runtime.evaluate", expression=expression, returnByValue=True,
                         awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, expression, what=None):
        return wait_until(lambda: self.tell(expression), what or expression, DEADLINE)

    def box(self, selector):
        """Where an element is, without script on the page: [x, y, width, height], scrolled to."""
        root = self.do("DOM.getDocument")["root"]["nodeId"]
        node = self.do("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        assert node, selector
        self.do("DOM.scrollIntoViewIfNeeded", nodeId=node)
        quad = self.do("DOM.getBoxModel", nodeId=node)["model"]["border"]
        return quad[0], quad[1], quad[2] - quad[0], quad[5] - quad[1]

    def click(self, selector):
        x, y, width, height = self.box(selector)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.do("Input.dispatchMouseEvent", type=kind, x=x + width / 2, y=y + height / 2,
                    button="left", clickCount=1)

    def picture(self, name):
        """A picture of the whole page, kept where MCP_PICTURES says; the bytes of a PNG."""
        size = self.do("Page.getLayoutMetrics")["cssContentSize"]
        data = base64.b64decode(self.do("Page.captureScreenshot", format="png",
                                        captureBeyondViewport=True,
                                        clip={"x": 0, "y": 0, "width": self.width,
                                              "height": size["height"], "scale": 1})["data"])
        if os.environ.get("MCP_PICTURES"):
            (pathlib.Path(os.environ["MCP_PICTURES"]) / (name + ".png")).write_bytes(data)
        return data

    def complaints(self):
        """What a developer would see in red: errors, refused resources, exceptions."""
        logged = [e["entry"]["text"] for e in self.seen("Log.entryAdded")
                  if e["entry"]["level"] == "error"]
        return logged + [e["exceptionDetails"]["text"] for e in self.seen("Runtime.exceptionThrown")]

    def requested(self):
        return [e["request"]["url"] for e in self.seen("Network.requestWillBeSent")]


__all__ = ["Browser", "Page", "program", "PATIENCE"]
