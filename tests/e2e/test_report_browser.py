"""report.html in a real browser: what it shows, that it says nothing to the console and asks nobody for anything."""

import io
import json
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from lcia.metrics.matrix import AccuracyMatrix
from lcia.report import page
from lcia.report.figures.run import StageSteps
from lcia.report.page import Decision, Prediction, ReportInput, RunReport

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
QUIET += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
ATTACK = "<script>document.title='taken'</script><img src=https://example.org/x.png onerror=document.title='taken'>"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium in PATH (Debian: apt-get install chromium)")


class Visit:
    """One look at a page: its DOM after loading, what the console said, and the addresses asked for."""

    def __init__(self, page, scratch):
        log = scratch / "net.json"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", *QUIET, f"--user-data-dir={scratch / 'profile'}"]
        watch = ["--enable-logging=stderr", f"--log-net-log={log}", "--dump-dom", page.as_uri()]
        done = subprocess.run([CHROMIUM, *flags, *watch], capture_output=True, text=True, timeout=120, check=True)
        self.dom = done.stdout
        self.console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
        starts = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
        # The browser's own business (updates, time) has no origin; what a page asks for has one.
        asked = [start for start in starts if start.get("initiator", "not an origin") != "not an origin"]
        self.requests = sorted({start["url"] for start in asked if start["url"].startswith(("http", "ws"))})


def example():
    stream = io.BytesIO()
    Image.new("RGB", (48, 48), "red").save(stream, "PNG")
    steps = tuple({"step": s, "beta_q05": 0.6, "beta_q50": 0.8, "beta_q95": 0.9, "fallback": 0.5} for s in (5.0, 10.0))
    return RunReport(
        "lcia",
        AccuracyMatrix(("shape", "color"), np.array([[91.5, np.nan], [88.25, 70.0]])),
        {"strategy": {"kind": "curvature"}},
        (StageSteps("shape", ()), StageSteps("color", steps, (0.5, 0.99))),
        (
            Decision("shape", "train", "g0", "new group"),
            Decision("color", "train", "g1", "new group", {"g0": 0.09}, 0.9),
        ),
        (Prediction("color", "1", ATTACK, ("red",), ATTACK, 0.0, "g1", stream.getvalue()),),
        {"train shape": 12.0},
    )


@pytest.fixture(scope="module")
def visit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    counts, environment = ({"task": "shape", "rows": 2000},), {"torch": "2.13.0"}
    shown = page.write(ReportInput("A stream", (example(),), counts, environment), folder)
    return Visit(shown, folder)


def test_the_browser_shows_every_part_of_the_report(visit):
    for text in (
        "91.5",
        "88.2",
        "average accuracy",
        "Weight of the old average",
        "g0 0.090",
        "2000",
        "2.13.0",
        "curvature",
    ):
        assert text in visit.dom
    assert visit.dom.count("<svg") == 2
    assert visit.dom.count('src="data:image/png;base64,') == 1


def test_model_output_is_shown_and_never_run(visit):
    assert "<title>A stream</title>" in visit.dom
    assert "<script" not in visit.dom
    assert visit.dom.count("&lt;script&gt;document.title='taken'") == 2


def test_the_page_is_silent_on_the_console_and_on_the_network(visit):
    assert visit.console == []
    assert visit.requests == []


def test_the_watch_would_have_noticed(tmp_path):
    page = tmp_path / "loud.html"
    page.write_text("<script>console.error('loud')</script><img src='http://127.0.0.1:9/x.png'>")
    loud = Visit(page, tmp_path)
    assert any("loud" in line for line in loud.console)
    assert "http://127.0.0.1:9/x.png" in loud.requests
