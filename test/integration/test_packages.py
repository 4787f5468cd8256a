# SPDX-License-Identifier: Apache-2.0
"""The packages are built, judged, installed and used. See packaging/."""
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

from harness.gateway import BUILD

PACKAGING = pathlib.Path(__file__).resolve().parents[2] / "packaging"
SKIPPED = 77


def need(*tools):
    missing = [tool for tool in tools if not shutil.which(tool)]
    if missing:
        pytest.skip("no " + ", ".join(missing))


def run(*command, **options):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True,
                          check=False, stdin=subprocess.DEVNULL, **options)


@pytest.fixture(name="tarball", scope="module")
def _tarball(tmp_path_factory):
    """What make dist makes, apart from the build tree: two at once would be in each other's way."""
    version = subprocess.run(["sed", "-n", "s/^PACKAGE_VERSION='\\(.*\\)'/\\1/p", "configure"],
                             cwd=PACKAGING.parent, capture_output=True, text=True,
                             check=True).stdout.strip()
    # Relative to the build tree, as make wants it.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="dist-", dir=BUILD))
    name = "mod-mcp-" + version
    try:
        done = run("make", "-s", "-C", BUILD, "distdir", "distdir=%s/%s" % (folder.name, name))
        assert done.returncode == 0, done.stderr
        packed = tmp_path_factory.mktemp("dist") / (name + ".tar.gz")
        assert run("tar", "-czf", packed, "-C", folder, name).returncode == 0
    finally:
        shutil.rmtree(folder)
    return packed


def test_a_debian_package_is_clean_and_works(tarball, tmp_path):
    need("dpkg-buildpackage", "dh_apache2", "lintian")
    built = run("sh", PACKAGING / "build-deb.sh", tarball, tmp_path)
    assert built.returncode == 0, built.stdout + built.stderr
    (package,) = tmp_path.glob("libapache2-mod-mcp_*.deb")
    done = run("sh", PACKAGING / "test-deb.sh", package)
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("All is well.\n")


def test_an_rpm_is_built(tarball, tmp_path):
    need("rpmbuild")
    built = run("sh", PACKAGING / "build-rpm.sh", tarball, tmp_path)
    assert built.returncode == 0, built.stdout + built.stderr
    packages = [path for path in tmp_path.glob("*.rpm") if ".src." not in path.name]
    listed = "".join(run("rpm", "-qlp", path).stdout for path in packages)
    for name in ("mod_mcp_proxy.so", "mod_mcp_ratelimit.so", "mod_mcp_cache.so", "10-mcp.conf",
                 "man8/mod_mcp_proxy.8", "examples/one-server.conf"):
        assert name in listed, listed
    assert os.path.getsize(next(tmp_path.glob("*.src.rpm"))) > 100000
