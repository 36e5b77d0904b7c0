"""The page's first look in a real Chromium: film and prompt box in one window, words while one types, performing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from app.live.messages import PromptUpdate
from app.server.scenes import PERFORMANCE
from tests.server.test_page_security import Painted, a_server

SIZES = [(1440, 900), (1024, 768), (1920, 1080), (390, 844)]
INSIDE = """
(() => {
  const box = (name) => document.querySelector(name).getBoundingClientRect();
  const [film, say] = [box('#rv-stage'), box('.rv-say')];
  const over = document.documentElement.scrollWidth - innerWidth;
  return [film.top, innerHeight - say.bottom, film.height, innerHeight, over];
})()
"""
"""Room above the film and below the prompt box, the film's height and the window's, and what hangs out to the right."""
READY = ".gradio-container .rv-live .rv-say"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Painted]]:
    with a_server(tmp_path_factory.mktemp("live"), perform=True) as (address, engine):
        yield f"http://{address}/", engine


@pytest.fixture
def page(browser: Any, server: tuple[str, Painted]) -> Iterator[Any]:
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        page.goto(server[0])
        page.wait_for_selector(READY)
        page.wait_for_selector("#rv-waiting", state="hidden")
        yield page


@pytest.mark.browser
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_film_and_prompt_box_stand_in_one_window(page: Any, width: int, height: int) -> None:
    page.set_viewport_size({"width": width, "height": height})
    above, below, film, window, over = page.evaluate(INSIDE)
    assert above >= 0
    assert below >= 0
    assert over <= 0
    assert film >= (0.4 if width < 520 else 0.65) * window
    page.evaluate("scrollTo(0, 600)")  # the box stays in sight
    assert page.evaluate(INSIDE)[1] >= 0
    assert page.evaluate("document.querySelector('.rv-say').getBoundingClientRect().top") >= 0
    assert page.locator("h1").count() == 1


@pytest.mark.browser
def test_unknown_words_are_underlined_while_one_types_and_known_ones_completed(page: Any) -> None:
    box, echo = page.locator("#rv-prompt"), page.locator("#rv-echo")
    box.press_sequentially("a cat at sun")
    assert echo.locator("i").text_content() == "set"
    box.press("ArrowRight")
    assert box.input_value() == "a cat at sunset"
    page.wait_for_function("document.querySelector('#rv-echo u')?.textContent === 'cat'")
    box.press("Enter")
    assert box.input_value() == ""
    page.wait_for_function("document.querySelector('#rv-receipts b').textContent.endsWith('without “cat”')")
    hint = page.locator("#rv-unknown")
    assert "2 shapes, 1 colours and 1 scenes" in hint.inner_text()
    hint.get_by_role("button", name="star", exact=True).click()
    assert box.input_value() == "a star"
    box.fill("")
    box.press("ArrowUp")
    assert box.input_value() == "a cat at sunset"


@pytest.mark.browser
def test_the_page_performs_until_somebody_types(browser: Any, server: tuple[str, Painted]) -> None:
    address, engine = server
    with browser.new_context() as context:
        page = context.new_page()
        page.clock.install()
        page.goto(address)
        page.wait_for_selector(READY)
        page.wait_for_selector("#rv-waiting", state="hidden")
        session = list(engine.sessions.values())[-1]
        typed = "document.querySelector('#rv-prompt').placeholder"
        for _ in range(150):  # the clock goes on by itself as well
            page.clock.run_for(100)
            if (shown := page.evaluate(typed)).startswith("a big"):
                break
        assert PERFORMANCE[0].startswith(shown)
        page.clock.run_for(4_000)
        page.wait_for_function("document.querySelector('#rv-receipts li') !== null")
        said = [message.prompt for message in session.submitted if isinstance(message, PromptUpdate)]
        assert said == [PERFORMANCE[0]]
        page.locator("#rv-prompt").press("a")
        page.clock.run_for(40_000)
        said = [message.prompt for message in session.submitted if isinstance(message, PromptUpdate)]
        assert said == [PERFORMANCE[0]]
        assert page.locator("#rv-prompt").input_value() == "a"
