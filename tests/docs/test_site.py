"""The documentation, built as its readers build it, and opened in a browser."""

import functools
import http.server
import re
import shutil
import threading
from html.parser import HTMLParser
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import pytest
from processes import ROOT, run_python

pytest.importorskip("sphinx", reason="pip install '.[docs]'")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt install chromium")
SCREENS = {  # width, height, colour scheme
    "desktop light": (1280, 900, "light"),
    "desktop dark": (1280, 900, "dark"),
    "telephone light": (390, 844, "light"),
    "telephone dark": (360, 740, "dark"),
}
# A page of each kind; all pages are opened once, on a desktop.
TYPICAL = (
    "index.html",
    "tutorials/batch_norm.html",
    "guides/coming_from.html",
    "laboratory.html",
    "measurements/batch_norm.html",
    "api/generated/npbn.BatchNorm1d.html",
)

# Building executes the notebooks: a minute on a quiet machine.
pytestmark = [pytest.mark.process, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build as the guide says; a warning is an error."""
    out = tmp_path_factory.mktemp("docs")
    run_python("-m", "sphinx", "-W", "-q", "docs", out, "-d", out.with_name("doctrees"), limit=600)
    return out


def pages(site):
    found = (path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    return sorted(page for page in found if not page.startswith("_"))


class Links(HTMLParser):
    """The targets of a page's links and loads, and the names that links may point to."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.names = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.names |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        for key in ("src", "href") if tag != "a" else ():
            if found.get(key) and found.get("rel") not in ("index", "search", "next", "prev"):
                self.loads.append(found[key])


def test_every_internal_link_leads_somewhere_and_nothing_is_loaded_from_elsewhere(site):
    parsed = {page: Links((site / page).read_text(encoding="utf-8")) for page in pages(site)}
    assert len(parsed) > 100
    wrong, followed = [], 0
    for page, found in parsed.items():
        for link in found.links + found.loads:
            if urlparse(link).scheme in ("http", "https", "mailto", "data"):
                if link in found.loads and not link.startswith("data:"):
                    wrong.append(f"{page} loads {link}")
                continue
            path, fragment = urldefrag(urljoin(page, link))
            path = unquote(urlparse(path).path) or page
            followed += 1
            if not (site / path).is_file():
                wrong.append(f"{page}: no file for {link}")
            elif fragment and path in parsed and unquote(fragment) not in parsed[path].names:
                wrong.append(f"{page}: no {fragment} in {path}")
    assert wrong == []
    assert followed > 1000


def test_style_sheets_load_nothing_from_elsewhere(site):
    sheets = list(site.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        text = sheet.read_text(encoding="utf-8")
        assert not re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", text), sheet


# -- in a browser -------------------------------------------------------------------------------


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def server(site):
    """Serve the pages on this machine; return the address."""
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_address[1]}/"
        serving.shutdown()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with playwright.sync_playwright() as program:
        # Chromium refuses its sandbox to root, as whom CI runs.
        browser = program.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Tab:
    """A page on a screen, with what it asked for and complained of."""

    def __init__(self, browser, base, screen="desktop light"):
        width, height, scheme = SCREENS[screen]
        viewport = {"width": width, "height": height}
        self.base, self.outside, self.complaints = base, [], []
        self.context = browser.new_context(viewport=viewport, color_scheme=scheme)
        self.context.route("**/*", self._pass)
        self.tab = self.context.new_page()
        self.tab.on("console", self._heard)
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()

    def _pass(self, route):
        if route.request.url.startswith((self.base, "data:", "blob:")):
            route.continue_()
        else:
            self.outside.append(route.request.url)
            route.abort()

    def _heard(self, message):
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def open(self, page):
        self.tab.goto(self.base + page, wait_until="load")

    def ask(self, question):
        return self.tab.evaluate(question)


UNLOADED = """() => [...document.images]
    .map(i => { i.loading = 'eager'; return i })
    .filter(i => !(i.complete && i.naturalWidth > 0)).map(i => i.src)"""
WITHOUT_ALT = """() => [...document.querySelectorAll('article img')]
    .filter(i => i.alt.length < 20).map(i => i.src)"""
TOO_WIDE = """() => document.documentElement.scrollWidth > window.innerWidth &&
    [...document.querySelectorAll('article *')]
    .filter(e => e.getBoundingClientRect().right > window.innerWidth)
    .slice(0, 3).map(e => e.outerHTML.slice(0, 80))"""


@needs_chromium
def test_every_page_opens_with_all_pictures_and_asks_nobody_else(browser, site, server):
    with Tab(browser, server) as tab:
        for page in pages(site):
            tab.open(page)
            assert tab.ask(UNLOADED) == [], page
            assert tab.ask(WITHOUT_ALT) == [], page
        assert tab.outside == []
        assert tab.complaints == []


@needs_chromium
@pytest.mark.parametrize("screen", SCREENS)
def test_pages_fit_the_screen_and_have_its_brightness(browser, server, screen, tmp_path):
    with Tab(browser, server, screen) as tab:
        for page in TYPICAL:
            tab.open(page)
            assert not tab.ask(TOO_WIDE), (page, tab.ask(TOO_WIDE))
            tab.tab.screenshot(path=tmp_path / f"{page.replace('/', '-')}.png")
            colour = tab.ask("getComputedStyle(document.body).backgroundColor")
            brightness = int(re.findall(r"\d+", colour)[0])
            assert brightness > 200 if screen.endswith("light") else brightness < 60, page


@needs_chromium
@pytest.mark.parametrize("word", ["momentum", "BatchNorm2d", "fold_batch_norm"])
def test_search_finds_what_there_is(browser, server, word):
    with Tab(browser, server) as tab:
        tab.open(f"search.html?q={word}")
        tab.tab.wait_for_selector("#search-results li a")
        assert tab.ask("document.querySelectorAll('#search-results li a').length") >= 1
        assert tab.outside == []


@needs_chromium
def test_search_works_without_a_server_too(browser, site):
    with Tab(browser, site.as_uri() + "/") as tab:
        tab.open("search.html?q=momentum")
        tab.tab.wait_for_selector("#search-results li a")
        assert tab.outside == []


def test_the_api_pages_have_every_public_name(site):
    import npbn
    import npbn.distributed
    import npbn.testing
    import npbn.torch_reference

    shown = {path.stem for path in (site / "api" / "generated").glob("*.html")}
    modules = (npbn, npbn.functional, npbn.data, npbn.errors, npbn.init, npbn.distributed)
    modules += (npbn.testing, npbn.torch_reference)
    missing = []
    for module in modules:
        for name in module.__all__:
            found = getattr(module, name)
            names = {f"{module.__name__}.{name}", f"npbn.{name}", f"npbn.data.{name}"}
            if type(found).__name__ != "module" and not names & shown:
                missing.append(f"{module.__name__}.{name}")
    assert missing == []


def test_each_picture_of_the_laboratory_is_shown_and_each_experiment_has_a_verdict():
    from examples.lab import EXPERIMENTS
    from examples.lab.experiment import experiment

    folder = ROOT / "docs" / "laboratory"
    text = (folder / "results.md").read_text(encoding="utf-8")
    for name in EXPERIMENTS:
        assert f"## {experiment(name).TITLE}\n" in text
    assert text.count("**Verdict:") == len(EXPERIMENTS)
    for picture in folder.glob("*.png"):
        assert picture.name in text
