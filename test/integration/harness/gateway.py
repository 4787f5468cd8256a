# SPDX-License-Identifier: Apache-2.0
"""A real httpd with one configuration, started for one test.

MPM=event|worker|prefork chooses the MPM, MCP_BUILD the tree that holds our modules, MCP_LOGLEVEL
the log level. MCP_ASAN=1 runs httpd under AddressSanitizer (a module that was built with it is
noticed), MCP_LEAKS=1 looks for leaks as well (with an APR whose pools use malloc: what hangs on
mapped pools counts as lost); sanitizers write to files, and a file fails the test.
MCP_POOLS=1 shows a sanitizer each block of a pool by itself, and not one large piece of memory.
MCP_WRAP=COMMAND starts httpd under that command, valgrind for example. MCP_STOCK=1 leaves our
module out (mod_proxy_http, lbmethod byrequests): for work on the harness itself, and to see which
behaviour is httpd's own.
"""
import base64
import hashlib
import os
import pathlib
import random
import resource
import shutil
import signal
import socket
import subprocess

from . import certs, oracle, preload, process
from .client import Connection
from .wait import DEADLINE, PATIENCE, wait_until

ROOT = pathlib.Path(__file__).resolve().parents[3]
BUILD = pathlib.Path(os.environ.get("MCP_BUILD", ROOT))
STOCK = bool(os.environ.get("MCP_STOCK"))
MODULE = BUILD / "mod_mcp_proxy" / ".libs" / "mod_mcp_proxy.so"
LEAKS = bool(os.environ.get("MCP_LEAKS"))
# What leaks in httpd itself and in its libraries.
NOT_OURS = ("libcrypto", "libssl", "mod_ssl", "libnghttp2")
PASSED_ON = ("LD_LIBRARY_PATH", "TSAN_OPTIONS")
USERS = {"alice": "wonder", "bob": "builder"}

_BASE = (
    "unixd",
    "log_config",
    "authn_core",
    "authn_file",
    "authz_core",
    "authz_user",
    "auth_basic",
    "env",
    "headers",
    "setenvif",
    "status",
    "slotmem_shm",
    "proxy",
    "proxy_balancer",
    "lbmethod_byrequests",
)
_apxs = {}


def apxs(name):
    """What apxs -q says, asked once."""
    if name not in _apxs:
        tool = os.environ.get("APXS") or shutil.which("apxs") or shutil.which("apxs2") or "apxs"
        done = subprocess.run([tool, "-q", name], check=True, capture_output=True, text=True)
        _apxs[name] = done.stdout.strip()
    return _apxs[name]


def free_port():
    """A loopback port below the range that outgoing connections use."""
    while True:
        port = random.randint(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def load_lines(names):
    """LoadModule for each; one that has no file is built in."""
    folder = pathlib.Path(apxs("LIBEXECDIR"))
    files = ((name, folder / ("mod_%s.so" % name)) for name in names)
    return ['LoadModule %s_module "%s"' % (name, file) for name, file in files if file.exists()]


class Gateway:
    """One httpd. Nothing runs before start()."""

    def __init__(
        self,
        directory,
        backends=(),
        *,
        mpm=None,
        routes=None,
        location=(),
        server=(),
        modules=(),
        member="",
        balancer=(),
        single=False,
        threads=16,
        children=1,
        spare=3,
        tls=False,
        streams=1000,
        mcp=True,
        lbmethod="mcp",
        tuning=(),
        preloaded=()
    ):
        """
        routes: path here -> path there. location, server, balancer: lines for these places.
        member: parameters of every member. single: ProxyPass to the first backend, no balancer.
        streams: MCPProxyMaxStreams. spare: ServerLimit beyond children. preloaded: names of
        harness/NAME.c, loaded ahead of httpd's libraries.
        """
        self.directory = pathlib.Path(directory)
        self.backends = list(backends)
        self.mpm = mpm or os.environ.get("MPM", "event")
        self.routes = routes or {"/mcp": "/mcp"}
        self.location, self.server, self.balancer = list(location), list(server), list(balancer)
        self.modules, self.member, self.single = list(modules), member, single
        self.threads, self.children_wanted, self.spare = threads, children, spare
        self.tls, self.streams, self.mcp, self.lbmethod = tls, streams, mcp, lbmethod
        self.tuning = list(tuning)
        self.preloaded = [*(["pools"] if os.environ.get("MCP_POOLS") else []), *preloaded]
        self.port = free_port()
        self.process = None
        self.expectations = []
        self._finished = False
        self._clients = []

    # Configuration

    def _mpm_lines(self):
        if self.mpm == "prefork":
            return ["StartServers 4", "MaxRequestWorkers 64", "ServerLimit 64"]
        lines = [
            "StartServers %d" % self.children_wanted,
            "ServerLimit %d" % (self.children_wanted + self.spare),
            "ThreadsPerChild %d" % self.threads,
            "ThreadLimit %d" % self.threads,
            "MinSpareThreads 1",
            "MaxSpareThreads %d" % (self.threads * self.children_wanted),
            "MaxRequestWorkers %d" % (self.threads * self.children_wanted),
        ]
        if self.mpm == "event":
            lines.append("AsyncRequestWorkerFactor 2000")
        return lines

    def _stream_limit(self):
        """What the MPM can hold, so that the start-up check has nothing to warn of."""
        if self.mpm == "event":
            return self.streams
        return 48 if self.mpm == "prefork" else max(1, self.threads * self.children_wanted - 2)

    def _proxy_lines(self):
        lines = []
        if not self.single and self.backends:
            lines.append('<Proxy "balancer://mcp">')
            for number, backend in enumerate(self.backends):
                lines.append(
                    '  BalancerMember "%s" route=%s %s'
                    % (backend.url, chr(ord("a") + number), self.member)
                )
            lines.append("  ProxySet lbmethod=%s" % ("byrequests" if STOCK else self.lbmethod))
            lines += ["  " + line for line in self.balancer] + ["</Proxy>"]
        for here, there in self.routes.items() if self.backends else ():
            target = self.backends[0].url + there if self.single else "balancer://mcp" + there
            parameters = " " + self.member if self.single else ""
            lines += ['<Location "%s">' % here, '  ProxyPass "%s"%s' % (target, parameters)]
            lines += ["  MCPProxy On"] if self.mcp else []
            lines += ["  " + line for line in self.location] + ["</Location>"]
        return lines

    def _tls_lines(self):
        cache = "SSLSessionCache shmcb:ssl-cache(512000)"
        if not self.tls:
            return [cache] if "ssl" in self.modules else []
        cert, key = certs.files()
        return [
            "SSLEngine on",
            'SSLCertificateFile "%s"' % cert,
            'SSLCertificateKeyFile "%s"' % key,
            cache,
        ]

    def config(self):
        names = ["mpm_" + self.mpm, *_BASE, *self.modules]
        names += ["socache_shmcb", "ssl"] if self.tls or "ssl" in names else []
        names += ["proxy_http"] if STOCK or not self.mcp else []
        names = list(dict.fromkeys(names))
        lines = load_lines(names)
        if not STOCK:
            lines.append('LoadModule mcp_proxy_module "%s"' % MODULE)
        if os.geteuid() == 0:
            user = "www-data" if pathlib.Path("/var/www").exists() else "nobody"
            lines += ["User " + user, "Group " + ("www-data" if user == "www-data" else "nogroup")]
        lines += [
            'ServerRoot "%s"' % self.directory,
            'DefaultRuntimeDir "%s"' % self.directory,
            "PidFile httpd.pid",
            "ErrorLog error.log",
            "LogLevel " + os.environ.get("MCP_LOGLEVEL", "info"),
            'LogFormat "%>s %X %O \\"%r\\" %{MCP_METHOD}e %{MCP_ROUTE}e" test',
            "CustomLog access.log test",
            "ServerName localhost:%d" % self.port,
            "Listen 127.0.0.1:%d" % self.port,
            "KeepAliveTimeout 15",
            "MaxKeepAliveRequests 0",
            "GracefulShutDownTimeout 5",
            "ExtendedStatus Off",
            "ProxyPassInterpolateEnv Off",
        ]
        # The leak checker must be allowed to look into children that have changed their user.
        lines += ['CoreDumpDirectory "%s"' % self.directory] if LEAKS else []
        lines += self._mpm_lines() + self._tls_lines()
        lines += ["MCPProxyMaxStreams %d" % self._stream_limit()] if self.streams else []
        lines += ["<Location /server-status>", "  SetHandler server-status", "</Location>"]
        lines += self.server + self._proxy_lines() + self.tuning
        if STOCK:
            lines = [line for line in lines if not line.strip().startswith("MCP")]
        return "\n".join(lines) + "\n"

    def write_config(self):
        (self.directory / "httpd.conf").write_text(self.config(), encoding="utf-8")
        hashes = (
            "%s:{SHA}%s" % (user, base64.b64encode(hashlib.sha1(word.encode()).digest()).decode())
            for user, word in USERS.items()
        )
        (self.directory / "users").write_text("\n".join(hashes) + "\n", encoding="utf-8")

    def _command(self, *arguments):
        program = os.path.join(apxs("SBINDIR"), apxs("PROGNAME"))
        wrap = os.environ.get("MCP_WRAP", "").split()
        return [*wrap, program, "-d", str(self.directory), "-f", "httpd.conf", *arguments]

    def _is_sanitized(self):
        return LEAKS or bool(os.environ.get("MCP_ASAN")) \
            or MODULE.exists() and b"libasan.so" in MODULE.read_bytes()

    def _environment(self):
        env = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
        env.update((name, os.environ[name]) for name in PASSED_ON if name in os.environ)
        if self._is_sanitized():
            reports = self.directory / "sanitizer"
            reports.mkdir(exist_ok=True)
            reports.chmod(0o777)
            suppressions = self.directory / "lsan"
            suppressions.write_text("".join("leak:%s\n" % name for name in NOT_OURS),
                                    encoding="utf-8")
            asan_library = subprocess.run(["gcc", "-print-file-name=libasan.so"], check=True,
                                          capture_output=True, text=True).stdout.strip()
            common = "log_path=%s/report" % reports
            asan = "detect_leaks=%d:abort_on_error=1:fast_unwind_on_malloc=%d:%s"
            env.update(LD_PRELOAD=asan_library, ASAN_OPTIONS=asan % (LEAKS, not LEAKS, common),
                       LSAN_OPTIONS="print_suppressions=0:suppressions=%s" % suppressions,
                       UBSAN_OPTIONS="print_stacktrace=1:" + common)
        flags = ["-I" + apxs(name) for name in ("APR_INCLUDEDIR", "APU_INCLUDEDIR")]
        flags += apxs("EXTRA_CPPFLAGS").split()
        own = [str(preload.library(name, self.directory, flags)) for name in self.preloaded]
        if own:
            env["LD_PRELOAD"] = " ".join([env.get("LD_PRELOAD", ""), *own])
        return env

    def _sanitizer_reports(self):
        files = sorted(self.directory.glob("sanitizer/*"))
        return ["%s:\n%s" % (x.name, x.read_text(encoding="utf-8", errors="replace")) for x in files]

    def check_config(self):
        """httpd -t: (exit status, what it said)."""
        self.write_config()
        done = subprocess.run(
            self._command("-t"),
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env=self._environment(),
            timeout=DEADLINE,
        )
        return done.returncode, done.stderr + done.stdout + self._text("error.log")

    # Running

    def start(self):
        for attempt in range(5):
            self.write_config()
            if self._launch():
                return self
            # Somebody else took the port between the look and the bind.
            if "AH00072" not in self._text("error.log") + self._text("output") or attempt == 4:
                break
            (self.directory / "error.log").unlink(missing_ok=True)
            self.port = free_port()
        raise AssertionError(
            "httpd did not start:\n%s%s" % (self._text("output"), self._text("error.log"))
        )

    def _launch(self):
        with open(self.directory / "output", "wb") as output:
            self.process = subprocess.Popen(
                self._command("-DFOREGROUND"),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=self._environment(),
                preexec_fn=_raise_descriptor_limit,
            )
        return (
            wait_until(
                lambda: self.process.poll() is not None and "gone" or self._answers(),
                "httpd to answer",
            )
            != "gone"
        )

    def _answers(self):
        try:
            with self.connect(timeout=5 * PATIENCE) as client:
                return client.request("GET", "/server-status?auto").status == 200
        except (OSError, EOFError):
            return False

    @property
    def address(self):
        return ("127.0.0.1", self.port)

    @property
    def origin(self):
        return "%s://localhost:%d" % ("https" if self.tls else "http", self.port)

    def connect(self, **options):
        """A client connection to this gateway."""
        if self.tls:
            options.setdefault("tls", certs.client_context())
        made = Connection(self.address, host="localhost:%d" % self.port, **options)
        self._clients.append(made)
        return made

    def request(self, method, target, headers=(), body=None, **options):
        """One request on a connection of its own, read to its end."""
        with self.connect(**options) as client:
            return client.request(method, target, headers, body).finish()

    def graceful(self):
        """Graceful restart; returns when a new generation answers."""
        self.restart(signal.SIGUSR1)

    def restart(self, sig=signal.SIGHUP):
        """As graceful(), at once. While httpd restarts it loses a signal that tells it to stop."""
        done = "resuming normal operations"
        if sig == signal.SIGHUP:
            self._rests()
        before = self._text("error.log").count(done)
        self.process.send_signal(sig)
        wait_until(lambda: self._text("error.log").count(done) > before, "the restart")
        wait_until(self._answers, "the new generation")

    def _rests(self):
        """Whether its children do nothing any more, after a while in which they may get there.

        A child that is told to end at once closes its workers' sockets from another thread. httpd's
        event MPM crashes there if a worker has just given back the memory of such a connection,
        with mod_status alone as well; its client's end of it has been closed for a while by then.
        """
        def at_rest():
            # One look takes a moment; a thread may sleep for a lock, or wake another one meanwhile.
            return all(process.is_at_rest(pid) for _ in range(4) for pid in self.children())
        try:
            return wait_until(at_rest, "httpd to come to rest", 5 * PATIENCE)
        except AssertionError:
            return False

    def stop(self, sig=signal.SIGTERM):
        """Stop, and make sure that nothing is left; what was wrong as a list of texts."""
        if self.process is None:
            return []
        problems = []
        if self.process.poll() is None:
            if not self._rests():
                problems.append("httpd did not come to rest")
            self.process.send_signal(sig)
            try:
                self.process.wait(20 * PATIENCE)
            except subprocess.TimeoutExpired:
                problems.append("httpd did not stop")
        elif self.process.returncode:
            problems.append("httpd ended by itself with %d" % self.process.returncode)
        left = process.of_session(self.process.pid)
        if left:
            problems.append("processes left over: %s" % left)
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)
        self.process = None
        return problems

    def leave(self):
        """Close every client connection, and wait until httpd has done the same.

        A few at a time: when more are closed than workers are idle, httpd's event MPM puts them into
        a chain, where a worker may read one that another worker is done with. That crashes now and
        then, with mod_status alone as well.
        """
        still_open = [client for client in self._clients if client.socket.fileno() >= 0]
        few, waits = max(1, min(4, self.threads // 2)), self.process is not None
        for number, client in enumerate(still_open, 1):
            client.close()
            waits = waits and (number % few > 0 or self._rests())
        if self.process and self.process.poll() is None:
            wait_until(lambda: not process.connections(self.port), "the connections to end")

    # What the oracle needs

    def expect_log(self, tag, contains="", optional=False):
        """Announce a line; not optional: it must come."""
        self.expectations.append(oracle.Expectation(tag, contains, optional))

    def finish(self):
        """Stop and judge. AssertionError lists everything that is wrong."""
        if self._finished:
            return
        self._finished = True
        self.leave()
        problems = self.stop() + self._sanitizer_reports()
        problems += oracle.judge(oracle.parse(self._text("error.log")), self.expectations)
        if problems:
            raise AssertionError("\n".join(problems))

    # Looking

    def _text(self, name):
        try:
            return (self.directory / name).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def log(self):
        return oracle.parse(self._text("error.log"))

    def wait_log(self, tag, contains=""):
        """Announce a line and wait for it; returns the line."""
        self.expect_log(tag, contains)
        wanted = self.expectations[-1]
        return wait_until(
            lambda: next((x for x in self.log() if wanted.covers(x)), None),
            "%s in the error log" % wanted,
        )

    def access(self):
        """The access log's lines, without those of the harness itself."""
        return [x for x in self._text("access.log").splitlines() if "/server-status" not in x]

    def children(self):
        return process.children(self.process.pid)

    def thread_count(self):
        return sum(map(process.threads, self.children()))

    def descriptor_count(self):
        return sum(map(process.descriptors, self.children()))

    def pss_kib(self):
        return sum(map(process.pss_kib, self.children()))

    def status(self):
        """mod_status's machine-readable page as a dict."""
        text = self.request("GET", "/server-status?auto").body.decode()
        return dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)


def _raise_descriptor_limit():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
