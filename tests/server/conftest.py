"""One Chromium for all tests of the page, and one page around a painted film for those that need no real one."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.live_doubles import PaintedSession
from tests.server.test_page_security import Painted, a_server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--ignore-certificate-errors"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # there is no other server to ask
]
PATIENCE = 60_000
"""Milliseconds for anything to happen on a machine that does other things too."""
READY = ".gradio-container .rv-live #rv-stage"
RENDERER = """
import sys, time
from functools import partial
sys.path.insert(0, {root!r})
import app.render.estimate, app.render.batch
from app.cli.main import main
from app.render.render import render
from tests.app_doubles import Opener
class Stepped(Opener):
    def __call__(self, request, seed):
        return super().__call__(request, seed + 1000 * len(request.preset.schedule.denoising_step_list))
opener = Stepped(before=lambda index: time.sleep(0.1))
app.render.estimate.open_stream = opener
app.render.batch.render = partial(render, opener=opener)
sys.exit(main(sys.argv[1:]))
"""
"""The real command line over a stream that paints: other seeds and other steps make other pictures."""


@pytest.fixture(scope="session")
def playwright() -> Iterator[Any]:
    """What drives browsers; there can be one in a process."""
    driven = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    pytest.importorskip("gradio", reason="gradio is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    with driven.sync_playwright() as driver:
        yield driver


@pytest.fixture(scope="session")
def browser(playwright: Any) -> Iterator[Any]:
    """The system's Chromium."""
    chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
    yield chromium
    chromium.close()


@pytest.fixture(scope="session")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Painted]]:
    """Address and engine of a server whose films are painted, and whose render jobs are too."""
    folder = tmp_path_factory.mktemp("painted")
    (folder / "renderer.py").write_text(RENDERER.format(root=str(Path(__file__).resolve().parents[2])))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.jobs.process._NICE", 0)  # a busy machine starves what stands back
        with a_server(folder, renderer=[sys.executable, str(folder / "renderer.py")]) as (address, engine):
            yield f"http://{address}/", engine


@pytest.fixture(scope="session")
def shared(browser: Any, painted: tuple[str, Painted]) -> Iterator[Any]:
    """The page that tests of it share; nobody else watches its film."""
    with painted_page(browser, painted[0]) as page:
        yield page
        assert page.mistakes == []


@contextmanager
def painted_page(browser: Any, address: str, **settings: Any) -> Iterator[Any]:
    """A page around a painted film, when all of it is there; `settings` are those of a browser context."""
    size = {"viewport": {"width": 1280, "height": 900}, "accept_downloads": True} | settings
    with browser.new_context(**size) as context:
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.mistakes = []
        page.on("pageerror", lambda error: page.mistakes.append(str(error)))
        page.goto(address)
        page.wait_for_selector(READY, state="attached")
        page.wait_for_selector("#rv-waiting", state="hidden")
        yield page


def begin_anew(page: Any, address: str) -> None:
    """The page as it is when somebody opens it first: no render, no draft, nothing kept."""
    page.evaluate(
        "async () => { for (const {id} of (await (await fetch('v1/videos')).json()).data) "
        "await fetch(`v1/videos/${id}`, {method: 'DELETE'}); }"
    )
    page.evaluate("sessionStorage.clear(); localStorage.clear()")
    page.goto(address)
    page.wait_for_selector(READY, state="attached")
    page.wait_for_selector("#rv-waiting", state="hidden")


def session_of(engine: Painted) -> PaintedSession:
    """The film that is watched."""
    return [session for session in engine.sessions.values() if session.viewers][-1]


def open_tab(page: Any, name: str) -> None:
    """Open a tab."""
    page.get_by_role("tab", name=name).click()


def until(page: Any, true: str) -> None:
    """Wait for something in the page."""
    page.wait_for_function(true, timeout=PATIENCE, polling=50)
