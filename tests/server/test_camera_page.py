"""The page's camera in a real Chromium with its fake device, before a live engine over the tiny networks."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.live.engine import LiveEngine
from app.live.session import Session
from app.loading.engine_request import EngineRequest
from app.record.kept_input import KEPT
from app.server.page import STATIC
from app.server.routes import make_app
from pipelines.presets import get_preset
from tests.live_doubles import SECRET, served, until
from tests.live_tiny import TinyModel
from tests.media.clips import write_clip
from tests.server.conftest import CHROMIUM, FLAGS

pytestmark = pytest.mark.browser
FAKE = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
FOREIGN = "films.test"
PATIENCE = 60_000
"""Milliseconds for anything to happen on a machine that does other things too."""
SPY = """
window.asked = [];
window.tracks = [];
for (const name of ['getUserMedia', 'getDisplayMedia']) {
  const media = navigator.mediaDevices, usual = media?.[name]?.bind(media);
  if (usual) media[name] = async (...given) => {
    asked.push(name);
    if (window.refusal) throw new DOMException('no', window.refusal);
    const stream = await (window.instead ?? usual)(...given);
    tracks.push(...stream.getTracks());
    return stream;
  };
}
"""
LIVE = "tracks.filter(({readyState}) => readyState === 'live').length"


class RealClock:
    """A machine that takes no time of its own for a chunk."""

    def __call__(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """The networks take their own."""


class Tiny(LiveEngine):
    """A real engine over the tiny networks, with what a page asks of it."""

    def __init__(self, folder: Path) -> None:
        clock: Any = RealClock()
        request = EngineRequest(preset=get_preset("embedded"))
        super().__init__(request, folder=folder, prompt="a red fox runs", seed=5, opener=TinyModel(clock))

    @property
    def film(self) -> Session:
        """The one that plays."""
        return next(session for session in self._all() if not session.over)


def moving_square(path: Path, frames: int = 20) -> Path:
    """A camera's picture for Chromium: raw YUV, with a white square that goes to the right."""
    with path.open("wb") as file:
        file.write(b"YUV4MPEG2 W160 H120 F20:1 Ip A1:1 C420jpeg\n")
        for number in range(frames):
            luma = np.full((120, 160), 40, np.uint8)
            luma[30:90, 5 * number : 5 * number + 60] = 230
            file.write(b"FRAME\n" + luma.tobytes() + np.full(2 * 60 * 80, 128, np.uint8).tobytes())
    return path


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Tiny]]:
    engine = Tiny(tmp_path_factory.mktemp("live"))
    engine.start()
    try:
        with served(make_app(engine, secret=SECRET, hosts=[FOREIGN])) as address:
            yield address, engine
    finally:
        engine.close()


@pytest.fixture(scope="module")
def browser(playwright: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    camera = moving_square(tmp_path_factory.mktemp("camera") / "camera.y4m")
    flags = [
        *FLAGS,
        *FAKE,
        f"--use-file-for-fake-video-capture={camera}",
        f"--host-resolver-rules=MAP {FOREIGN} 127.0.0.1",
    ]
    chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
    yield chromium
    chromium.close()


@pytest.fixture(scope="module")
def shared(browser: Any, engine: tuple[str, Tiny]) -> Iterator[Any]:
    with browser.new_context() as context:
        context.set_default_timeout(PATIENCE)
        yield open_page(context, f"http://{engine[0]}/")


@pytest.fixture
def page(shared: Any) -> Iterator[Any]:
    """The page, with a film of words."""
    yield shared
    shared.evaluate("delete window.refusal, delete window.instead")
    choose(shared, "none", "off")


def open_page(context: Any, url: str) -> Any:
    page = context.new_page()
    page.mistakes = []
    page.on("pageerror", lambda error: page.mistakes.append(str(error)))
    page.add_init_script(SPY)
    page.goto(url)
    page.wait_for_selector(".gradio-container #rv-source", state="attached")
    page.wait_for_selector("#rv-waiting", state="hidden")
    return page


def choose(page: Any, kind: str, phase: str = "on") -> None:
    page.click(f'button[data-source="{kind}"]')
    page.wait_for_selector(f'#rv-source[data-phase="{phase}"]')


def said(page: Any) -> str:
    return page.inner_text("#rv-source-said")


def made_of(film: Session) -> str:
    return film.film.video.state.kind


def see_pictures(page: Any, film: Session) -> None:
    """Wait until frames come back that were made of the source."""
    page.wait_for_function("/^\\d+ ms$/.test(document.querySelector('#rv-delay').textContent)")
    source = film.film.video._source
    assert source is not None
    assert source.pictures.newest is not None


def test_a_camera_begins_on_a_click_and_is_let_go_on_another(page: Any, engine: tuple[str, Tiny]) -> None:
    film = engine[1].film
    assert page.evaluate("asked") == [], "nobody is asked before there is a click"
    choose(page, "camera")
    see_pictures(page, film)
    assert made_of(film) == "camera"
    kept = film.film.video._source.pictures.newest.pixels  # type: ignore[union-attr]
    assert kept.shape == (32, 48, 3)
    across = kept.mean(axis=(0, 2))
    assert across.max() > 90
    assert across.min() < 60, "the fake camera's square"
    assert page.evaluate(LIVE) == 1
    assert page.is_checked("#rv-mirror"), "as one knows oneself"
    names = page.evaluate("[...document.querySelectorAll('[id^=rv-]')].map(({id}) => id)")
    assert len(names) == len(set(names)), "no two parts of the page have one name"
    assert int(page.inner_text("#rv-delay").removesuffix(" ms")) >= 0
    choose(page, "none", "off")
    assert page.evaluate(LIVE) == 0
    until(lambda: made_of(film) == "none", 20)
    assert page.mistakes == []


def test_the_wipe_shows_the_very_picture_that_a_frame_was_made_of(page: Any, engine: tuple[str, Tiny]) -> None:
    choose(page, "camera")
    see_pictures(page, engine[1].film)
    assert page.locator("#rv-before").is_hidden()
    slide(page, "wipe", 0.5)
    page.wait_for_selector("#rv-before", state="visible")
    opaque = """(() => {
      const before = document.querySelector('#rv-before');
      const {data} = before.getContext('2d').getImageData(0, 16, before.width, 1);
      return [...Array(before.width).keys()].filter((x) => data[4 * x + 3] > 0).length / before.width;
    })()"""
    assert abs(page.evaluate(opaque) - 0.5) < 0.05, "its left half, over the film"
    slide(page, "wipe", 0)
    page.wait_for_selector("#rv-before", state="hidden")


def test_strength_and_hold_reach_the_film_and_are_remembered(page: Any, engine: tuple[str, Tiny]) -> None:
    choose(page, "camera")
    slide(page, "strength", 0.45)
    slide(page, "hold", 0.5)
    page.select_option("#rv-latency", "0.6")
    state = engine[1].film.film.video
    until(lambda: (state.state.strength, state.state.hold, state.state.latency) == (0.45, 0.5, 0.6), 20)
    page.wait_for_function("document.querySelector('#rv-traded').textContent.includes('0.60 s')")
    page.select_option("#rv-latency", "")
    slide(page, "strength", 0.7)
    slide(page, "hold", 1)


CHANGES = (
    *("file", "camera", "none", "camera", "unplugged", "camera", "screen", "none", "denied", "file"),
    *("busy", "camera", "file", "camera", "none", "screen", "unplugged", "camera", "file", "none"),
)
BRIGHTEST = """Math.max(...document.querySelector('#rv-canvas').getContext('2d').getImageData(0, 0, 48, 32).data
    .filter((_, i) => i % 4 < 3))"""


def test_twenty_changes_of_source_are_none_black_and_leave_no_device(
    page: Any, engine: tuple[str, Tiny], tmp_path: Path
) -> None:
    film = engine[1].film
    clip = write_clip(tmp_path / "clip.webm", 40, codec="libvpx", rate=20)
    refusals = {"denied": "NotAllowedError", "busy": "NotReadableError"}
    for change in CHANGES:
        page.evaluate("window.instead = null")
        kind = {"denied": "none", "busy": "none", "unplugged": "none"}.get(change, change)
        if change == "file":
            page.set_input_files('[data-source="file"] input', str(clip))
            page.wait_for_selector('#rv-source[data-phase="on"]')
            page.wait_for_function("document.querySelector('#rv-source-said').textContent === 'clip.webm'")
        elif change == "screen":
            page.evaluate("window.instead = async () => document.querySelector('#rv-canvas').captureStream(16)")
            choose(page, "screen")
        elif change in refusals:
            page.evaluate(f"window.refusal = '{refusals[change]}'")
            choose(page, "camera", "failed")
            page.evaluate("delete window.refusal")
        elif change == "unplugged":
            page.evaluate("tracks.at(-1).dispatchEvent(new Event('ended'))")
            page.wait_for_selector('#rv-source[data-phase="failed"]')
        else:
            choose(page, kind, "off" if kind == "none" else "on")
        until(lambda kind=kind: made_of(film) == kind, 20)
        if kind != "none":
            see_pictures(page, film)
        assert page.evaluate(LIVE) == (kind in ("camera", "screen")), f"a device is left behind by {change}"
        assert page.evaluate(BRIGHTEST) > 20, f"a black picture with {change}"
    workers = [thread for thread in threading.enumerate() if thread.name == "rivulet-pictures"]
    until(lambda: not any(thread.is_alive() for thread in workers), 20)
    assert page.mistakes == []


@pytest.mark.parametrize(
    ("refusal", "tells"),
    [
        ("NotAllowedError", "may not use the camera. Allow it"),
        ("NotFoundError", "There is no camera. Plug one in"),
        ("NotReadableError", "busy: another program uses it. Close that"),
        ("OverconstrainedError", "gone. Choose another"),
        ("WeirdError", "does not open (WeirdError)"),
    ],
)
def test_a_camera_that_does_not_open_says_why_in_a_sentence(
    page: Any, engine: tuple[str, Tiny], refusal: str, tells: str
) -> None:
    page.evaluate(f"window.refusal = '{refusal}'")
    choose(page, "camera", "failed")
    assert tells in said(page)
    assert made_of(engine[1].film) == "none"
    page.evaluate("delete window.refusal")
    choose(page, "camera")
    assert said(page) == "The camera is on."


def test_a_camera_that_is_unplugged_or_sleeps_leaves_a_film_of_words(page: Any, engine: tuple[str, Tiny]) -> None:
    film = engine[1].film
    for happens, tells in (
        ("tracks.at(-1).dispatchEvent(new Event('ended'))", "was unplugged or taken away"),
        ("document.dispatchEvent(new Event('freeze'))", "let go because this tab slept"),
    ):
        choose(page, "camera")
        see_pictures(page, film)
        page.evaluate(happens)
        page.wait_for_selector('#rv-source[data-phase="failed"]')
        assert tells in said(page)
        assert page.evaluate(LIVE) == 0
        until(lambda: made_of(film) == "none", 20)
    choose(page, "camera")
    see_pictures(page, film)
    film.film.video.end("It has sent nothing for 10 s.")
    page.wait_for_selector('#rv-source[data-phase="failed"]')
    assert said(page) == "It has sent nothing for 10 s."
    assert page.evaluate(LIVE) == 0


def test_what_is_no_video_is_refused_and_a_dropped_video_is_made_over(
    page: Any, engine: tuple[str, Tiny], tmp_path: Path
) -> None:
    (tmp_path / "song.mp4").write_bytes(b"no film at all" * 100)
    page.set_input_files('[data-source="file"] input', str(tmp_path / "song.mp4"))
    page.wait_for_selector('#rv-source[data-phase="failed"]')
    assert said(page) == "This browser cannot play song.mp4. Drop an MP4 (H.264) or a WebM."
    page.set_input_files("#rv-open", str(tmp_path / "song.mp4"))
    page.wait_for_selector('#rv-problem[data-good="false"]')
    page.click("#rv-problem button")
    clip = write_clip(tmp_path / "other.webm", 20, codec="libvpx", rate=20)
    page.set_input_files("#rv-open", str(clip))  # as a drop does
    page.wait_for_selector('#rv-source[data-phase="on"]')
    assert said(page) == "other.webm"


def test_what_goes_in_is_recorded_where_it_is_ticked_and_not_with_the_next_source(
    page: Any, engine: tuple[str, Tiny]
) -> None:
    film = engine[1].film
    choose(page, "camera")
    see_pictures(page, film)
    assert not page.is_checked("#rv-keep")
    assert "They are not recorded" in page.inner_text("#rv-kept")
    assert not film.film.video.state.record
    page.check("#rv-keep")
    until(lambda: film.film.video.state.record and (film.folder / KEPT).exists(), 20)
    page.wait_for_function("document.querySelector('#rv-kept').textContent.includes('It records them')")
    choose(page, "none", "off")
    choose(page, "camera")
    until(lambda: made_of(film) == "camera", 20)
    assert not page.is_checked("#rv-keep")
    assert not film.film.video.state.record
    page.check("#rv-keep")
    until(lambda: film.film.video.state.record, 20)
    film.film.video._unrecorded("The input is not recorded any more: the disk is full.")
    page.wait_for_function("!document.querySelector('#rv-keep').checked")
    assert "They are not recorded" in page.inner_text("#rv-kept")
    page.click("#rv-problem button")
    assert page.mistakes == []


def test_a_picture_and_the_end_of_a_clip_begin_the_film_anew(
    page: Any, engine: tuple[str, Tiny], tmp_path: Path
) -> None:
    film = engine[1].film
    Image.fromarray(np.full((90, 60, 3), 200, np.uint8)).save(tmp_path / "cat.png")
    page.set_input_files("#rv-open", str(tmp_path / "cat.png"))  # as a drop does
    until(lambda: film.film.video.beginning is not None, 20)
    begun = film.film.video.beginning
    assert begun is not None
    assert (begun.asked.kind, begun.asked.name, begun.frames.shape) == ("image", "cat.png", (9, 32, 48, 3))
    assert abs(int(begun.frames.mean()) - 200) < 4
    page.wait_for_selector("#rv-undo:not([hidden])")
    assert "cat.png begins the film" in page.inner_text("#rv-undo")
    clip = write_clip(tmp_path / "clip.webm", 96, codec="libvpx", rate=16, options={"crf": "4", "b": "2M"})
    page.set_input_files('[data-source="file"] input', str(clip))
    page.wait_for_selector('#rv-source[data-phase="on"]')
    page.click("#rv-begin-end")
    until(lambda: film.film.video.beginning is not begun, 60)
    ended = film.film.video.beginning
    assert ended is not None
    assert (ended.asked.kind, ended.asked.count, len(ended.frames)) == ("clip", 45, 45)
    assert len({frame.tobytes() for frame in ended.frames}) > 30, "its pictures differ"
    page.wait_for_function("document.querySelector('#rv-begin-said').textContent === ''")
    (tmp_path / "no.png").write_bytes(b"no picture")
    page.set_input_files("#rv-begin input", str(tmp_path / "no.png"))
    page.wait_for_function("document.querySelector('#rv-begin-said').textContent.includes('cannot read no.png')")
    assert film.film.video.beginning is ended, "the film goes on as it was"
    assert page.mistakes == []


def test_a_page_that_is_not_secure_says_three_ways_out(browser: Any, engine: tuple[str, Tiny]) -> None:
    with browser.new_context() as context:
        context.set_default_timeout(PATIENCE)
        page = open_page(context, f"http://{FOREIGN}:{engine[0].partition(':')[2]}/")
        assert page.evaluate("isSecureContext") is False
        choose(page, "camera", "failed")
        assert "not secure" in said(page)
        ways = page.locator("#rv-insecure li").all_inner_texts()
        assert len(ways) == 3
        assert f"127.0.0.1:{engine[0].partition(':')[2]}" in ways[0]
        assert "--ssl_certfile" in ways[1]
        assert FOREIGN in ways[2]


MACHINE = """
async () => {
  const log = [], waiting = [];
  const opened = (name) => ({ name });
  const source = new Source({
    open: (kind, detail) => new Promise((resolve, reject) => waiting.push({
      done: () => resolve(opened(detail)),
      fail: (name) => reject(Object.assign(new Error(), { name })),
    })),
    close: ({ name }) => log.push(`close ${name}`),
    changed: ({ kind, phase }) => log.push(`${kind} ${phase}`),
  });
  const settle = () => new Promise((resolve) => setTimeout(resolve));
  source.choose('file', 'a');
  source.choose('camera', 'b');       // before the file has opened
  waiting[0].done();                  // which then opens late
  await settle();
  waiting[1].done();
  await settle();
  source.choose('none');
  source.choose('camera', 'c');
  source.choose('none');              // while it is asked for
  waiting[2].fail('NotAllowedError'); // too late to matter
  await settle();
  source.choose('camera', 'd');
  waiting[3].done();
  await settle();
  const d = source.opened;
  source.ended({ name: 'another' }, 'never said');
  source.ended(d, 'unplugged');
  source.ended(d, 'said once');
  log.push(source.problem);
  return log;
}
"""


def test_the_state_machine_of_a_source_lets_nothing_stay_open(shared: Any) -> None:
    script = (STATIC / "source.js").read_text("utf-8")
    assert shared.evaluate(f"() => {{ {script}; return ({MACHINE})(); }}") == [
        *("file opening", "camera opening", "close a", "camera on"),
        *("close b", "none off"),
        *("camera opening", "none off"),
        *("camera opening", "camera on", "close d", "camera failed"),
        "unplugged",
    ]


def slide(page: Any, name: str, value: float) -> None:
    change = "for (const kind of ['input', 'change']) node.dispatchEvent(new Event(kind))"
    page.evaluate(
        f"(value) => {{ const node = document.querySelector('#rv-{name}'); node.value = value; {change}; }}", value
    )
