# SPDX-License-Identifier: Apache-2.0
"""docs/directives.md against the modules' own tables: names, defaults, scopes, choices, pages."""
import pathlib
import re
import subprocess

import pytest

from harness.gateway import BUILD

TOP = pathlib.Path(__file__).resolve().parents[2]
TABLES = sorted(TOP.glob("mod_mcp_*/*.def"))
UNITS = {"ms": 1000, "s": 10**6, "mi": 60 * 10**6, "m": 60 * 10**6, "h": 3600 * 10**6,
         "d": 86400 * 10**6, "": 10**6}
SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def entries_of(table):
    """The lines of a .def file after the preprocessor: dicts by what mcp_httpd_conf.h says."""
    source = "#define apr_int64_t\n#define APR_USEC_PER_SEC 1000000\n#define APR_TIME_C(n) (n)\n"
    source += '#include "%s"\n' % table
    text = subprocess.run(["cpp", "-P", "-"], input=source, capture_output=True, text=True,
                          check=True).stdout
    names = ("id", "kind", "scope", "name", "value", "min", "max", "accepted", "help")
    for body in re.findall(r"MCP_DIRECTIVE\((.*?)\)\s*(?=MCP_DIRECTIVE|$)", text, re.S):
        parts = re.findall(r'(?:"(?:[^"\\]|\\.)*"\s*)+|[^,"]+', body)
        values = [part.strip() for part in parts if part.strip()]
        entry = dict(zip(names, values))
        assert len(values) == 9, values
        for key in ("name", "accepted", "help"):
            entry[key] = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', entry[key]))
        for key in ("value", "min", "max"):
            expression = re.sub(r"\(\s*\)", "", entry[key])
            assert re.fullmatch(r"[-\d\s*()+]+", expression), expression
            entry[key] = eval(expression)  # arithmetic, as the line above says
        yield entry


ALL = [pytest.param(table.parent.name, entry, id=entry["name"])
       for table in TABLES for entry in entries_of(table)]


def manual(name):
    """The fields of a directive's entry."""
    text = (TOP / "docs" / "directives.md").read_text(encoding="utf-8")
    match = re.search(r"^## %s\n(.*?)(?=^## |\Z)" % name, text, re.S | re.M)
    assert match, "docs/directives.md has no %s" % name
    fields = re.findall(r"^- \*\*(\w+):\*\* (.*?)(?=\n- |\n\n)", match[1], re.S | re.M)
    return {key: re.sub(r"\s+", " ", value) for key, value in fields}, match[1]


def written(entry, word):
    """The number that a default in the manual stands for."""
    kind = entry["kind"]
    if kind == "MCP_CONF_FLAG":
        return ["Off", "On"].index(word)
    if kind == "MCP_CONF_CHOICE":
        return entry["accepted"].split("|").index(word)
    if kind == "MCP_CONF_SIZE":
        number, unit = re.fullmatch(r"(\d+)([KMG]?)", word).groups()
        return int(number) * SIZES[unit]
    if kind.startswith("MCP_CONF_DURATION"):
        number, unit = re.fullmatch(r"(\d+)([a-z]*)", word).groups()
        return int(number) * UNITS[unit]
    return int(word)


def test_the_tables_are_found():
    assert len(TABLES) == 3
    assert len(ALL) > 25


@pytest.mark.parametrize("module, entry", ALL)
def test_the_manual_says_what_the_table_says(module, entry):
    fields, _ = manual(entry["name"])
    assert fields["Module"] == module
    assert fields["Description"]
    default = re.search(r"`%s (.*?)`" % entry["name"], fields["Default"])
    if entry["kind"] == "MCP_CONF_TEXT":
        assert default[1] if default else "none" in fields["Default"]
        if default:
            assert default[1] == entry["accepted"]
    else:
        assert written(entry, default[1]) == entry["value"]
    assert ("one value" in fields["Context"]) == (entry["scope"] == "MCP_CONF_SERVER")
    for choice in entry["accepted"].split("|") if entry["kind"] == "MCP_CONF_CHOICE" else ():
        assert choice in fields["Syntax"]
    if entry["kind"] == "MCP_CONF_FLAG":
        assert "On|Off" in fields["Syntax"]


@pytest.mark.parametrize("module", ["mod_mcp_proxy", "mod_mcp_ratelimit", "mod_mcp_cache"])
def test_the_manual_page_has_each_directive_of_its_module(module):
    page = (BUILD / "docs" / (module + ".8")).read_text(encoding="utf-8")
    text = (TOP / "docs" / "directives.md").read_text(encoding="utf-8")
    wanted = [name for name in re.findall(r"^## (MCP\w+)$", text, re.M)
              if manual(name)[0]["Module"] == module]
    assert len(wanted) > 5
    assert [name for name in re.findall(r"^\.SS (MCP\w+)$", page, re.M)] == wanted
    for raw in ("`", "**", "](#"):
        assert raw not in page


def test_a_command_on_a_manual_page_can_be_copied():
    """It stands as it is, neither filled nor hyphenated."""
    page = (BUILD / "docs" / "mod_mcp_proxy.8").read_text(encoding="utf-8").replace("\\-", "-")
    text = (TOP / "docs" / "directives.md").read_text(encoding="utf-8")
    commands = re.findall(r"^    (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    assert len(commands) > 1
    for command in commands:
        assert ".nf\n" + command + "\n.fi\n" in page


def test_the_columns_of_a_table_have_no_names_on_a_manual_page():
    page = (BUILD / "docs" / "mod_mcp_proxy.8").read_text(encoding="utf-8")
    assert re.search(r"^\.TP\n\\fBMCP_METHOD", page, re.M)
    assert not re.search(r"^\.TP\nvariable$", page, re.M)
