# SPDX-License-Identifier: Apache-2.0
"""The proxies that are compared: their configuration, their processes, what these cost.

All of them get the same backend, keep connections to it open, and write no access log.
"""
import base64
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time

NGINX = """daemon off; worker_processes 2; pid {work}/nginx.pid; error_log {work}/error.log warn;
{user}
events {{ worker_connections {sockets}; }}
http {{
    access_log off; server_tokens off; keepalive_requests 100000000; keepalive_timeout 300;
    client_body_temp_path {work}/b; proxy_temp_path {work}/p; fastcgi_temp_path {work}/f;
    uwsgi_temp_path {work}/u; scgi_temp_path {work}/s;
    upstream mcp {{ server 127.0.0.1:{backend}; keepalive 128; keepalive_requests 100000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location /mcp {{
            proxy_pass http://mcp; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_buffering off; proxy_read_timeout 4h;
        }}
    }}
}}
"""

HAPROXY = """global
    nbthread 2
    maxconn {conns}
defaults
    mode http
    option http-no-delay
    option abortonclose
    timeout connect 10s
    timeout client 4h
    timeout server 4h
    timeout http-keep-alive 5m
frontend in
    bind 127.0.0.1:{port} backlog 4096
    default_backend mcp
backend mcp
    http-reuse always
    server a 127.0.0.1:{backend}
"""

HTTPD = """ServerRoot {work}
PidFile {work}/httpd.pid
ErrorLog {work}/error.log
LogLevel warn
ServerName localhost
DefaultRuntimeDir {work}
Mutex file:{work}
Listen 127.0.0.1:{port}
ListenBackLog 4096
{modules}
{user}
KeepAlive On
MaxKeepAliveRequests 0
KeepAliveTimeout 300
Timeout 600
ProxyTimeout 14400
{mpm}
{proxy}
"""

PROXY_HTTP = 'ProxyPass "/mcp" "http://127.0.0.1:{backend}/mcp"'
SEALED = """MCPProxyAffinity sealed
MCPProxySessionKey file:{work}/key
"""
PROXY_MCP = """MCPProxyMaxStreams {conns}
<Proxy "balancer://mcp">
    BalancerMember "http://127.0.0.1:{backend}" route=a
    ProxySet lbmethod=mcp
</Proxy>
<Location "/mcp">
    ProxyPass "balancer://mcp/mcp"
    MCPProxy On
</Location>
"""

# mod_proxy_http needs a thread for each stream: 500 in each child, as many children as it takes.
MPM_THREADS = """ServerLimit {children}
StartServers {children}
ThreadLimit 500
ThreadsPerChild 500
MaxRequestWorkers {workers}
MinSpareThreads 1
MaxSpareThreads {workers}"""
# The package's own numbers, for the row of calls.
MPM_PACKAGE = """StartServers 2
MinSpareThreads 25
MaxSpareThreads 75
ThreadLimit 64
ThreadsPerChild 25
MaxRequestWorkers 150"""
MPM_ASYNC = """StartServers 1
ServerLimit 2
ThreadLimit {threads}
ThreadsPerChild {threads}
MaxRequestWorkers {threads}
MinSpareThreads 1
MaxSpareThreads {threads}
AsyncRequestWorkerFactor 2000"""


def die_with_parent():
    """In the child: end when the driver does, however that ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def descendants(pid):
    """pid and every process below it."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", encoding="ascii", errors="replace") as f:
                    ppid = int(f.read().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(ppid, []).append(int(entry))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def wait_for_port(port, proc, what):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if proc.poll() is not None:
            raise RuntimeError(f"{what} ended at once with {proc.returncode}")
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError(f"{what} does not listen on port {port}")


class Contender:
    """One proxy: start() it, look at what it costs, stop() it."""

    def __init__(self, name, key, work, streams, module=None, threads=16,
                 sealed=False):
        self.name, self.key, self.module, self.threads = name, key, module, threads
        self.sealed = sealed
        self.work = os.path.join(work, name.replace("/", "-"))
        self.conns = streams + 1000
        self.proc = self.port = None

    def httpd_modules(self):
        where = next(d for d in ("/usr/lib/apache2/modules", "/usr/lib64/httpd/modules",
                                 "/usr/local/apache2/modules") if os.path.isdir(d))
        names = ["mpm_event", "authz_core", "proxy", "proxy_http", "slotmem_shm", "proxy_balancer"]
        lines = [f"LoadModule {n}_module {where}/mod_{n}.so" for n in names]
        if self.key == "mcp":
            lines.append(f"LoadModule mcp_proxy_module {self.module}")
        return "\n".join(lines)

    def render(self, backend, for_calls):
        root = os.geteuid() == 0
        children = (self.conns + 2000) // 500
        v = {"work": self.work, "port": self.port, "backend": backend, "threads": self.threads,
             "conns": self.conns, "sockets": self.conns * 2, "children": children,
             "workers": children * 500}
        if self.key == "nginx":
            return NGINX.format(user="user www-data;" if root else "", **v)
        if self.key == "haproxy":
            return HAPROXY.format(**v)
        if self.key == "mcp":
            mpm, proxy = MPM_ASYNC, (SEALED if self.sealed else "") + PROXY_MCP
        else:
            mpm, proxy = MPM_PACKAGE if for_calls else MPM_THREADS, PROXY_HTTP
        return HTTPD.format(modules=self.httpd_modules(), mpm=mpm.format(**v),
                            user="User www-data\nGroup www-data" if root else "",
                            proxy=proxy.format(**v), **v)

    def start(self, backend, for_calls=False):
        self.port = free_port()
        shutil.rmtree(self.work, ignore_errors=True)
        os.makedirs(self.work)
        conf = os.path.join(self.work, "proxy.conf")
        with open(conf, "w", encoding="ascii") as f:
            f.write(self.render(backend, for_calls))
        if self.sealed:
            key = os.open(os.path.join(self.work, "key"), os.O_CREAT | os.O_WRONLY, 0o600)
            os.write(key, base64.b64encode(os.urandom(32)))
            os.close(key)
        args = {"nginx": ["nginx", "-p", self.work, "-c", conf, "-e", self.work + "/error.log"],
                "haproxy": ["haproxy", "-db", "-q", "-f", conf]}.get(self.key)
        if not args:
            httpd = shutil.which("apache2") or shutil.which("httpd")
            args = [httpd, "-f", conf, "-D", "FOREGROUND"]
        with open(self.work + "/stderr", "w", encoding="ascii") as err:
            # pylint: disable=subprocess-popen-preexec-fn
            self.proc = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=err, stderr=err,
                                         preexec_fn=die_with_parent, start_new_session=True)
        try:
            wait_for_port(self.port, self.proc, self.name)
        except RuntimeError as e:
            raise RuntimeError(f"{e}\n{self.log()}") from None

    def stop(self):
        if not self.proc:
            return
        if self.proc.poll() is None:
            self.proc.send_signal(signal.SIGTERM)
        try:
            self.proc.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.proc.pid, signal.SIGKILL)
            self.proc.wait()
        self.proc = None

    def log(self):
        text = ""
        for name in ("stderr", "error.log"):
            try:
                with open(os.path.join(self.work, name), encoding="utf-8", errors="replace") as f:
                    text += f.read()
            except OSError:
                pass
        return text

    def memory(self):
        """Bytes: proportional set size of all its processes, so that shared pages count once."""
        total = 0
        for pid in descendants(self.proc.pid):
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
                total += sum(int(line.split()[1]) for line in f if line.startswith("Pss:"))
        return total * 1024

    def cpu(self):
        """Seconds of user and system time so far, all its processes."""
        total = 0
        for pid in descendants(self.proc.pid):
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
                fields = f.read().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def thread_count(self):
        return sum(len(os.listdir(f"/proc/{pid}/task")) for pid in descendants(self.proc.pid))
