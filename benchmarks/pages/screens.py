"""docs/screens/ and the pictures of docs/live-page.md: every tab and state of the page, at four sizes, light and dark.

`python -m benchmarks.pages.screens` starts `rivulet web` with the embedded model, brings the page into each state as a
person would, and lays what Chromium shows on one sheet a size and theme. It takes some minutes on a quiet machine.
"""

from __future__ import annotations

import argparse
import base64
import html
import json
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.live.browser import FLAGS, require
from benchmarks.live.client import ROOT, Server

SIZES = {"phone": (390, 844), "tablet": (820, 1180), "laptop": (1280, 800), "screen": (1920, 1080)}
THEMES = ("light", "dark")
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
PATIENCE = 40_000
"""Milliseconds for anything to happen."""
KEPT = "rivulet.session"
"""Under this name a page keeps what its person chose (app/server/static/link.js)."""
SCRIPT = "a red ball bounces over the sea\na blue square moves to the right over the snow\n"
CELL = {"phone": 230, "tablet": 300, "laptop": 420, "screen": 420}
"""Width of a state on its sheet, in pixels."""
TALLEST = 2.0
"""A page longer than so many windows is cut there."""
SINGLE = {
    ("laptop", "light", "Live"): "live.jpg",
    ("laptop", "dark", "Live"): "live-dark.jpg",
    ("phone", "light", "Live"): "narrow.jpg",
    ("laptop", "light", "Long render"): "long-render.jpg",
    ("laptop", "light", "Compare, filmed"): "compare.jpg",
    ("laptop", "light", "Player"): "watch.jpg",
    ("laptop", "light", "Gallery"): "gallery.jpg",
    ("laptop", "light", "Models"): "models.jpg",
}
"""States that docs/live-page.md shows by themselves."""


def _say(page: Any, words: str, kind: str = "recache", key: str = "Enter") -> None:
    page.locator(f'#rv-transition label:has(input[value="{kind}"])').click()
    page.locator("#rv-prompt").fill(words)
    page.locator("#rv-prompt").press(key)


def _tab(page: Any, name: str) -> None:
    page.keyboard.press("Escape")
    page.get_by_role("tab", name=name).click()
    page.wait_for_timeout(700)


def _play(page: Any) -> None:
    _say(page, "a red ball bounces over the sea")
    page.wait_for_timeout(4000)


def _type(page: Any) -> None:
    page.locator("#rv-prompt").fill("a cat on the beach")
    page.locator("#rv-echo u").first.wait_for(state="attached")
    page.wait_for_timeout(500)


def _ask_unknown(page: Any) -> None:
    _say(page, "a blue cat over the sea")
    page.wait_for_timeout(4000)


def _queue(page: Any) -> None:
    _say(page, "a blue square over the snow", "soft", "Control+Enter")
    _say(page, "a green triangle in the desert", "recache", "Control+Enter")
    page.wait_for_timeout(800)


def _back(page: Any) -> None:
    page.locator("#rv-rewind").click()
    page.locator("#rv-undo").wait_for(state="visible")
    page.wait_for_timeout(800)


def _takes(page: Any) -> None:
    page.locator("#rv-takes-ask").click()
    page.wait_for_timeout(6000)


def _pause(page: Any) -> None:
    if page.locator("#rv-takes-close").is_visible():  # where the machine can spare no takes, it has said so
        page.locator("#rv-takes-close").click()
    page.locator("#rv-pause").click()
    page.wait_for_timeout(800)


def _camera(page: Any) -> None:
    page.locator("#rv-pause").click()
    page.click('button[data-source="camera"]')
    page.wait_for_selector('#rv-source[data-phase="on"]')
    page.wait_for_timeout(4000)


def _stop(page: Any) -> None:
    page.click('button[data-source="none"]')
    page.locator("#rv-stop").click()
    page.wait_for_timeout(800)


def _script(page: Any) -> None:
    page.locator('label:has([name="mode"][value="script"])').click()
    page.wait_for_timeout(400)


def _shots(page: Any) -> None:
    _tab(page, "Long render")
    page.locator('label:has([name="mode"][value="shots"])').click()
    page.wait_for_timeout(400)


def _check(page: Any) -> None:
    page.get_by_role("button", name="Check", exact=True).click()
    page.locator(".rv-check-table table").wait_for()


def _compare(page: Any) -> None:
    _tab(page, "Compare")
    page.locator('.rv-compare [data-act="play"]:enabled').wait_for()
    page.wait_for_timeout(1000)


def _player(page: Any) -> None:
    page.get_by_role("button", name="Watch: ball and square").first.click()
    page.wait_for_timeout(1500)


STATES: dict[str, Callable[[Any], None]] = {
    "Live": _play,
    "A word it does not know, typed": _type,
    "The same, on screen": _ask_unknown,
    "Queued, one blended": _queue,
    "Gone back": _back,
    "Four takes": _takes,
    "Paused": _pause,
    "Camera": _camera,
    "Stopped": _stop,
    "Long render": _shots,
    "Long render, a script": _script,
    "Checked": _check,
    "Player": _player,
    "Compare, filmed": _compare,
    "Gallery": lambda page: _tab(page, "Gallery"),
    "Models": lambda page: _tab(page, "Models"),
}
"""In the order in which a person comes through them; each begins where the one before ended."""


def _furnish(page: Any) -> str:
    """Make a film and a comparison, which all sheets show; returns what a page keeps of the comparison, as JSON."""
    _tab(page, "Long render")
    _script(page)
    form = page.locator('form:has([name="script_kind"])')
    form.locator('[name="script_kind"]').select_option("txt")
    form.locator("textarea").fill(SCRIPT)
    form.locator('[name="seconds"]').fill("12")
    form.locator('[name="name"]').fill("ball and square")
    page.get_by_role("button", name="Render", exact=True).click()
    page.get_by_role("button", name="Watch: ball and square").first.wait_for(timeout=5 * PATIENCE)
    _tab(page, "Compare")
    compare = page.locator(".rv-compare form")
    compare.locator('[name="script"]').fill(SCRIPT)
    compare.locator('[name="seconds"]').fill("8")
    compare.locator('[name="num_inference_steps"]').nth(1).fill("2")
    page.get_by_role("button", name="Render all").click()
    page.locator('.rv-compare [data-act="play"]:enabled').wait_for(timeout=5 * PATIENCE)
    return page.evaluate(
        f"(({{compare, comparing}}) => JSON.stringify({{compare, comparing}}))(JSON.parse(sessionStorage['{KEPT}']))"
    )


def _open(browser: Any, url: str, size: tuple[int, int], theme: str, compared: str = "{}") -> Any:
    """A page of its own, which has the film comparison of another one (`_furnish`)."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=theme, permissions=["camera"]
    )
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.add_init_script(f"sessionStorage['{KEPT}'] ??= {json.dumps(compared)}")
    page.goto(f"{url}?__theme={theme}")
    page.wait_for_selector(".gradio-container #rv-source", state="attached")
    page.wait_for_selector("#rv-waiting", state="hidden")
    return page


def _shoot(page: Any) -> bytes:
    """What the page shows from its top, as a JPEG."""
    page.evaluate("scrollTo(0, 0)")
    view = page.viewport_size
    height = page.evaluate("document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": view["width"], "height": min(height, TALLEST * view["height"])}
    return page.screenshot(type="jpeg", quality=88, full_page=True, clip=clip)


def _sheet(browser: Any, pictures: dict[str, bytes], width: int, theme: str) -> bytes:
    """All states of a size and theme, side by side under their names."""
    cells = "".join(
        f"<figure><img src='data:image/jpeg;base64,{base64.b64encode(data).decode()}'>"
        f"<figcaption>{html.escape(name)}</figcaption></figure>"
        for name, data in pictures.items()
    )
    ground, ink = ("#fff", "#222") if theme == "light" else ("#111", "#ddd")
    across = 8 if width < 250 else 6 if width < 350 else 4
    page = browser.new_page(viewport={"width": across * (width + 16) + 16, "height": 400})
    page.set_content(
        f"<style>body{{margin:8px;background:{ground};color:{ink};font:13px system-ui;display:grid;"
        f"grid-template-columns:repeat({across},{width}px);gap:16px;align-items:start}}"
        f"figure{{margin:0}}img{{width:100%;border:1px solid #8886;border-radius:4px}}</style>{cells}"
    )
    data = page.screenshot(type="jpeg", quality=72, full_page=True)
    page.close()
    return data


def draw(folder: Path, sizes: list[str], themes: list[str]) -> None:
    """Draw the sheets into folder/screens and the single pictures into `folder`."""
    from playwright.sync_api import sync_playwright

    (folder / "screens").mkdir(parents=True, exist_ok=True)
    with ExitStack() as ending:
        place = Path(ending.enter_context(tempfile.TemporaryDirectory()))
        driver = ending.enter_context(sync_playwright())
        browser = driver.chromium.launch(executable_path=require(), args=[*FLAGS, *CAMERA])
        ending.callback(browser.close)
        server = Server(place, [])
        ending.callback(server.end)
        page = _open(browser, server.url, SIZES["laptop"], "light")
        compared = _furnish(page)
        page.context.close()
        for theme in themes:
            for name in sizes:
                page = _open(browser, server.url, SIZES[name], theme, compared)
                pictures: dict[str, bytes] = {}
                for state, reach in STATES.items():
                    reach(page)
                    pictures[state] = _shoot(page)
                    if single := SINGLE.get((name, theme, state)):
                        (folder / single).write_bytes(pictures[state])
                    print(f"{theme:6} {name:7} {state}", flush=True)
                page.context.close()
                (folder / "screens" / f"{name}-{theme}.jpg").write_bytes(_sheet(browser, pictures, CELL[name], theme))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "docs")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--themes", nargs="+", choices=THEMES, default=list(THEMES))
    given = parser.parse_args()
    draw(given.folder, given.sizes, given.themes)
