"""The live page as a person meets it: a real Chromium on the same machine, from the address bar to pixels.

Times are the page's own, from the start of its navigation to the first picture drawn on a canvas.
"""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from app.errors import UsageMistake
from benchmarks.live.client import Server

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
COUNT = """
window.drawn = [];
const draw = CanvasRenderingContext2D.prototype.drawImage;
CanvasRenderingContext2D.prototype.drawImage = function (...given) {
  draw.apply(this, given);
  window.drawn.push(performance.now() / 1000);
};
"""
GRACE = 7.0
"""Seconds until a page that was closed costs nothing any more."""
COLD, WARM, RATE = 5.0, 1.0, 0.95
"""Bounds: seconds to the first picture on a server that has just started, and on one that plays; of the film's rate."""


def require() -> str:
    """The command of this machine's Chromium.

    Raises:
        UsageMistake: there is none, or nothing to drive it with.
    """
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        raise UsageMistake("The part browser needs Chromium. Install it (apt-get install chromium) or use --only.")
    if find_spec("playwright") is None:
        raise UsageMistake("The part browser needs playwright. Install it (pip install playwright) or use --only.")
    return found


def measure(folder: Path, words: list[str], *, seconds: float = 20.0, visits: int = 3) -> dict[str, Any]:
    """Open the page as soon as a server is ready, let it play, close it, and open it anew, one at a time.

    Args:
        folder: for what the server keeps.
        words: further arguments of `rivulet web`.
        seconds: of film to count frames in.
        visits: further pages, one at a time.
    """
    from playwright.sync_api import sync_playwright

    with ExitStack() as ending:
        driver = ending.enter_context(sync_playwright())
        browser = driver.chromium.launch(executable_path=require(), args=FLAGS)
        ending.callback(browser.close)
        server = Server(folder, words)
        ending.callback(server.end)

        def visit() -> Any:
            page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
            page.add_init_script(COUNT)
            page.goto(server.url, wait_until="commit")
            page.wait_for_function("window.drawn.length > 0", timeout=60_000)
            return page

        page = visit()
        cold = page.evaluate("window.drawn[0]")
        time.sleep(3)  # loading the rest of the page is over
        before, begun = page.evaluate("[window.drawn.length, performance.now() / 1000]")
        time.sleep(seconds)
        after, ended = page.evaluate("[window.drawn.length, performance.now() / 1000]")
        page.context.close()
        time.sleep(GRACE)
        warm: list[float] = []
        for _ in range(visits):
            other = visit()
            warm.append(other.evaluate("window.drawn[0]"))
            other.context.close()
            time.sleep(GRACE)
        return {
            "ready_s": round(server.ready - server.begun, 2),
            "first_drawn_cold_s": round(cold, 2),
            "first_drawn_warm_s": round(median(warm), 2),
            "drawn_fps": round((after - before) / (ended - begun), 2),
        }
