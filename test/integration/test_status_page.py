# SPDX-License-Identifier: Apache-2.0
"""mcp-status in a real browser: it looks right, runs what it brings and nothing else, ends streams.

MCP_PICTURES=FOLDER keeps a picture of each view.
"""
import pytest

from harness import browser as browsers
from harness import limits, tags
from harness.caching import MODULE as CACHE
from harness.client import Mcp, call, rpc
from harness.metrics import PLACES
from harness.wait import wait_until
from test_status import HOSTILE, hostile_gateway, hostile_user, see

pytestmark = pytest.mark.skipif(
    not browsers.program(), reason="no Chromium here (Debian: apt-get install chromium)")

VIEWS = {
    "light": {},
    "dark": {"dark": True},
    "narrow": {"width": 360, "height": 780},
    "narrow-dark": {"width": 360, "height": 780, "dark": True},
    "wide": {"width": 1920, "height": 1080},
}
# Nothing is wider than the window, and no text runs out of its box without being cut on purpose.
OVERFLOWS = """[...document.querySelectorAll('body, body *')].filter(e =>
    e.getBoundingClientRect().right > innerWidth + 0.5 && !e.closest('.scroll, svg, script')
    || e === document.body && document.documentElement.scrollWidth > innerWidth).map(e => e.outerHTML.slice(0, 90))"""
# The contrast of all text, as WCAG reckons it; what is below 4.5 to 1.
FAINT = """(() => {
    const parse = c => c.match(/[\\d.]+/g).map(Number);
    const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= .03928 ? v / 12.92
        : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
    const ground = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e)
        .backgroundColor); if (c.length < 4 || c[3] === 1) return c.slice(0, 3); }
        return [255, 255, 255]; };
    const found = [];
    for (const e of document.querySelectorAll('body *')) {
        if (e.closest('script, noscript') || ![...e.childNodes].some(n => n.nodeType === 3
            && n.data.trim())) continue;
        const style = getComputedStyle(e);
        const a = light(parse(e.closest('svg') ? style.fill : style.color).slice(0, 3));
        const b = light(ground(e));
        const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        if (ratio < 4.5) found.push(e.outerHTML.slice(0, 60) + ' ' + ratio.toFixed(2));
    }
    return found; })()"""
ROW = "#streams tbody tr"


@pytest.fixture(name="browser")
def _browser(keep):
    return keep(browsers.Browser())


def url_of(gw):
    return "http://127.0.0.1:%d/status" % gw.port


def busy(gateway, server):
    """A gateway with all there is to show, and users with hostile names."""
    a, b = server("a"), server("b")
    gw = hostile_gateway(
        gateway, a, b, children=2,
        server=[limits.LOAD, 'LoadModule mcp_cache_module "%s"' % CACHE, *PLACES],
        tuning=["<Location /mcp>", "MCPRateLimitStreams 5", "MCPRateLimitTool hold 1/60s",
                "MCPCacheTool who* 60s", 'MCPCacheTool "<b>&<script>alert(3)</script>" 1h',
                "</Location>"])
    clients = [hostile_user(gw, name) for name in HOSTILE.values()]
    for client in clients:
        stream = client.listen()
        for _ in range(3):
            client.post(call("whoami"))
        for one in (a, b):
            if client.session in one.sessions:
                one.push(client.session, rpc("notifications/message", {"text": "z" * 500}, None))
                stream.next_event()
    return gw


def test_it_looks_right_in_light_and_dark_narrow_and_wide(gateway, server, browser):
    gw = busy(gateway, server)
    wait_until(lambda: len(see(gw)["history"]) > 1, "something to plot", 60)
    for name, options in VIEWS.items():
        page = browser.page(**options)
        page.open(url_of(gw))
        assert page.tell(OVERFLOWS) == [], name
        assert page.tell(FAINT) == [], name
        assert page.tell("document.querySelectorAll('figure svg path.curve').length") == 4, name
        assert page.complaints() == [], name
        assert page.requested() == [url_of(gw)], "nothing from anywhere else"
        # A picture with something in it: not one colour.
        assert len(page.picture(name)) > 20000, name


def test_dark_is_dark_and_light_is_light(gateway, server, browser):
    gw = gateway(server("a"), server=PLACES)
    shades = []
    for dark in (False, True):
        page = browser.page(dark=dark)
        page.open(url_of(gw))
        colour = page.tell("getComputedStyle(document.body).backgroundColor")
        shades.append(sum(int(part) for part in colour[4:-1].split(",")))
    assert shades[0] > 600 and shades[1] < 150


def test_hostile_names_stay_text(gateway, server, browser):
    gw = busy(gateway, server)
    page = browser.page()
    page.open(url_of(gw))
    assert page.tell("document.querySelectorAll('main img, main b:not(.tile b), td script').length") == 0
    names = page.tell("[...document.querySelectorAll('%s td:first-child')].map(e => e.innerText)" % ROW)
    assert names[0] == HOSTILE["markup"] and names[1] == HOSTILE["attribute"]
    assert names[3].replace("\n", "") == "evilU+202Egnp.exe"
    tools = page.tell("[...document.querySelectorAll('#cache td code')].map(e => e.innerText)")
    assert "<b>&<script>alert(3)</script>" in tools
    assert page.seen("Page.javascriptDialogOpening") == []
    assert page.complaints() == []


@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
def test_the_button_ends_its_stream_and_no_other(gateway, server, browser, script):
    a = server("a")
    gw = gateway(a, server=PLACES, children=2)
    client = Mcp(gw).initialize()
    streams = [client.listen() for _ in range(3)]
    page = browser.page(script=script)
    page.open(url_of(gw))
    gw.expect_log(tags.STREAM_ENDED)
    before = page.loads()
    page.click(ROW + ":nth-child(2) button")
    assert streams[1].wait_end() == "complete"
    page.wait_loaded(before)
    assert page.tell("document.querySelector('.note').innerText") == "The stream has been told to end."
    assert len(page.seen("Page.javascriptDialogOpening")) == (1 if script else 0)
    wait_until(lambda: see(gw)["streams"]["open"] == 2, "the other two to stay")
    assert page.complaints() == []


def test_without_script_everything_is_there_but_the_plots(gateway, server, browser):
    gw = busy(gateway, server)
    page = browser.page(script=False)
    page.open(url_of(gw))
    assert page.tell("document.querySelectorAll('figure svg').length") == 0
    assert page.tell("document.querySelectorAll('#tiles .tile').length") == 6
    for part in ("members", "limits", "cache", "stores", "streams"):
        assert page.tell("document.querySelectorAll('#%s tbody tr').length" % part) > 0, part
    assert "need JavaScript" in page.tell("document.body.innerText")
    assert page.complaints() == []
    page.picture("no-script")


def test_the_page_keeps_itself_fresh(gateway, server, browser):
    a = server("a")
    gw = gateway(a, server=PLACES)
    page = browser.page()
    page.open(url_of(gw))
    assert "No event stream is open." in page.tell("document.body.innerText")
    stream = Mcp(gw).initialize().listen()
    page.wait("document.querySelectorAll('%s').length === 1" % ROW, "the new stream to be shown")
    assert page.tell("document.querySelector('#tiles b').innerText") == "1"
    gw.expect_log(tags.STREAM_ENDED)
    page.click(ROW + " button")
    assert stream.wait_end() == "complete"
    assert set(page.requested()) <= {url_of(gw), url_of(gw) + "?outcome=ended"}
    assert page.complaints() == []


def test_a_foreign_page_cannot_end_a_stream(gateway, server, browser):
    gw = gateway(server("a"), server=PLACES)
    stream = Mcp(gw).initialize().listen()
    told = see(gw)
    evil = gateway(server=["DocumentRoot htdocs"], streams=0, start=False)
    (evil.directory / "htdocs").mkdir()
    (evil.directory / "htdocs" / "evil.html").write_text(
        '<!DOCTYPE html><form method=post action="%s"><input name=token value="%s">'
        '<button name=end value="%s">Free tea</button></form>'
        % (url_of(gw), told["token"], told["longest"][0]["stream"]), encoding="utf-8")
    evil.start()
    page = browser.page()
    page.open("http://127.0.0.1:%d/evil.html" % evil.port)
    gw.expect_log(tags.CHANGE_REFUSED)
    page.click("button")
    wait_until(lambda: any(tags.CHANGE_REFUSED == line.tag for line in gw.log()), "the refusal")
    assert see(gw)["longest"][0]["ending"] is False
    stream.connection.close()
