# SPDX-License-Identifier: Apache-2.0
"""A configuration of conf/, as it ships, on the ports and files of a test."""
import os
import pathlib
import re

from . import certs
from .gateway import BUILD, Gateway, load_lines

CONF = pathlib.Path(__file__).resolve().parents[3] / "conf"
MODULES = (
    "mpm_event", "unixd", "log_config", "authn_core", "authn_file", "authz_core", "authz_host",
    "authz_user", "auth_basic", "alias", "env", "expires", "filter", "headers", "mime", "rewrite",
    "setenvif", "status", "reqtimeout", "slotmem_shm", "socache_shmcb", "watchdog", "proxy",
    "proxy_balancer", "proxy_hcheck", "ssl", "http2",
)
OURS = ("mcp_proxy", "mcp_ratelimit", "mcp_cache")
# What Debian's mpm_event.conf and our mcp_proxy.conf say.
SIZES = (
    "StartServers 2", "MinSpareThreads 25", "MaxSpareThreads 75", "ThreadLimit 64",
    "ThreadsPerChild 25", "MaxRequestWorkers 150", "AsyncRequestWorkerFactor 400",
)


def examples():
    return sorted(path.name for path in (CONF / "examples").glob("*.conf"))


class Shipped(Gateway):
    """A file of conf/. here: text there -> text here, for what is no port of a backend.

    name: ServerName, where several gateways are to be one.
    """

    def __init__(self, directory, backends, *, file, here=(), modules=(), tls=False, name=None):
        super().__init__(directory, backends, modules=modules, tls=tls)
        self.file, self.here, self.name = file, dict(here), name
        (self.directory / "logs").mkdir()

    def _text_here(self):
        """Port 3001 is the first backend's, and so on; "Listen 443" and *:443 are ours."""
        text = (CONF / self.file).read_text(encoding="utf-8")
        text = re.sub(r"127\.0\.0\.1:300(\d)",
                      lambda m: "127.0.0.1:%d" % self.backends[int(m[1]) - 1].port, text)
        for there, here in self.here.items():
            assert there in text, "%s does not say %s" % (self.file, there)
            text = text.replace(there, str(here))
        return text.replace("Listen 443\n", "").replace("*:443", "*:%d" % self.port)

    def config(self):
        cert, key = certs.files()
        lines = load_lines([*MODULES, *self.modules])
        for name in OURS:
            folder = BUILD / ("mod_" + name) / ".libs"
            lines.append('LoadModule %s_module "%s/mod_%s.so"' % (name, folder, name))
        if os.geteuid() == 0:
            lines += ["User www-data", "Group www-data"]
        lines += [
            'ServerRoot "%s"' % self.directory, 'DefaultRuntimeDir "%s"' % self.directory,
            "PidFile httpd.pid", "ErrorLog error.log", "LogLevel info",
            "ServerName %s" % (self.name or self.origin), "Listen 127.0.0.1:%d" % self.port,
            "SSLSessionCache shmcb:ssl-cache(512000)", "TypesConfig /etc/mime.types", *SIZES,
            "<Location /server-status>", "  SetHandler server-status", "</Location>",
        ]
        text = self._text_here()
        text = text.replace("/etc/ssl/certs/ssl-cert-snakeoil.pem", str(cert))
        text = text.replace("/etc/ssl/certs/ca-certificates.crt", str(cert))
        text = text.replace("/etc/ssl/private/ssl-cert-snakeoil.key", str(key))
        return "\n".join(lines) + "\n" + text
