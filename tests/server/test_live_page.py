"""The page end to end: `rivulet web` with the real embedded model, driven in a real Chromium without a network.

One server and one browser serve all tests, and most of them one film; nothing is waited for but what is to happen.
Mutations that these tests were tried against, and what found them, are in docs/log.md.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.errors import UsageMistake
from app.loading.engine_request import EngineRequest
from app.server.gradio_shell import GradioShell, build_page
from app.server.page import STATIC, page_facts, page_script
from app.server.scenes import EMBEDDED, WORDS
from pipelines.presets import get_preset

ROOT = Path(__file__).resolve().parents[2]
COMMAND = """
import sys, app.jobs.process
app.jobs.process._NICE = 0  # a busy machine starves what stands back, and these tests wait for it
from app.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
DAY, NIGHT = "a big red ball bounces over the sea", "a yellow star spins in the starry night"
PATIENCE = 60_000
"""Milliseconds for anything to happen on a machine that does other things too."""
SPY = """
window.spied = {boxes: new Set(), told: new Set(), frames: [], sockets: [], sent: [], drawn: [], bitmaps: 0};
const See = window.WebSocket;
window.WebSocket = function (...given) {
  const socket = new See(...given);
  const send = socket.send.bind(socket);
  socket.send = (text) => {
    if (!text.includes('"ack"')) spied.sent.push(JSON.parse(text));
    send(text);
  };
  spied.sockets.push(socket);
  socket.addEventListener('message', ({data}) => {
    if (typeof data !== 'string') spied.frames.push(data.slice(0));
    else if (JSON.parse(data).type === 'metrics') spied.metrics = data;
  });
  return socket;
};
Object.assign(window.WebSocket, {OPEN: 1, CONNECTING: 0, CLOSING: 2, CLOSED: 3});
const decode = window.createImageBitmap;
window.createImageBitmap = async (...given) => {
  const bitmap = await decode(...given);
  spied.bitmaps += 1;
  const close = bitmap.close.bind(bitmap);
  bitmap.close = () => {
    spied.bitmaps -= 1;
    close();
  };
  return bitmap;
};
const draw = CanvasRenderingContext2D.prototype.drawImage;
CanvasRenderingContext2D.prototype.drawImage = function (...given) {
  draw.apply(this, given);
  if (this.canvas.id !== 'rv-canvas') return;
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
  if (stage?.offsetParent) {
    const {x, y, width, height} = stage.getBoundingClientRect();
    spied.boxes.add([x, y + scrollY, width, height].map(Math.round).join(' '));
  }
  spied.told.add(document.querySelector('#rv-receipts b')?.textContent);
  requestAnimationFrame(look);
})();
"""
"""Watches from inside: what the socket brings, what is sent, what is drawn (its mean light, 0..255), where the box is,
what the newest receipt says, and how many decoded pictures have not been closed."""

RING = """
(() => {
  const at = document.activeElement;
  const node = at.type === 'radio' ? at.nextElementSibling : at.closest('.rv-button') ?? at;
  return [node.closest('.rv-live') ? parseFloat(getComputedStyle(node).outlineWidth) : 9, node.outerHTML];
})()
"""
"""How thick the ring around what has the focus is; elsewhere the ring is Gradio's."""
SLOWED = """
(() => {
  const socket = spied.sockets.at(-1), hear = (spied.hear = socket.onmessage), slow = SLOW;
  const metrics = ({data}) => typeof data === 'string' && JSON.parse(data).type === 'metrics';
  socket.onmessage = (event) => hear.call(socket, metrics(event) ? {data: slow} : event);
  for (let i = 0; i < 20; i++) hear.call(socket, {data: slow});
})()
"""
"""A machine that is too slow: from now on what the server measures says so."""
TOGGLED = """
(() => {
  const socket = spied.sockets.at(-1), late = spied.metrics, seen = [];
  const button = document.querySelector('#rv-pause'), state = document.querySelector('#rv-state').dataset;
  const look = () => seen.push([state.state, button.innerText.trim()]);
  button.click();
  look();
  socket.onmessage({data: late});
  look();
  return seen;
})()
"""
"""Presses Pause or Go on; then comes what the server had measured before. What the page says after each."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("live")
    flags = ["--port", "0", "--no_open", "--no_perform", "--seed", "42", "--threads", "1", "--prompt", DAY]
    flags += ["--folder", str(folder)]
    command = [sys.executable, "-W", "ignore", "-c", COMMAND, "web", *flags]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        url = wait(lambda: re.search(r"http://\S+", (folder / "log").read_text()), 120, lambda: server.poll() is None)
        wait(lambda: answers(f"{url.group()}readyz"), 300, lambda: server.poll() is None)
        yield url.group()
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)


@pytest.fixture(scope="module")
def film(browser: Any, address: str) -> Iterator[Any]:
    """A page whose film most tests share; its steps are few, so that it answers soon."""
    with browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True) as context:
        page = open_page(context, address)
        slide(page, "steps", 2)
        yield page


@pytest.fixture
def page(film: Any) -> Any:
    """The shared page, playing, with an empty queue and no message on it."""
    open_tab(film, "Live")
    until(film, "document.querySelector('#rv-state').dataset.state !== 'lost'")
    if film.locator("#rv-state").get_attribute("data-state") == "paused":
        film.get_by_role("button", name="Go on").click()
    if film.locator("#rv-state").get_attribute("data-state") == "stopped":
        film.get_by_role("button", name="Start").click()
    film.wait_for_selector('#rv-state[data-state="playing"]')
    if film.locator("#rv-problem").is_visible():
        film.locator("#rv-problem button").click()
    while film.locator("#rv-queue li").count():
        left = film.locator("#rv-queue li").count()
        film.get_by_role("button", name="Remove").first.click()
        until(film, f"document.querySelectorAll('#rv-queue li').length < {left}")
    return film


def open_page(context: Any, url: str) -> Any:
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.requested, page.mistakes = [], []
    page.on("request", lambda request: page.requested.append(request.url))
    page.on("pageerror", lambda error: page.mistakes.append(str(error)))
    page.on("console", lambda line: page.mistakes.append(line.text) if line.type == "error" else None)
    page.add_init_script(SPY)
    page.goto(url, wait_until="commit")
    until(page, "window.spied?.drawn.length > 2")
    page.wait_for_selector("#rv-early", state="detached")
    return page


def until(page: Any, true: str, patience: int = PATIENCE) -> None:
    page.wait_for_function(true, timeout=patience, polling=100)


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
    return wait(lambda: figure(address, "chunks") > before + 1, 60)


def stops(address: str, within: float = 5.0) -> bool:
    """Whether no chunk begins any more after so many seconds: none comes for as long as several would take."""
    chunk = figure(address, "chunk_seconds")
    made, since = figure(address, "chunks"), time.monotonic()
    end = since + within + chunk  # the one in hand may end
    while time.monotonic() < since + 2.0 + 3 * chunk:
        time.sleep(0.1)
        if (now := figure(address, "chunks")) != made:
            if time.monotonic() > end:
                return False
            made, since = now, time.monotonic()
    return True


def choose(page: Any, kind: str) -> None:
    page.locator(f'#rv-transition label:has(input[value="{kind}"])').click()


def say(page: Any, prompt: str, key: str = "Enter", kind: str = "cut") -> None:
    choose(page, kind)
    page.locator("#rv-prompt").fill(prompt)
    page.locator("#rv-prompt").press(key)


def shown(page: Any, prompt: str) -> None:
    """Wait until the newest receipt, of this prompt, has seen its first picture."""
    until(
        page,
        f"document.querySelector('#rv-receipts li span').title === {json.dumps(prompt)} && "
        "/on screen in \\d+ ms/.test(document.querySelector('#rv-receipts b').textContent)",
    )
    until(page, f"document.querySelector('#rv-caption').textContent === {json.dumps(prompt)}")


def slide(page: Any, name: str, value: int) -> None:
    page.locator(f"#rv-{name}").evaluate(f"node => {{ node.value = {value}; node.oninput(); node.onchange(); }}")


def drawn(page: Any) -> list[dict[str, float]]:
    return page.evaluate("spied.drawn")


def sent(page: Any) -> list[dict[str, Any]]:
    return page.evaluate("spied.sent")


def goes_on(page: Any, beyond: int) -> None:
    """Wait until the film has come further than to frame `beyond`."""
    until(page, f"new DataView(spied.frames.at(-1)).getUint32(12, true) > {beyond}")


@contextmanager
def going_back(page: Any, before: int) -> Iterator[None]:
    """What is done here brings a frame before number `before`, be it on screen ever so shortly."""
    since = page.evaluate("spied.frames.length")
    yield
    number = "new DataView(frame).getUint32(12, true)"
    until(page, f"spied.frames.slice({since}).some((frame) => {number} < {before})")


def frame(page: Any) -> int:
    """The number of the frame that came last."""
    return page.evaluate("new DataView(spied.frames.at(-1)).getUint32(12, true)")


def saved(page: Any, count: int) -> tuple[str, bytes]:
    """Name and content of the newest file, once there are so many."""
    until(page, f"document.querySelectorAll('#rv-saved a').length >= {count}")
    link = page.locator("#rv-saved a").first
    with urllib.request.urlopen(link.get_attribute("href"), timeout=30) as answer:
        return link.inner_text(), answer.read()


def tab(page: Any, name: str) -> Any:
    return page.get_by_role("tab", name=name)


def open_tab(page: Any, name: str) -> None:
    if tab(page, name).get_attribute("aria-selected") != "true":
        tab(page, name).click()


@pytest.mark.browser
def test_the_film_plays_by_itself_in_a_box_that_never_moves(browser: Any, address: str) -> None:
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        page = open_page(context, address)
        assert page.evaluate("document.activeElement.id") == "rv-prompt"
        until(page, "new Set(spied.drawn.map(({hash}) => hash)).size > 5")
        assert len(page.evaluate("[...spied.boxes]")) == 1
        assert all(url.startswith((address, "blob:", "data:")) for url in page.requested), page.requested
        assert page.locator("#rv-caption").inner_text() == DAY
        assert page.mistakes == []
        assert page.evaluate("spied.bitmaps") <= 2, "pictures that nobody closes pile up in the browser's memory"


@pytest.mark.browser
def test_a_prompt_changes_the_picture_and_no_frame_from_before_a_cut_comes_back(page: Any) -> None:
    say(page, DAY)
    shown(page, DAY)
    until(page, "spied.drawn.length > 4")
    day = drawn(page)[-1]["light"]
    old = page.evaluate("spied.frames.length - 1")
    say(page, NIGHT)
    shown(page, NIGHT)
    first = page.evaluate("spied.drawn.length")
    until(page, f"spied.drawn.length > {first} + 6")
    page.evaluate(f"spied.sockets.at(-1).onmessage({{data: spied.frames[{old}]}})")  # it comes too late
    later = page.evaluate("spied.drawn.length")
    until(page, f"spied.drawn.length > {later} + 2")
    night = [frame["light"] for frame in drawn(page)[first:]]
    assert max(night) < day - 40, (day, night)


@pytest.mark.browser
def test_a_receipt_says_when_the_prompt_was_taken_shown_and_where_the_time_went(page: Any) -> None:
    prompt = "a blue ring moves up over snow"
    page.evaluate("spied.told.clear()")
    say(page, prompt, kind="recache")
    receipt = page.locator("#rv-receipts li").first
    shown(page, prompt)
    assert any(re.search(r"^in [\d.]+ s$", said or "") for said in page.evaluate("[...spied.told]"))
    told = receipt.locator("b").get_attribute("title")
    assert re.search(r"begins with chunk \d+\. .*denoise \d+ ms", told), told
    ms = re.search(r"\d+", receipt.locator("b").inner_text())
    assert page.locator("#rv-metrics dd").nth(1).text_content() == f"{ms and ms.group()} ms"


@pytest.mark.browser
def test_words_that_the_model_does_not_know_are_named_with_others_to_click(page: Any) -> None:
    say(page, "a red bal over the sea")
    hint = page.locator("#rv-unknown")
    hint.wait_for(state="visible")
    assert "“bal”" in hint.inner_text()
    hint.get_by_role("button", name="ball", exact=True).click()
    shown(page, "a red ball over the sea")
    assert hint.is_hidden()


@pytest.mark.browser
def test_pause_stops_the_frames_and_going_on_brings_them_back(page: Any) -> None:
    page.get_by_role("button", name="Pause").click()
    page.wait_for_selector('#rv-state[data-state="paused"]')
    page.wait_for_timeout(300)  # what was on its way
    before = len(drawn(page))
    page.wait_for_timeout(1000)
    assert len(drawn(page)) == before
    page.get_by_role("button", name="Go on").click()
    until(page, f"spied.drawn.length > {before} + 3")
    page.wait_for_selector('#rv-state[data-state="playing"]')


@pytest.mark.browser
def test_pause_and_going_on_are_shown_at_once_whatever_was_measured_before(page: Any) -> None:
    until(page, "JSON.parse(spied.metrics ?? '{}').state === 'playing'")
    assert page.evaluate(TOGGLED) == [["paused", "Go on"]] * 2
    until(page, "JSON.parse(spied.metrics).state === 'paused'")
    assert page.evaluate(TOGGLED) == [["playing", "Pause"]] * 2
    until(page, "JSON.parse(spied.metrics).state === 'playing'")


@pytest.mark.browser
def test_stop_ends_the_film_and_start_begins_it_anew_with_the_same_prompt(page: Any) -> None:
    say(page, NIGHT)
    shown(page, NIGHT)
    page.get_by_role("button", name="Stop").click()
    with going_back(page, 9):
        page.get_by_role("button", name="Start").click()
        page.wait_for_selector('#rv-state[data-state="playing"]')
    until(page, f"document.querySelector('#rv-caption').textContent === {json.dumps(NIGHT)}")


@pytest.mark.browser
def test_reset_keeps_prompt_and_locked_seed_and_the_dice_draw_another(page: Any) -> None:
    say(page, DAY)
    shown(page, DAY)
    seed = page.locator("#rv-seed").input_value()
    goes_on(page, 12)
    with going_back(page, 9):
        page.get_by_role("button", name="Reset").click()
    assert page.locator("#rv-seed").input_value() == seed
    assert page.locator("#rv-caption").inner_text() == DAY
    page.get_by_role("button", name="New seed").click()
    drew = page.locator("#rv-seed").input_value()
    assert drew != seed
    page.get_by_role("button", name="Lock the seed").click()  # unlocked: Reset draws
    page.get_by_role("button", name="Reset").click()
    assert page.locator("#rv-seed").input_value() != drew
    page.get_by_role("button", name="Lock the seed").click()
    page.locator("#rv-seed").fill("42")
    page.locator("#rv-seed").press("Enter")
    assert [each["seed"] for each in sent(page) if each.get("action") == "reset"][-1] == 42


@pytest.mark.browser
def test_the_queue_is_edited_while_it_waits(page: Any) -> None:
    for prompt in ("a pink heart at sunset", "a blue ring over snow"):
        say(page, prompt, "Control+Enter")
    lines = page.locator("#rv-queue li")
    until(page, "document.querySelectorAll('#rv-queue li').length === 2")
    page.get_by_role("button", name="Later").first.click()
    until(page, "document.querySelector('#rv-queue li input').value === 'a blue ring over snow'")
    lines.nth(0).get_by_label("Queued prompt").fill("a green ring over snow")
    lines.nth(0).get_by_label("Hold in seconds").fill("3")
    lines.nth(0).get_by_label("Transition").select_option("soft")
    lines.nth(0).get_by_label("Transition").blur()
    until(page, "spied.sent.at(-1).items?.[0].transition.kind === 'soft'")
    page.get_by_role("button", name="Remove").nth(1).click()
    until(page, "document.querySelectorAll('#rv-queue li').length === 1")
    (item,) = page.evaluate("spied.sent.at(-1).items")
    assert (item["prompt"], item["hold"], item["transition"]) == (
        "a green ring over snow",
        3,
        {"kind": "soft", "chunks": 4},
    )
    until(page, "[...document.querySelectorAll('#rv-track li')].at(-1).dataset.kind === 'next'")


@pytest.mark.browser
def test_an_audition_shows_what_a_queued_prompt_would_become(page: Any) -> None:
    prompt = "a pink heart floats up over the meadow"
    say(page, prompt, "Control+Enter")
    page.locator("#rv-queue li").first.wait_for()
    page.get_by_role("button", name="Pause").click()
    page.wait_for_selector('#rv-state[data-state="paused"]')
    page.get_by_role("button", name="Audition").click()
    until(page, "document.querySelector('#rv-queue video')?.videoWidth > 0")
    page.get_by_role("button", name="Go on").click()
    page.get_by_role("button", name="Show it now").click()
    shown(page, prompt)
    assert page.locator("#rv-queue li").count() == 0


@pytest.mark.browser
def test_a_soft_transition_has_a_length_and_keep_and_mix_and_scenes_take_over(page: Any) -> None:
    choose(page, "soft")
    slide(page, "chunks", 2)
    assert page.locator("#rv-soft output").inner_text() == "1.5 s"
    say(page, NIGHT, kind="soft")
    shown(page, NIGHT)
    assert [each for each in sent(page) if "transition" in each][-1]["transition"] == {"kind": "soft", "chunks": 2}
    say(page, "a yellow star bounces in the starry night", kind="keep")
    shown(page, "a yellow star bounces in the starry night")
    choose(page, "cut")
    page.get_by_role("button", name=EMBEDDED[0][0], exact=True).click()
    shown(page, EMBEDDED[0][1])
    page.get_by_role("button", name="Surprise me").click()
    until(page, f"document.querySelector('#rv-receipts li span').title !== {json.dumps(EMBEDDED[0][1])}")
    shown(page, page.locator("#rv-receipts li span").first.get_attribute("title"))
    page.get_by_text("Mix two prompts").click()
    page.get_by_label("First", exact=True).fill("a red ball over the sea")
    page.get_by_label("Second", exact=True).fill("a blue ball over snow")
    page.get_by_role("button", name="Show the mix").click()
    slide(page, "weight", 25)
    shown(page, "0.75 a red ball over the sea + 0.25 a blue ball over snow")


@pytest.mark.browser
def test_pictures_recordings_and_the_last_seconds_are_saved(page: Any) -> None:
    say(page, DAY)
    shown(page, DAY)
    count = page.locator("#rv-saved li").count()
    page.get_by_role("button", name="Snapshot").click()
    name, content = saved(page, count + 1)
    assert name.endswith((".png", ".jpg"))
    assert content[:4] in (b"\x89PNG", b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xdb")
    page.get_by_role("button", name="Record", exact=True).click()
    before = len(drawn(page))
    until(page, f"spied.drawn.length > {before} + 8")
    page.get_by_role("button", name="Recording").click()
    name, content = saved(page, count + 2)
    assert name.endswith(".mp4")
    assert content[4:8] == b"ftyp"
    page.get_by_role("button", name="Save last 10 s").click()
    name, content = saved(page, count + 3)
    assert content[4:8] == b"ftyp"


@pytest.mark.browser
def test_a_saved_film_brings_its_prompt_and_seed_back(page: Any, tmp_path: Path) -> None:
    prompt = "a white ring moves in a circle at sunset"
    say(page, prompt)
    shown(page, prompt)
    count = page.locator("#rv-saved li").count()
    page.get_by_role("button", name="Save last 10 s").click()
    name, content = saved(page, count + 1)
    (tmp_path / name).write_bytes(content)
    say(page, DAY)
    shown(page, DAY)
    page.locator("#rv-seed").fill("5")
    page.locator("#rv-seed").press("Enter")
    page.locator("#rv-open").set_input_files(tmp_path / name)
    page.get_by_role("button", name="Play it here").click()
    page.locator('#rv-problem[data-good="true"]').wait_for(state="visible")
    assert "seed 42" in page.locator("#rv-problem").inner_text()
    assert page.locator("#rv-seed").input_value() == "42"
    page.locator("#rv-open").set_input_files({"name": "x.mp4", "mimeType": "video/mp4", "buffer": b"no film"})
    page.locator('#rv-problem[data-good="false"]').wait_for(state="visible")


@pytest.mark.browser
def test_rewinding_goes_back_and_branches(page: Any) -> None:
    goes_on(page, 24)
    with going_back(page, frame(page) - 8):
        page.get_by_role("button", name="Back 5 s", exact=True).click()
    goes_on(page, frame(page) + 16)  # a piece of film that is long enough to go back over
    say(page, NIGHT)
    shown(page, NIGHT)
    with going_back(page, frame(page) - 8):
        page.locator("#rv-track button").last.click()  # to where the film before this one began
    until(page, f"document.querySelector('#rv-caption').textContent !== {json.dumps(NIGHT)}")
    page.locator("#rv-undo").get_by_role("button", name="Undo").click()
    until(page, f"document.querySelector('#rv-caption').textContent === {json.dumps(NIGHT)}")
    page.locator("#rv-branches button").first.wait_for()  # what the click had begun is the way back from here


@pytest.mark.browser
def test_settings_reach_the_film_and_a_reload_goes_on_with_film_and_settings(page: Any) -> None:
    session = "JSON.parse(sessionStorage.getItem('rivulet.session')).session"
    before = page.evaluate(session)
    assert "a chunk of 750" in page.locator("#rv-steps-hint").inner_text()
    page.get_by_text("Memory and drift").click()
    page.locator("#rv-refresh").check()
    slide(page, "jpeg_quality", 50)
    slide(page, "sink", 1)
    with going_back(page, 24):
        slide(page, "window", 9)  # another memory begins empty
    page.get_by_role("button", name="Record", exact=True).click()
    page.evaluate(
        "sessionStorage.setItem('rivulet.session', JSON.stringify({...JSON.parse("
        "sessionStorage.getItem('rivulet.session')), set: {}}))"
    )  # what comes back is the server's
    page.reload()
    until(page, "window.spied?.drawn.length > 2")
    page.wait_for_selector("#rv-early", state="detached")
    assert page.evaluate(session) == before
    for name, value in (("steps", "2"), ("jpeg_quality", "50"), ("sink", "1"), ("window", "9")):
        assert page.locator(f"#rv-{name}").input_value() == value, name
    assert page.locator("#rv-refresh").is_checked()
    page.get_by_role("button", name=re.compile("^Recording")).click()  # it went on all the while
    page.get_by_role("button", name="Record", exact=True).wait_for()
    until(page, "document.querySelectorAll('#rv-saved a').length === 1")


@pytest.mark.browser
def test_a_machine_that_is_too_slow_is_told_so_with_one_thing_to_do(page: Any) -> None:
    slow = {"type": "metrics", "fps": 8, "chunk_ms": 1500, "rate": 0.5, "drift": None, "memory": 0, "state": "playing"}
    page.evaluate(SLOWED.replace("SLOW", json.dumps(json.dumps(slow))))
    line = page.locator("#rv-slow")
    line.wait_for(state="visible")
    assert line.locator("span").inner_text() == "This machine makes 8 of the film's 16 frames a second."
    slide(page, "steps", 4)
    line.get_by_role("button", name="Take 1 step").click()
    assert sent(page)[-1] == {"type": "session.set", "steps": 1}
    line.get_by_role("button", name="Dismiss").click()
    assert line.is_hidden()
    page.evaluate("() => void (spied.sockets.at(-1).onmessage = spied.hear)")
    slide(page, "steps", 2)


def hear(page: Any, **told: Any) -> None:
    """Let the page hear a message as if the server had sent it."""
    page.evaluate("data => spied.sockets.at(-1).onmessage({data})", json.dumps(told))


@pytest.mark.browser
def test_what_is_overtaken_not_saved_or_gone_is_said_and_a_gone_film_waits_for_a_click(
    browser: Any, address: str
) -> None:
    with browser.new_context() as context:
        page = open_page(context, address)
        page.locator("#rv-pause").click()  # so that neither is on screen before it is overtaken
        until(page, "document.querySelector('#rv-state').dataset.state === 'paused'")
        say(page, DAY, kind="recache")
        say(page, NIGHT, kind="recache")
        until(page, "document.querySelectorAll('#rv-receipts li').length === 2")
        name = next(message["id"] for message in sent(page) if message.get("prompt") == DAY)
        hear(page, type="session.prompt_update.overtaken", id=name, by="x")
        until(page, "document.querySelectorAll('#rv-receipts b')[1].textContent === 'overtaken by the next'")
        page.locator("#rv-pause").click()
        banner = page.locator("#rv-problem")
        hear(page, type="session.saving", on=False, message="The disk is full.")
        assert "The disk is full. The film goes on, but is not being saved." in banner.inner_text()
        hear(page, type="session.saving", on=True, message="The film is being saved again.")
        assert "The film is being saved again." in banner.inner_text()
        token = "JSON.parse(sessionStorage.getItem('rivulet.session')).token"
        before = page.evaluate(token)
        hear(page, type="error", code="gone", message="The copy of this film is damaged.", action="Begin another film.")
        hear(page, type="session.done", reason="gone")
        assert "The copy of this film is damaged." in banner.inner_text()
        assert page.evaluate(token) == before
        banner.get_by_role("button", name="Begin another film").click()
        until(page, f"{token} && {token} !== {json.dumps(before)}")
        assert page.mistakes == []


@pytest.mark.browser
def test_the_keyboard_alone_is_enough(page: Any) -> None:
    page.keyboard.press("Escape")
    page.locator("#rv-pause").focus()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "rv-prompt"
    page.keyboard.press("Control+A")
    page.keyboard.type("a green ball in the desert")
    page.keyboard.press("Enter")
    shown(page, "a green ball in the desert")
    reached, rings = [], []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
        rings.append(page.evaluate(RING))
    assert {"rv-enqueue", "rv-surprise", "rv-seed", "rv-lock", "rv-steps", "rv-open"} <= set(reached)
    assert [html for width, html in rings if width < 2] == []
    page.locator("#rv-transition input:checked").focus()
    kind = page.locator("#rv-transition input:checked").input_value()
    page.keyboard.press("ArrowRight")
    assert page.locator("#rv-transition input:checked").input_value() != kind
    tab(page, "Long render").focus()
    page.keyboard.press("Enter")
    assert tab(page, "Long render").get_attribute("aria-selected") == "true"


@pytest.mark.browser
def test_one_drives_and_the_other_watches_the_same_film(page: Any, browser: Any) -> None:
    with browser.new_context() as context:
        other = open_page(context, page.locator("#rv-watch").input_value())
        assert page.locator("#rv-pause").is_enabled()
        assert other.locator("#rv-pause").is_disabled()
        assert other.locator("#rv-role").inner_text() == "You watch"
        wait(lambda: {frame["hash"] for frame in drawn(page)} & {frame["hash"] for frame in drawn(other)}, 60)


@pytest.mark.browser
def test_who_asks_for_the_controls_is_refused_by_keeping_them(page: Any, browser: Any) -> None:
    with browser.new_context() as context:
        other = open_page(context, page.locator("#rv-share").input_value())
        other.get_by_role("button", name="You watch").click()
        page.get_by_role("button", name="Keep them").click()
        other.wait_for_selector("#rv-role:enabled")
        assert page.locator("#rv-pause").is_enabled()


@pytest.mark.browser
def test_a_hidden_tab_gets_no_frames_and_costs_nothing(page: Any, address: str) -> None:
    assert plays(address)
    page.evaluate("Object.defineProperty(document, 'hidden', {get: () => true, configurable: true})")
    assert stops(address)
    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    assert plays(address)


@pytest.mark.browser
def test_closing_the_tab_stops_the_film_within_five_seconds_and_frees_it(page: Any, browser: Any, address: str) -> None:
    page.get_by_role("button", name="Pause").click()
    page.wait_for_selector('#rv-state[data-state="paused"]')
    before = figure(address, "sessions")
    with browser.new_context() as context:
        other = open_page(context, address)
        assert plays(address)
        other.close()
        assert stops(address)
    wait(lambda: figure(address, "sessions") <= before, 30)


@pytest.mark.browser
def test_the_live_film_so_far_becomes_a_script_that_can_be_rendered_again(page: Any) -> None:
    say(page, NIGHT)
    shown(page, NIGHT)
    open_tab(page, "Long render")
    page.get_by_role("button", name="From the live film").click()
    page.get_by_text("The live film so far").wait_for()
    assert page.locator(".rv-shots li input").evaluate_all("all => all.map((one) => one.value)").count(NIGHT) >= 1
    assert page.locator('form:has([name="script_kind"]) [name="seed"]').input_value() == "42"


def test_every_word_of_the_scenes_is_known_to_the_embedded_model() -> None:
    from models.text import words_of
    from training.captions import vocabulary

    known = set(vocabulary())
    prompts = [text for _, text in EMBEDDED] + [phrase for phrases in WORDS for phrase in phrases]
    assert {word for prompt in prompts for word in words_of(prompt)} <= known


def test_the_page_asks_no_other_server_for_anything() -> None:
    texts = [path.read_text(encoding="utf-8") for path in STATIC.iterdir() if path.suffix != ".jpg"]
    assert len(texts) > 6
    assert not any(re.search(r"(https?:)?//[a-z]+\.[a-z]|@import|url\(", text) for text in texts)


def test_no_text_of_the_facts_can_end_the_script() -> None:
    facts = page_facts(EngineRequest(preset=get_preset("embedded"))) | {"model": "</script><b>"}
    assert "</script" not in page_script(facts)


def test_gradios_scripts_wait_for_the_first_picture_and_are_kept() -> None:
    async def gradio(scope: Any, receive: Any, send: Any) -> None:
        body = b'<head><script type="module" crossorigin src="./assets/index-A_b-1.js"></script></head>'
        await send(
            {"type": "http.response.start", "status": 200 if scope["path"] != "/assets/no" else 404, "headers": []}
        )
        await send({"type": "http.response.body", "body": body if scope["path"] == "/" else b"1"})

    app: Any = GradioShell(gradio, script="ours()")
    here = TestClient(app)
    page = here.get("/").text
    assert '<script id="rv-gradio" type="text/later" src="./assets/index-A_b-1.js"></script>' in page
    assert "<script>ours()</script></head>" in page
    assert here.get("/assets/a.js").headers["cache-control"] == "max-age=31536000, immutable"
    assert "cache-control" not in here.get("/assets/no").headers, "what is missing today may be there tomorrow"


def test_without_gradio_the_page_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UsageMistake, match=r"rivulet\[web\]"):
        build_page()
