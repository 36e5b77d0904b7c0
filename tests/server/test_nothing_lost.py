"""Nothing is lost on the page, in a real Chromium: branches, receipts, dropped films, renders, checks, comparisons."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from app.live.messages import Accepted, Applied, Branch, Do, Span, Track
from tests.live_doubles import PaintedSession
from tests.server.conftest import READY, begin_anew, open_tab, session_of, until
from tests.server.test_page_security import Painted

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(shared: Any, painted: tuple[str, Painted]) -> Any:
    begin_anew(shared, painted[0])
    return shared


def done(session: PaintedSession) -> list[Do]:
    return [message for message in session.submitted if isinstance(message, Do)]


def test_a_click_on_the_track_has_an_undo_and_leaves_a_row(page: Any, painted: tuple[str, Painted]) -> None:
    session = session_of(painted[1])
    spans = [Span(kind="past", prompt="a red ball", begin=0, end=8), Span(kind="now", prompt="a star", begin=8)]
    session.tell(Track(branch=0, spans=spans))
    page.locator("#rv-track button").first.click()
    until(page, "document.querySelector('#rv-undo').hidden")
    assert done(session)[-1].action == "rewind"
    session.tell(Track(branch=1, spans=spans[:1], branches=[Branch(branch=0, prompt="a star", t=61.5)]))
    toast, row = page.locator("#rv-undo"), page.locator("#rv-branches button")
    toast.wait_for(state="visible")
    assert toast.locator("span").inner_text() == "Back to where “a red ball” began."
    assert row.inner_text().split("\n") == ["a star", "left at 1:01"]
    toast.get_by_role("button", name="Undo").click()
    assert toast.is_hidden()
    row.click()
    assert [(each.action, each.branch) for each in done(session)[-2:]] == [("return", 0), ("return", 0)]
    session.tell(Track(branch=2, spans=spans))
    page.locator("#rv-branches").wait_for(state="hidden")


def test_what_somebody_else_did_offers_no_undo(page: Any, painted: tuple[str, Painted]) -> None:
    session = session_of(painted[1])
    span = Span(kind="now", prompt="a star", begin=0)
    page.evaluate("document.querySelector('#rv-undo').hidden = true")
    session.tell(Track(branch=2, spans=[span]))
    session.tell(Track(branch=7, spans=[span], branches=[Branch(branch=2, prompt="a star", t=1)]))
    page.locator("#rv-branches").wait_for(state="visible")
    assert page.locator("#rv-undo").is_hidden()


def test_a_receipt_counts_down_blends_chunk_by_chunk_and_waits_while_paused(
    page: Any, painted: tuple[str, Painted], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_of(painted[1])
    monkeypatch.setattr(session, "submit", lambda message, viewer: session.submitted.append(message))
    page.locator('#rv-transition label:has(input[value="soft"])').click()
    page.locator("#rv-prompt").fill("a blue star")
    page.locator("#rv-prompt").press("Enter")
    receipt = page.locator("#rv-receipts b").first
    said = "document.querySelector('#rv-receipts b').textContent"
    until(page, f"{said} === 'sent'")
    name = session.submitted[-1].id
    session.tell(Accepted(id=name, chunk=9, at=0.0, seconds=40))
    until(page, f"/^in (40|39) s$/.test({said})")
    assert receipt.get_attribute("title") == "It begins with chunk 9."
    page.get_by_role("button", name="Pause").click()
    until(page, f"{said} === 'waits: paused'")
    page.get_by_role("button", name="Go on").click()
    until(page, f"/^in \\d+ s$/.test({said})")
    at = session.seq + 8  # 4 chunks of 12 frames from then on
    session.tell(Applied(id=name, chunk=9, frame=at, t=at / 16, ms=40))
    for chunk in ("1", "4"):
        until(page, f"{said} === 'blending {chunk} of 4'")
    until(page, f"/^on screen in \\d+ ms$/.test({said})")
    page.locator('#rv-transition label:has(input[value="recache"])').click()
    page.locator("#rv-prompt").fill("a red ball")
    page.locator("#rv-prompt").press("Control+Enter")
    until(page, f"{said} === 'queued'")
    name = session.submitted[-1].id
    session.tell(Accepted(id=name, chunk=9, at=0.0, seconds=70))
    until(page, f"/^queued, in (70|69) s$/.test({said})")
    session.tell(Applied(id=name, chunk=9, frame=session.seq, t=83.0, ms=40))
    until(page, f"{said} === 'on screen at 1:23'")


def ask(painted: tuple[str, Painted], **asked: Any) -> str:
    body = json.dumps({"settings": {"segment_chunks": 2, "scale": 8}, **asked}).encode()
    with urllib.request.urlopen(f"{painted[0]}v1/videos", body, timeout=30) as answer:
        return json.load(answer)["id"]


def test_a_cancelled_render_offers_its_film_so_far_and_goes_on(page: Any, painted: tuple[str, Painted]) -> None:
    job = ask(painted, prompt=["a red ball", "a blue star"], seconds=48, name="cut short")  # long enough to be cut
    open_tab(page, "Long render")
    line = page.locator(f'.rv-job[data-id="{job}"]')
    until(page, "document.querySelector('.rv-job img')?.naturalWidth > 0")
    line.get_by_role("button", name="Cancel: cut short").click()
    line.get_by_role("button", name="Resume: cut short").wait_for()
    with page.expect_download() as download:
        line.get_by_role("link", name="Download so far").click()
    assert Path(download.value.path()).read_bytes()[4:8] == b"ftyp"
    line.get_by_role("button", name="Resume: cut short").click()
    until(page, f"document.querySelector('.rv-job[data-id={job}]').dataset.status === 'completed'")
    assert "48.0 s, 768 frames" in line.inner_text()


def test_a_check_can_be_left_and_another_one_takes_its_place(page: Any) -> None:
    open_tab(page, "Long render")
    place = page.locator(".rv-check-table")
    page.get_by_role("button", name="Check", exact=True).click()
    place.get_by_role("button", name="Leave it").click()
    until(page, "document.querySelector('.rv-check-table').childElementCount === 0")
    for _ in range(2):
        page.get_by_role("button", name="Check", exact=True).click()
    place.locator("table").wait_for()
    assert page.locator(".rv-jobs .rv-banner").first.is_hidden()


def test_a_dropped_film_asks_and_opens_beside(page: Any, painted: tuple[str, Painted], tmp_path: Path) -> None:
    with urllib.request.urlopen(f"{painted[0]}v1/videos", timeout=30) as answer:
        job = next(job["id"] for job in json.load(answer)["data"] if job["status"] == "completed")
    with urllib.request.urlopen(f"{painted[0]}v1/videos/{job}/content", timeout=30) as answer:
        (tmp_path / "film.mp4").write_bytes(answer.read())
    open_tab(page, "Live")
    before = len(session_of(painted[1]).submitted)
    for answer in ("Cancel", "Open beside"):
        page.locator("#rv-open").set_input_files(tmp_path / "film.mp4")
        dialog = page.get_by_role("dialog")
        assert "film.mp4: 2 prompts, 48.0 s, seed 42." in dialog.inner_text()
        if answer == "Cancel":
            page.keyboard.press("Escape")
            dialog.wait_for(state="detached")
            continue
        with page.context.expect_page() as opened:
            dialog.get_by_role("button", name=answer).click()
    other = opened.value
    other.wait_for_selector('#rv-problem[data-good="true"]')
    assert "It plays again from its beginning" in other.locator("#rv-problem").inner_text()
    assert "beside" not in other.url
    films = [session for session in painted[1].sessions.values() if session.viewers]
    assert len(films) == 2
    assert [message.type for message in films[-1].submitted if "rewind" not in str(message)][:1] == ["session.start"]
    assert [message.type for message in films[0].submitted[before:]] == []
    other.close()


def test_compare_and_the_open_tab_are_still_there_after_a_reload(page: Any) -> None:
    open_tab(page, "Compare")
    form = page.locator(".rv-compare form")
    form.locator('[name="script"]').fill("a red ball\na blue star")
    form.locator('[name="seconds"]').fill("1")
    form.locator('[name="num_inference_steps"]').nth(0).fill("3")
    page.get_by_role("button", name="Another").click()
    page.get_by_role("button", name="Remove C").click()
    page.reload()
    page.wait_for_selector(READY, state="attached")
    until(page, "document.querySelector('[role=tab][aria-selected=true]')?.textContent.trim() === 'Compare'")
    assert form.locator('[name="script"]').input_value() == "a red ball\na blue star"
    assert form.locator('[name="num_inference_steps"]').nth(0).input_value() == "3"
    page.get_by_role("button", name="Render all").click()
    page.locator('.rv-compare [data-act="play"]:enabled').wait_for()
    page.reload()
    page.locator('.rv-compare [data-act="play"]:enabled').wait_for()
    assert page.locator(".rv-compare video").count() == 2
