# SPDX-License-Identifier: Apache-2.0
"""Fixtures, and the judgement that ends every test: the error log, crashes, leftovers."""
import pathlib
import resource
import shutil
import tempfile
import threading

import pytest

from harness import certs
from harness.backend import Backend
from harness.caching import CacheRedis, CachingGateway
from harness.gateway import Gateway
from harness.mcpserver import McpServer
from harness.redisd import Redis


class Stage:
    """Everything that one test starts."""

    def __init__(self):
        # Not pytest's own folder: httpd's children, who are nobody, must get to sockets in it.
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="mcp-test-"))
        self.directory.chmod(0o755)
        self.gateways, self.backends = [], []

    def gateway(self, *backends, start=True, kind=Gateway, **options):
        folder = self.directory / ("httpd-%d" % len(self.gateways))
        folder.mkdir()
        made = kind(folder, backends, **options)
        self.gateways.append(made)
        return made.start() if start else made

    def caching(self, *backends, start=True, **options):
        return self.gateway(*backends, start=start, kind=CachingGateway, **options)

    def cache_redis(self):
        return self.keep(CacheRedis(self.directory / ("redis-%d" % len(self.backends))))

    def keep(self, backend):
        self.backends.append(backend)
        return backend

    def finish(self):
        problems = []
        for client in self.backends:
            if getattr(client, "is_client", False):
                client.close()
        for gateway in self.gateways:
            try:
                gateway.finish()
            except AssertionError as error:
                problems.append(str(error))
        for backend in self.backends:
            problems += [
                "a backend's script failed: %r" % e for e in getattr(backend, "errors", ())
            ]
        assert not problems, "\n".join(problems)

    def close(self, keep_files):
        for gateway in self.gateways:
            gateway.stop()
        for backend in self.backends:
            backend.close()
        if not keep_files:
            shutil.rmtree(self.directory)


def pytest_configure(config):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
    config.mcp_certs = tempfile.mkdtemp(prefix="mcp-certs-")
    pathlib.Path(config.mcp_certs).chmod(0o755)
    certs.set_dir(config.mcp_certs)


def pytest_unconfigure(config):
    shutil.rmtree(config.mcp_certs, ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Judge within the test, so that it counts as failed, not as passed with a bad end."""
    names = pyfuncitem._fixtureinfo.argnames
    pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
    if "stage" in pyfuncitem.funcargs:
        pyfuncitem.funcargs["stage"].finish()
    return True


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if call.when == "call":
        item.mcp_failed = report.failed
    stage = getattr(item, "funcargs", {}).get("stage")
    if report.failed and stage:
        for gateway in stage.gateways:
            report.sections.append((str(gateway.directory), gateway._text("error.log")[-6000:]))


@pytest.fixture(name="stage")
def _stage(request):
    made = Stage()
    yield made
    made.close(keep_files=getattr(request.node, "mcp_failed", True))


@pytest.fixture
def gateway(stage):
    """gateway(backend, ..., start=True, **options): a running httpd in front of them."""
    return stage.gateway


@pytest.fixture
def caching(stage):
    """caching(backend, ..., alone=False, store=None, cache=(lines), **options): with the cache."""
    return stage.caching


@pytest.fixture
def cache_redis(stage):
    """A redis-server that runs."""
    return stage.cache_redis()


@pytest.fixture
def backend(stage):
    """backend(script, **options): a scripted backend that runs."""
    return lambda script, **options: stage.keep(Backend(script, **options).start())


@pytest.fixture
def event():
    """A threading.Event for a script to wait for."""
    made = threading.Event()
    yield made
    made.set()


@pytest.fixture
def keep(stage):
    """keep(thing): thing.close() when the test is over."""
    return stage.keep


@pytest.fixture
def server(stage):
    """server(name, era, ...): a small MCP server that runs."""
    return lambda *arguments, **options: stage.keep(McpServer(*arguments, **options))


@pytest.fixture
def redis(stage):
    """redis(*arguments): a redis-server of this test's own."""
    return lambda *arguments: stage.keep(Redis(*arguments))


@pytest.fixture(params=["shm", "redis"])
def store(request, stage):
    """Each store in turn, as a directive's argument."""
    return "shm" if request.param == "shm" else stage.keep(Redis()).store
