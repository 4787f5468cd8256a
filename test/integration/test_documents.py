# SPDX-License-Identifier: Apache-2.0
"""What the documents name is there, and what README shows works."""
import pathlib
import re

import pytest

from harness.client import Mcp
from harness.gateway import BUILD
from harness.shipped import CONF, Shipped

TOP = pathlib.Path(__file__).resolve().parents[2]
PLAIN = ("README", "CONTRIBUTING", "SECURITY", "test/bench/README")
PAGES = sorted(str(path.relative_to(TOP)) for path in TOP.glob("docs/**/*.md"))
FOLDERS = "conf|docs|test|common|packaging|mod_mcp_proxy|mod_mcp_ratelimit|mod_mcp_cache"
# Placeholders, what make makes, and what a reader is to write.
ABSENT = re.compile(r"NAME|FILE|AREA|VERSION|\.libs|\.so$|\.8$|bench/mcpload$|^conf/users$|\.tar\.gz|unit/test_\w+$")


def read(name):
    return (TOP / name).read_text(encoding="utf-8")


def anchors(text):
    """As the usual renderers make them of headings."""
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", read(page), flags=re.S)):
        if re.match(r"\w+://", target):
            continue
        file, _, anchor = target.partition("#")
        path = (TOP / page).parent / file if file else TOP / page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("page", [*PLAIN, *PAGES])
def test_files_that_are_named_are_there(page):
    words = re.findall(r"(?<![\w/.-])(?:%s)/[\w./*-]+" % FOLDERS, read(page))
    missing = [word for word in words if not ABSENT.search(word.rstrip("."))
               and not list(TOP.glob(word.rstrip("./")))
               and not list(BUILD.glob(word.rstrip("./")))]
    assert missing == []


@pytest.mark.parametrize("page", PLAIN)
def test_targets_of_make_are_there(page):
    known = set(re.findall(r"^([\w-]+):", read("Makefile.am"), re.M))
    known |= {"check", "install", "dist", "distcheck"}
    named = re.findall(r"^ +make (?!-|$)(\w+)", read(page), re.M)
    assert [name for name in named if name not in known] == []


def test_the_configuration_in_readme_works(stage, server, tmp_path):
    text = read("README")
    start, end = text.index('  <Proxy "balancer://mcp">'), text.index("  </Location>")
    lines = text[start:end] + "  </Location>\n"
    example = tmp_path / "readme.conf"
    example.write_text(lines, encoding="utf-8")
    gw = stage.gateway(server("a"), server("b"), kind=Shipped, file=example)
    assert {Mcp(gw).initialize().where() for _ in range(4)} == {"a", "b"}


def test_the_sizes_that_are_recommended_raise_no_warning(stage, server, tmp_path):
    blocks = re.findall(r"```apache\n(.*?)```", read("docs/sizing.md"), re.S)
    assert len(blocks) == 2
    for number, block in enumerate(blocks):
        example = tmp_path / ("sizes-%d.conf" % number)
        site = (CONF / "examples" / "one-server.conf").read_text(encoding="utf-8")
        example.write_text(block + site, encoding="utf-8")
        gw = stage.gateway(server("a"), kind=Shipped, file=example)
        # The tests may run with fewer descriptors than such a machine has.
        gw.expect_log("MCP2074", optional=True)
        assert Mcp(gw).initialize().where() == "a"


def test_each_log_message_has_its_remedy():
    entries = re.split(r"^### ", read("docs/log-messages.md"), flags=re.M)[1:]
    assert len(entries) > 50
    for entry in entries:
        assert re.findall(r"^- \*\*(.*):\*\*", entry, re.M) == \
            ["Meaning", "Likely cause", "What to do"], entry[:7]
