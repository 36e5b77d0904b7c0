"""The page end to end: `rivulet web` with the real embedded model, driven in a real Chromium."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.errors import UsageMistake
from app.opening import EngineRequest
from app.page import STATIC, build_page, page_facts, page_script
from app.scenes import EMBEDDED, WORDS
from pipelines.presets import get_preset

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
DAY, NIGHT = "a big red ball bounces over the sea", "a yellow star spins in the starry night"
SPY = """
window.spied = {boxes: new Set(), frames: [], sockets: [], drawn: []};
const See = window.WebSocket;
window.WebSocket = function (...given) {
  const socket = new See(...given);
  spied.sockets.push(socket);
  socket.addEventListener('message', ({data}) => {
    if (typeof data !== 'string') spied.frames.push(data.slice(0));
  });
  return socket;
};
Object.assign(window.WebSocket, {OPEN: 1, CONNECTING: 0, CLOSING: 2, CLOSED: 3});
const draw = CanvasRenderingContext2D.prototype.drawImage;
CanvasRenderingContext2D.prototype.drawImage = function (...given) {
  draw.apply(this, given);
  const {data} = this.getImageData(0, 0, this.canvas.width, this.canvas.height);
  let light = 0, hash = 0;
  for (let i = 0; i < data.length; i += 4) {
    light += data[i] + data[i + 1] + data[i + 2];
    hash = (hash * 31 + data[i]) | 0;
  }
  spied.drawn.push({light: light / data.length / 0.75, hash});
};
(function look() {
  const stage = document.querySelector('#rv-stage');
  if (stage) {
    const {x, y, width, height} = stage.getBoundingClientRect();
    spied.boxes.add([x, y, width, height].map(Math.round).join(' '));
  }
  requestAnimationFrame(look);
})();
"""
"""Watches from inside: what the socket brings, what is drawn (its mean light, 0..255), where the box is."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("live")
    flags = ["--port", "0", "--no_open", "--seed", "42", "--threads", "1", "--prompt", DAY, "--folder", str(folder)]
    command = [sys.executable, "-W", "ignore", "-m", "app", "web", *flags]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        url = wait(lambda: re.search(r"http://\S+", (folder / "log").read_text()), 60, lambda: server.poll() is None)
        wait(lambda: answers(f"{url.group()}readyz"), 60, lambda: server.poll() is None)
        yield url.group()
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A visitor that nobody knows, on a film of its own that plays."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        yield open_page(context, address)


def open_page(context: Any, url: str) -> Any:
    page = context.new_page()
    page.requested = []
    page.on("request", lambda request: page.requested.append(request.url))
    page.add_init_script(SPY)
    page.goto(url, wait_until="commit")
    page.wait_for_function("window.spied?.drawn.length > 2", timeout=30_000)
    page.wait_for_selector("#rv-early", state="detached", timeout=30_000)
    return page


def wait(look: Callable[[], Any], seconds: float, hopeful: Callable[[], bool] = lambda: True) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end and hopeful():
        if seen := look():
            return seen
        time.sleep(0.1)
    raise AssertionError(f"waited {seconds} s in vain")


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def figure(address: str, name: str) -> float:
    with urllib.request.urlopen(f"{address}metrics", timeout=5) as answer:
        figures = dict(re.findall(r"^rivulet_(\w+) (\S+)$", answer.read().decode(), re.MULTILINE))
    return float(figures[name])


def plays(address: str) -> bool:
    before = figure(address, "chunks")
    return wait(lambda: figure(address, "chunks") > before + 1, 30)


def stops(address: str, within: float = 5.0) -> bool:
    several = 2.0 + 3 * figure(address, "chunk_seconds")
    time.sleep(within)
    before = figure(address, "chunks")
    time.sleep(several)
    return figure(address, "chunks") == before


def say(page: Any, prompt: str, key: str = "Enter", kind: str = "cut") -> None:
    page.locator(f'#rv-transition input[value="{kind}"]').check(force=True)
    page.locator("#rv-prompt").fill(prompt)
    page.locator("#rv-prompt").press(key)


def drawn(page: Any) -> list[dict[str, float]]:
    return page.evaluate("spied.drawn")


@pytest.mark.browser
def test_the_film_plays_by_itself_in_a_box_that_never_moves(page: Any, address: str) -> None:
    assert page.evaluate("document.activeElement.id") == "rv-prompt"
    page.wait_for_function("new Set(spied.drawn.map(({hash}) => hash)).size > 5", timeout=20_000)
    assert len(page.evaluate("[...spied.boxes]")) == 1
    assert all(url.startswith((address, "blob:", "data:")) for url in page.requested), page.requested
    assert page.locator("#rv-caption").inner_text() == DAY


@pytest.mark.browser
def test_a_prompt_changes_the_picture_and_no_frame_from_before_a_cut_comes_back(page: Any) -> None:
    day = drawn(page)[-1]["light"]
    old = page.evaluate("spied.frames.length - 1")
    say(page, NIGHT)
    page.wait_for_function("/on screen in \\d+ ms/.test(document.querySelector('#rv-receipts b').textContent)")
    first = page.evaluate("spied.drawn.length")
    page.wait_for_function(f"spied.drawn.length > {first} + 8", timeout=20_000)
    night = [frame["light"] for frame in drawn(page)[first:]]
    assert max(night) < day - 40, (day, night)
    page.evaluate(f"spied.sockets.at(-1).onmessage({{data: spied.frames[{old}]}})")  # it comes too late
    page.wait_for_timeout(600)
    assert max(frame["light"] for frame in drawn(page)[first:]) < day - 40
    assert page.locator("#rv-caption").inner_text() == NIGHT


@pytest.mark.browser
def test_pause_stops_the_frames_and_going_on_brings_them_back(page: Any) -> None:
    page.get_by_role("button", name="Pause").click()
    page.wait_for_selector('#rv-state[data-state="paused"]')
    page.wait_for_timeout(500)
    before = len(drawn(page))
    page.wait_for_timeout(1500)
    assert len(drawn(page)) == before
    page.get_by_role("button", name="Go on").click()
    page.wait_for_function(f"spied.drawn.length > {before} + 3", timeout=20_000)


@pytest.mark.browser
def test_a_queued_prompt_waits_in_a_line_that_may_be_edited(page: Any) -> None:
    page.locator('[name="rv-kind"][value="cut"]').check(force=True)
    for prompt in ("a pink heart at sunset", "a blue ring over snow"):
        say(page, prompt, "Control+Enter")
    lines = page.locator("#rv-queue li input[type=text]")
    page.wait_for_function("document.querySelectorAll('#rv-queue li').length === 2")
    page.get_by_role("button", name="Later").first.click()
    page.wait_for_timeout(500)
    assert lines.nth(0).input_value() == "a blue ring over snow"
    page.get_by_role("button", name="Remove").first.click()
    page.wait_for_function("document.querySelectorAll('#rv-queue li').length === 1")
    assert lines.nth(0).input_value() == "a pink heart at sunset"


@pytest.mark.browser
def test_one_drives_and_the_other_watches_the_same_film(page: Any, browser: Any) -> None:
    with browser.new_context() as context:
        other = open_page(context, page.locator("#rv-watch").input_value())
        assert page.locator("#rv-pause").is_enabled()
        assert other.locator("#rv-pause").is_disabled()
        assert other.locator("#rv-role").inner_text() == "You watch"
        shared = {frame["hash"] for frame in drawn(page)} & {frame["hash"] for frame in drawn(other)}
        assert shared


@pytest.mark.browser
def test_who_asks_for_the_controls_is_refused_by_keeping_them(page: Any, browser: Any) -> None:
    with browser.new_context() as context:
        other = open_page(context, page.locator("#rv-share").input_value())
        other.get_by_role("button", name="You watch").click()
        page.get_by_role("button", name="Keep them").click()
        other.wait_for_selector("#rv-role:enabled")
        assert page.locator("#rv-pause").is_enabled()


@pytest.mark.browser
def test_a_reload_goes_on_with_the_same_film(page: Any) -> None:
    session = "JSON.parse(sessionStorage.getItem('rivulet.session')).session"
    before = page.evaluate(session)
    page.reload()
    page.wait_for_function("window.spied?.drawn.length > 2", timeout=30_000)
    assert page.evaluate(session) == before


@pytest.mark.browser
def test_a_hidden_tab_gets_no_frames_and_costs_nothing(page: Any, address: str) -> None:
    assert plays(address)
    page.evaluate("Object.defineProperty(document, 'hidden', {get: () => true})")
    assert stops(address)


@pytest.mark.browser
def test_closing_the_tab_stops_the_film_within_five_seconds(browser: Any, address: str) -> None:
    with browser.new_context() as context:
        page = open_page(context, address)
        assert plays(address)
        page.close()
        assert stops(address)


def test_every_word_of_the_scenes_is_known_to_the_embedded_model() -> None:
    from models.text import words_of
    from training.captions import vocabulary

    known = set(vocabulary())
    prompts = [text for _, text in EMBEDDED] + [phrase for phrases in WORDS for phrase in phrases]
    assert {word for prompt in prompts for word in words_of(prompt)} <= known


def test_the_page_asks_no_other_server_for_anything() -> None:
    texts = [path.read_text(encoding="utf-8") for path in STATIC.iterdir()]
    assert len(texts) > 6
    assert not any(re.search(r"(https?:)?//[a-z]+\.[a-z]|@import|url\(", text) for text in texts)


def test_no_text_of_the_facts_can_end_the_script() -> None:
    facts = page_facts(EngineRequest(preset=get_preset("embedded"))) | {"model": "</script><b>"}
    assert "</script" not in page_script(facts)


def test_without_gradio_the_page_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UsageMistake, match=r"rivulet\[web\]"):
        build_page()
