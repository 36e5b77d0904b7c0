"""The tabs Long render and Compare in a real Chromium, over renders that paint."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import begin_anew, open_tab, session_of, until
from tests.server.test_page_security import Painted

pytestmark = pytest.mark.browser
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)


@pytest.fixture(scope="module")
def page(shared: Any, painted: tuple[str, Painted]) -> Any:
    begin_anew(shared, painted[0])
    return shared


def test_a_shot_table_becomes_a_script_and_tells_where_every_shot_begins(page: Any) -> None:
    open_tab(page, "Long render")
    rows = page.locator(".rv-shots li")
    until(page, "document.querySelectorAll('.rv-shots li').length === 3")
    assert rows.nth(0).get_by_label("Transition into shot 1", exact=True).is_hidden()
    rows.nth(2).get_by_role("button", name="Delete: shot 3").click()
    page.get_by_role("button", name="Add a shot").click()
    words = page.locator('[data-place="words"]')
    until(page, "/Shot 3 needs a change/.test(document.querySelector('[data-place=words]').textContent)")
    assert "A prompt is empty" in rows.nth(2).inner_text()
    page.keyboard.type("a pink heart at sunset")
    for row in range(3):
        rows.nth(row).get_by_label(f"Seconds of shot {row + 1}").fill("2")
    rows.nth(2).get_by_role("button", name="Earlier: shot 3").click()
    until(page, "document.querySelectorAll('.rv-shots input')[3].value === 'a pink heart at sunset'")
    until(page, "/^3 shots, 6.0 s, 96 frames, 9 chunks/.test(document.querySelector('[data-place=words]').textContent)")
    assert "begins at 2.06 s, 3 chunks" in rows.nth(1).inner_text()
    assert page.locator(".rv-plan .rv-cells i").count() == 9
    page.locator('label:has([name="mode"][value="script"])').click()
    script = page.get_by_role("textbox", name="Script")
    assert '- {at: 2s, prompt: "a pink heart at sunset", transition: {kind: soft, chunks: 2}}' in script.input_value()
    script.fill(script.input_value().replace("at: 4s", "at: 2s"))
    page.get_by_role("button", name="Show the line").click()
    assert "Line 5:" in words.inner_text()
    start = script.evaluate("node => node.selectionStart")
    assert script.input_value()[start:].startswith('  - {at: 2s, prompt: "a yellow star')
    script.fill("a red ball over the sea\na blue star over snow\n")
    page.locator('[name="script_kind"]').select_option("txt")
    page.locator('form:has([name="script_kind"]) [name="seconds"]').fill("3")
    until(page, "/^2 shots, 3.0 s/.test(document.querySelector('[data-place=words]').textContent)")
    page.locator('label:has([name="mode"][value="shots"])').click()
    until(page, "document.querySelectorAll('.rv-shots li').length === 2")


def test_a_picture_that_is_dropped_here_begins_the_film_to_be_rendered(page: Any, tmp_path: Path) -> None:
    open_tab(page, "Long render")
    (tmp_path / "cat.png").write_bytes(PICTURE)
    chip = page.locator('[data-act="unbegin"]')
    assert chip.is_hidden()
    page.set_input_files("#rv-open", str(tmp_path / "cat.png"))  # as a drop does
    chip.wait_for()
    assert "cat.png" in chip.inner_text()
    with page.expect_request("**/v1/videos/plan") as planned:
        page.locator('form:has([name="script_kind"]) [name="name"]').fill("begun")
    assert planned.value.post_data_json["beginning"].startswith("image-")
    chip.click()
    chip.wait_for(state="hidden")
    (tmp_path / "no.webm").write_bytes(b"no video")
    page.set_input_files('[data-act="begin"]', str(tmp_path / "no.webm"))
    page.get_by_text("This is neither a picture nor a video.").wait_for()


PASTE = """
([node, text]) => {
  const clipboardData = new DataTransfer();
  clipboardData.setData('text/plain', text);
  document.querySelector(node).dispatchEvent(new ClipboardEvent('paste', {clipboardData, bubbles: true}));
}
"""
SUBTITLES = "1\n00:00:00,000 --> 00:00:04,000\na red ball\n\n2\n00:00:04,000 --> 00:00:08,000\na blue star\n"


def test_a_text_under_a_wrong_heading_is_offered_as_what_it_is(page: Any) -> None:
    open_tab(page, "Long render")
    page.locator('label:has([name="mode"][value="script"])').click()
    page.locator('form:has([name="script_kind"]) [name="seconds"]').fill("")
    page.locator('[name="script_kind"]').select_option("yaml")
    page.get_by_role("textbox", name="Script").fill(SUBTITLES)
    page.get_by_role("button", name="Read it as subtitles: 2 shots").click()
    until(page, "/^2 shots, 8.0 s/.test(document.querySelector('[data-place=words]').textContent)")
    page.locator('[name="script_kind"]').select_option("srt")
    page.get_by_role("textbox", name="Script").fill("a red ball\n\n# then\na blue star\n")
    page.get_by_role("button", name="Read it as prompts, one a line: 2 shots").click()
    page.locator('label:has([name="mode"][value="shots"])').click()
    until(page, "document.querySelectorAll('.rv-shots li').length === 2")
    page.evaluate(PASTE, [".rv-shots input", "0:00 a ball\n0:02 a star\n0:04 a heart"])
    until(page, "document.querySelectorAll('.rv-shots li').length === 3")
    banner = page.locator(".rv-jobs .rv-banner").first
    assert "Read as a timed list: 3 shots." in banner.inner_text()
    banner.get_by_role("button", name="Undo").click()
    until(page, "document.querySelectorAll('.rv-shots li').length === 2")
    open_tab(page, "Live")
    page.evaluate(PASTE, ["#rv-prompt", SUBTITLES])
    page.get_by_text("What you pasted reads as subtitles: 2 shots.").wait_for()
    page.get_by_role("button", name="Render it").click()
    until(page, "document.querySelectorAll('.rv-shots input')[0].value === 'a red ball'")


def test_jobs_are_checked_rendered_paused_moved_and_kept_over_a_reload(page: Any) -> None:
    open_tab(page, "Long render")
    form = page.locator('form:has([name="script_kind"])')
    form.locator('label:has([name="mode"][value="script"])').click()
    form.locator("textarea").fill("a red ball over the sea\na blue star over snow\n")
    form.locator('[name="script_kind"]').select_option("txt")
    form.locator('[name="seconds"]').fill("40")
    form.locator('[name="name"]').fill("long")
    page.get_by_text("Quality and memory").click()
    form.locator('[name="num_inference_steps"]').fill("1")
    page.get_by_role("button", name="Check", exact=True).click()
    page.locator(".rv-check-table table").wait_for()
    assert "to render" in page.locator(".rv-check-table").inner_text()
    page.get_by_role("button", name="Render", exact=True).click()
    page.locator('.rv-job[data-status="in_progress"]').wait_for()
    for name in ("first", "second", "third"):
        form.locator('[name="name"]').fill(name)
        page.get_by_role("button", name="Render", exact=True).click()
        page.get_by_role("button", name=f"Cancel: {name}").wait_for()
    names = "[...document.querySelectorAll('.rv-job strong')].map((node) => node.textContent).join()"
    until(page, f"{names}.endsWith('first,second,third')")
    page.get_by_role("button", name="Earlier: third").click()
    until(page, f"{names}.endsWith('first,third,second')")
    page.get_by_role("button", name="Pause: first").click()
    page.get_by_role("button", name="Resume: first").wait_for()
    for name in ("first", "second", "third"):
        page.get_by_role("button", name=f"Cancel: {name}").click()
        page.get_by_role("button", name=f"Delete: {name}").click()
        page.get_by_role("button", name=f"Really delete?: {name}").click()
    until(page, "document.querySelectorAll('.rv-job').length === 1")
    page.reload()
    open_tab(page, "Long render")
    job = page.locator(".rv-job").first
    assert form.locator('[name="name"]').input_value() == "third"
    until(page, "document.querySelector('.rv-job')?.dataset.status === 'completed'")
    until(page, "document.querySelectorAll('.rv-job [data-state=made]').length === 54")
    until(page, "document.querySelector('.rv-job img')?.naturalWidth > 0")
    with page.expect_download() as download:
        job.get_by_role("link", name="Download").click()
    assert Path(download.value.path()).read_bytes()[4:8] == b"ftyp"
    job.get_by_role("button", name="Edit as new").click()
    until(page, "document.querySelector('.rv-columns [name=name]').value === 'long'")


def test_a_film_opens_large_with_its_shots_the_keyboard_a_gif_and_a_way_to_make_it_again(page: Any) -> None:
    open_tab(page, "Long render")
    page.get_by_role("button", name="Watch: long").click()
    dialog = page.get_by_role("dialog", name="long")
    shots = dialog.get_by_role("list", name="Shots").get_by_role("button")
    until(page, "document.querySelectorAll('.rv-watch .rv-track button').length === 2")
    until(page, "document.querySelector('.rv-watch video').videoWidth > 0")
    at = "document.querySelector('.rv-watch video').currentTime"
    page.evaluate("document.querySelector('.rv-watch video').pause()")
    shots.nth(1).click()
    until(page, f"Math.abs({at} - 20.06) < 0.1")
    until(page, "document.querySelector('.rv-watch [aria-current=true]').textContent === 'a blue star over snow'")
    assert "Shot 2 of 2: a blue star over snow" in dialog.inner_text()
    for key, second in (
        ("ArrowLeft", 15.06),
        ("ArrowUp", 0),
        ("ArrowDown", 20.06),
        ("End", 40),
        ("Home", 0),
        (".", 0.06),
    ):
        page.keyboard.press(key)
        until(page, f"Math.abs({at} - {second}) < 0.1")
    with page.expect_download() as download:
        dialog.get_by_role("link", name="GIF of 6 s").click()
    content = Path(download.value.path()).read_bytes()
    assert content[:6] == b"GIF89a"
    assert download.value.suggested_filename == "long.gif"
    dialog.get_by_role("button", name="Render again as …").click()
    dialog.wait_for(state="detached")
    until(page, "document.querySelector('.rv-columns [name=name]').value === 'long'")


def test_the_gallery_finds_names_stars_and_throws_away(page: Any, painted: tuple[str, Painted]) -> None:
    session = session_of(painted[1])
    (session.folder / "still-20261130-120000-a-red-ball.png").write_bytes(PICTURE)
    open_tab(page, "Gallery")
    cards = page.locator(".rv-shelf li")
    until(page, "document.querySelectorAll('.rv-shelf li').length === 2")
    until(page, "[...document.querySelectorAll('.rv-shelf img')].every((node) => node.naturalWidth > 0)")
    page.get_by_label("Name of the picture").fill("my ball")
    page.get_by_label("Name of the picture").press("Enter")
    page.get_by_role("button", name="Favourite: my ball").click()
    page.locator('.rv-gallery label:has([value="favourite"])').click()
    until(page, "document.querySelectorAll('.rv-shelf li').length === 1")
    page.locator('.rv-gallery label:has([value="all"])').click()
    search = page.get_by_role("textbox", name="Search names and kinds")
    for words, count in (("LONG film", 1), ("ball pic", 1), ("nothing", 0), ("", 2)):
        search.fill(words)
        until(page, f"document.querySelectorAll('.rv-shelf li').length === {count}")
    page.get_by_role("button", name="See: my ball").click()
    page.get_by_role("dialog", name="my ball").get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Watch: long").click()
    until(page, "document.querySelectorAll('.rv-gallery .rv-watch .rv-track button').length === 2")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Into the bin: my ball").click()
    until(page, "document.querySelectorAll('.rv-shelf li').length === 1")
    page.locator(".rv-gallery .rv-banner").get_by_role("button", name="Undo").click()
    until(page, "document.querySelectorAll('.rv-shelf li').length === 2")
    page.get_by_role("button", name="Into the bin: my ball").click()
    page.locator('.rv-gallery label:has([value="binned"])').click()
    page.get_by_role("button", name="Delete for good: my ball").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete it").click()
    until(page, "document.querySelectorAll('.rv-shelf li').length === 0")
    assert list(session.folder.glob("*.png")) == []
    assert cards.count() == 0


def test_films_under_different_settings_play_as_one_and_are_exported(page: Any) -> None:
    open_tab(page, "Compare")
    tab_ = page.locator(".rv-compare")
    tab_.locator('[name="seconds"]').fill("2")
    tab_.locator('[name="num_inference_steps"]').nth(0).fill("1")
    tab_.locator('[name="num_inference_steps"]').nth(1).fill("1")
    tab_.locator('[name="sink_size"]').nth(1).fill("")
    page.get_by_role("button", name="Render all").click()
    page.get_by_text("B is set like another one").wait_for()
    tab_.locator('[name="num_inference_steps"]').nth(1).fill("2")
    page.get_by_role("button", name="Render all").click()
    tab_.locator('[data-act="play"]:enabled').wait_for()
    times = "[...document.querySelectorAll('.rv-compare video')].map((video) => video.currentTime)"
    tab_.get_by_label("Time of all films").fill("1")
    until(page, f"{times}.every((at) => Math.abs(at - 1) < 0.1)")
    tab_.get_by_role("button", name="Play all").click()
    until(page, f"{times}.every((at) => at > 1.2)")
    tab_.get_by_role("button", name="Pause all").click()
    first, second = page.evaluate(times)
    assert abs(first - second) < 0.2
    assert tab_.locator(".rv-plots svg").count() == 4
    assert tab_.locator(".rv-plots polyline").count() >= 6
    assert "none" in tab_.locator("tbody tr").nth(1).inner_text(), "other steps, other pictures from the first on"
    found = {}
    for kind in ("CSV", "PNG", "HTML"):
        with page.expect_download() as download:
            tab_.get_by_role("button", name=kind, exact=True).click()
        found[kind] = Path(download.value.path()).read_bytes()
    assert found["CSV"].decode().count("\n") == 1 + 2 * 3
    assert found["PNG"].startswith(b"\x89PNG")
    assert len(found["PNG"]) > 20_000
    page_text = found["HTML"].decode()
    assert page_text.count("data:video/mp4;base64,") == 2
    assert not re.search(r'(src|href)="(?!data:)', page_text)
