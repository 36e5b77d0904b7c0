"""The page for everybody, in a real Chromium: axe-core finds nothing of level A or AA on any tab, light or dark.

Colours, names, roles and order are what a machine can judge; use by keyboard alone is in test_live_page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.live.messages import Branch, Problem, QueueItem, QueueState, RoleState, Saved, Span, Track
from tests.server.conftest import begin_anew, open_tab, session_of, until
from tests.server.test_page_security import Painted

pytestmark = pytest.mark.browser
AXE = Path(__file__).resolve().parents[2] / "node_modules" / "axe-core" / "axe.min.js"
FAULTS = """
async () => {
  const tags = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'];
  const {violations} = await axe.run(document, {runOnly: tags, resultTypes: ['violations']});
  return violations.flatMap(({id, nodes}) =>
    nodes.map(({html, any}) => `${id}: ${html.slice(0, 140)} ${any[0]?.message ?? ''}`.trim()));
}
"""


@pytest.fixture(scope="module")
def page(shared: Any, painted: tuple[str, Painted]) -> Iterator[Any]:
    assert AXE.is_file(), "axe-core is not installed: run .ci/axe .venv/bin/python, which `make test` does"
    begin_anew(shared, painted[0])
    yield shared
    shared.set_viewport_size({"width": 1280, "height": 900})
    shared.evaluate("document.body.classList.remove('dark')")


EDGES = """
(() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].reduce((sum, value, i) => {
    const part = value / 255;
    return sum + [0.2126, 0.7152, 0.0722][i] * (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  }, 0);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = rgb(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const controls = ':is(.rv-live, .rv-jobs) :is(button, select, textarea, input[type=text], input[type=number])';
  return [...document.querySelectorAll(controls)]
    .filter((node) => node.offsetParent && !node.closest('.rv-stage, .rv-track, .rv-picture'))
    .filter((node) => {
      const style = getComputedStyle(node);
      if (parseFloat(style.borderLeftWidth) === 0) return false;
      const [one, other] = [light(rgb(style.borderTopColor)), light(behind(node.parentElement))].sort((a, b) => b - a);
      return (one + 0.05) / (other + 0.05) < 3;
    })
    .map((node) => `edge: ${node.outerHTML.slice(0, 100)} ${getComputedStyle(node).borderTopColor}`);
})()
"""
"""Controls whose edge stands out less than 3 to 1 (WCAG 1.4.11), which axe does not look at."""


def faults(page: Any) -> list[str]:
    """What is wrong, in the light and in the dark."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE.read_text("utf-8"))
    found: list[str] = []
    for dark in (False, True):
        page.evaluate(f"document.body.classList.toggle('dark', {json.dumps(dark)})")
        found += [f"{'dark' if dark else 'light'}: {fault}" for fault in page.evaluate(FAULTS) + page.evaluate(EDGES)]
    return found


WRONG = """
document.querySelector('.rv-live').insertAdjacentHTML('beforeend',
  '<div id=wrong><button type=button style="border-color: #ddd"></button><p style="color: #bbb">faint</p></div>')
"""


def test_the_checker_finds_what_is_wrong(page: Any) -> None:
    page.evaluate(WRONG)
    found = " ".join(faults(page))
    assert all(name in found for name in ("light: button-name", "dark: button-name", "color-contrast", "edge: "))
    page.evaluate("document.querySelector('#wrong').remove()")


def test_the_live_tab_as_one_meets_it(page: Any) -> None:
    open_tab(page, "Live")
    assert faults(page) == []


def test_the_live_tab_with_all_that_it_can_show(page: Any, painted: tuple[str, Painted]) -> None:
    session = session_of(painted[1])
    past = Span(kind="past", prompt="a red ball", begin=0, end=8)
    blend = Span(kind="transition", prompt="a star", begin=8, end=20)
    spans = [past, blend, Span(kind="now", prompt="a star", begin=20), Span(kind="refresh", prompt="a star", begin=30)]
    session.tell(Track(branch=0, spans=spans))
    session.tell(QueueState(items=[QueueItem(id="q", prompt="a green ring"), QueueItem(id="r", prompt="a cloud")]))
    session.tell(Saved(kind="recording", name="recording-1.mp4", url="x"))
    page.locator("#rv-prompt").fill("a cat at sun")
    page.locator("#rv-prompt").press("Enter")
    page.locator("#rv-unknown").wait_for(state="visible")
    page.locator("#rv-track button").first.click()
    session.tell(Track(branch=1, spans=spans, branches=[Branch(branch=0, prompt="a star", t=61.5)]))
    page.locator("#rv-undo").wait_for(state="visible")
    session.tell(Problem(message="The disk is full.", action="Free some.", code="disk"))
    page.locator('#rv-transition label:has(input[value="soft"])').click()
    page.evaluate("document.querySelectorAll('.rv-live details').forEach((node) => (node.open = true))")
    page.locator("#rv-problem").wait_for(state="visible")
    assert faults(page) == []
    page.evaluate("document.querySelectorAll('.rv-live details').forEach((node) => (node.open = false))")
    session.tell(Problem(message="", code="slow"))
    page.locator("#rv-problem button").click()


def test_a_viewer_sees_a_viewers_page(page: Any, painted: tuple[str, Painted]) -> None:
    session = session_of(painted[1])
    session.tell(RoleState(role="viewer"))
    page.locator("#rv-say").wait_for(state="hidden")
    for name in ("rv-pause", "rv-record", "rv-seed", "rv-surprise", "rv-share"):
        assert page.locator(f"#{name}").is_hidden(), name
    page.locator(".rv-forall").evaluate("node => (node.open = true)")
    for name in ("rv-canvas", "rv-caption", "rv-full", "rv-glance", "rv-role", "rv-watch"):
        assert page.locator(f"#{name}").is_visible(), name
    until(page, "document.querySelectorAll('#rv-track button').length === 0")
    assert faults(page) == []
    session.tell(RoleState(role="driver"))
    page.locator("#rv-say").wait_for(state="visible")


def test_long_render(page: Any) -> None:
    open_tab(page, "Long render")
    until(page, "document.querySelectorAll('.rv-plan .rv-cells i').length > 0")
    assert faults(page) == []
    form = page.locator('form:has([name="script_kind"])')
    form.locator('label:has([name="mode"][value="script"])').click()
    form.locator("textarea").fill("shots: 3")
    page.get_by_text("Quality and memory").click()
    until(page, "document.querySelector('[data-place=words]').dataset.bad === 'true'")
    assert faults(page) == []
    form.locator("textarea").fill("a red ball\na cat\n")
    form.locator('[name="script_kind"]').select_option("txt")
    form.locator('[name="seconds"]').fill("2")
    page.get_by_role("button", name="Check", exact=True).click()
    page.locator(".rv-check-table table").wait_for()
    for name in ("first", "second"):
        form.locator('[name="name"]').fill(name)
        page.get_by_role("button", name="Render", exact=True).click()
    page.get_by_role("button", name="Cancel: second").click()
    until(page, "document.querySelector('.rv-job[data-status=completed] img')?.naturalWidth > 0")
    assert faults(page) == []
    page.get_by_role("button", name="Watch: first").click()
    until(page, "document.querySelectorAll('.rv-watch .rv-track button').length === 2")
    assert faults(page) == []
    page.keyboard.press("Escape")


def test_compare(page: Any) -> None:
    open_tab(page, "Compare")
    assert faults(page) == []
    page.locator('.rv-compare [name="seconds"]').fill("1")
    page.get_by_role("button", name="Render all").click()
    page.locator('.rv-compare [data-act="play"]:enabled').wait_for()
    assert faults(page) == []


def test_the_gallery(page: Any, painted: tuple[str, Painted]) -> None:
    (session_of(painted[1]).folder / "session.jsonl").write_text("x")
    open_tab(page, "Gallery")
    until(page, "document.querySelectorAll('.rv-shelf li').length > 0")
    assert faults(page) == []


def test_the_models(page: Any) -> None:
    open_tab(page, "Models")
    until(page, "document.querySelectorAll('.rv-model-list > li').length > 5")
    page.evaluate("document.querySelectorAll('.rv-models details').forEach((node) => (node.open = true))")
    assert page.get_by_role("button", name="Fetch longlive-1.3b").is_disabled()  # until the licence is accepted
    assert faults(page) == []
