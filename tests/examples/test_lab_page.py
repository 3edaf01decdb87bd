"""The laboratory's page in a browser: all pictures there, nothing fetched, readable everywhere."""

import shutil

import pytest

from examples.lab import page
from examples.lab.drawing import render
from examples.lab.experiment import experiment
from examples.lab.results import Results

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt install chromium")
SCREENS = {"desk": (1280, 800, "light"), "telephone": (360, 740, "dark")}


class Shown:
    """What a browser makes of a page."""

    def __init__(self, browser, path, screen):
        width, height, scheme = SCREENS[screen]
        self.requests, self.complaints = [], []
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, offline=True
        )
        self.tab = context.new_page()
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("console", lambda message: self.complaints.append(message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.goto(path.as_uri())
        self.tab.screenshot(path=path.with_name(f"{screen}.png"), full_page=True)

    def ask(self, question):
        return self.tab.evaluate(question)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with playwright.sync_playwright() as program:
        # Chromium refuses its sandbox to root, as whom CI runs.
        browser = program.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def made_up(trial):
    """Return a result that the experiment might have had."""
    return {"accuracy": 0.9 if trial["batch_norm"] else 0.3, "diverged": trial["lr"] == 10}


@pytest.fixture(scope="module")
def one_experiment(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "index.html"
    trials = experiment("sensitivity").trials("quick")
    results = Results(path.with_name("x.json"), {"data": "<none> & nothing"}, trials)
    for trial in trials:
        results.add(trial, made_up(trial))
    page.write(path, {"sensitivity": (results, render("sensitivity", results.records))}, "--quick")
    return path


@needs_chromium
@pytest.mark.process
@pytest.mark.parametrize("screen", SCREENS)
def test_every_picture_is_loaded_and_nothing_else_is_asked_for(browser, one_experiment, screen):
    shown = Shown(browser, one_experiment, screen)
    local = [url for url in shown.requests if not url.startswith("data:")]
    assert local == [one_experiment.as_uri()]
    assert shown.complaints == []
    images = shown.ask("[...document.images].map(i => [i.complete && i.naturalWidth > 0, i.alt])")
    assert len(images) == 2
    assert all(loaded and len(alt) > 40 for loaded, alt in images)
    # Nothing sticks out: a telephone's reader scrolls in one direction.
    assert shown.ask("document.documentElement.scrollWidth <= window.innerWidth")
    for tag, count in (("section", 1), ("table", 1), ("details", 2), (".verdict", 1)):
        assert shown.ask(f"document.querySelectorAll('{tag}').length") == count, tag


@needs_chromium
@pytest.mark.process
@pytest.mark.slow
def test_in_a_dark_room_page_and_pictures_are_dark(browser, one_experiment):
    brightness = """() => {
        const canvas = document.createElement('canvas'), image = document.images[0]
        canvas.width = canvas.height = 1
        canvas.getContext('2d').drawImage(image, 0, 0, 1, 1, 0, 0, 1, 1)
        const corner = canvas.getContext('2d').getImageData(0, 0, 1, 1).data
        const page = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)
        return [page[0], corner[0]]
    }"""
    for screen, low, high in (("desk", 230, 255), ("telephone", 0, 60)):
        shown = Shown(browser, one_experiment, screen).ask(brightness)
        assert all(low <= value <= high for value in shown), (screen, shown)


@pytest.mark.slow
def test_without_a_browser_the_page_says_what_there_is(one_experiment):
    text = one_experiment.read_text()
    about = experiment("sensitivity")
    assert all(words in text for words in (about.QUESTION, about.CLAIM[1:], about.SOURCE))
    assert "&lt;none&gt; &amp; nothing" in text
    assert "python -m examples.lab sensitivity --quick" in text
    assert "http://" not in text
    assert "https://" not in text
    assert "<!--" not in text
