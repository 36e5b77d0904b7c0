"""Twenty changes of a film's source, refused and lost ones among them: no black frame, nothing left behind."""

from __future__ import annotations

import gc
import io
import threading
import weakref
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.errors import UsageMistake
from app.live.messages import Problem
from app.live.player import LiveFrame
from app.media import camera as camera_module
from app.media.reader import NEWEST, Reader
from tests.live.test_sources import Page, page, picture  # noqa: F401  # a fixture
from tests.live_doubles import until
from tests.media.test_cameras import FakeCapture, source_of

CHANGES = (
    *("file", "camera", "none", "camera", "unplugged", "camera", "screen", "none", "denied", "file"),
    *("busy", "camera", "file", "camera", "none", "camera", "unplugged", "screen", "file", "none"),
)
BRIGHTEST = 40
"""Levels that the brightest pixel of a film's frame has at least; the tiny networks' are far above."""


def black(frame: LiveFrame) -> bool:
    """Whether nothing is seen on a frame."""
    return int(np.asarray(Image.open(io.BytesIO(frame.payload))).max()) < BRIGHTEST


def readers() -> set[int | None]:
    return {
        thread.ident for thread in threading.enumerate() if thread.name in ("rivulet-pictures", "rivulet-beginning")
    }


def test_twenty_changes_of_source_show_no_black_frame_and_leave_nothing(page: Page) -> None:  # noqa: F811
    """What a page tells the server of each: a camera that is denied is never announced, a busy one sends nothing."""
    dark = io.BytesIO()
    Image.new("RGB", (48, 32)).save(dark, "JPEG")
    assert black(LiveFrame(dark.getvalue(), 0, True, 0, 0, 0, 0.0, 0.0)), "a black frame would be seen"
    before, video = readers(), page.film.film.video
    opened: list[weakref.ref[object]] = []
    seen, after = len(page.watcher.frames), list[bool]()
    for change in CHANGES:
        if change in ("none", "unplugged"):
            page.show("none")
        elif change != "denied":
            page.show("camera" if change == "busy" else change)
        if video._source is not None:
            opened.append(weakref.ref(video._source.pictures))
        if change in ("file", "camera", "screen"):
            page.play(0.8)
        else:
            page.stage.play(0.8)
        new, seen = page.watcher.frames[seen:], len(page.watcher.frames)
        assert len(new) > 8, f"the film stands still with {change}"
        assert not any(black(frame) for frame in new), change
        after.append(new[-1].source is not None)
    assert after == [change in ("file", "camera", "screen") for change in CHANGES]
    numbers = [frame.frame for frame in page.watcher.frames]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert not page.watcher.of(Problem)
    assert video._source is None
    gc.collect()
    assert len(opened) > 12
    assert not [ref for ref in opened if ref() is not None], "pictures of a source that has gone"
    until(lambda: readers() <= before, 20)
    assert not page.film.film._stream._stream.state.encoder  # type: ignore[attr-defined]


def test_the_newest_picture_is_the_last_of_every_chunk_however_fast_they_come(page: Page) -> None:  # noqa: F811
    page.show()
    video, newest = page.film.film.video, list[tuple[int, int]]()
    usual = video._enter

    def enter(stream: Any, kept: Any, controls: Any, asked: Any) -> None:
        newest.append((kept[-1].mark.seq, page.seq))
        usual(stream, kept, controls, asked)

    video._enter = enter  # type: ignore[method-assign]
    page.play(4, rate=32)
    assert len(newest) > 4
    assert all(shown == sent for shown, sent in newest), newest
    assert all(later - earlier > 16 for (earlier, _), (later, _) in pairwise(newest)), "it comes twice as fast"


def test_twenty_devices_opened_in_turn_are_freed_with_their_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of `rivulet v2v`: working, busy, silent and unplugged ones."""
    monkeypatch.setattr(camera_module, "_PAUSE", 0.0)
    before = set(threading.enumerate())
    captures: list[FakeCapture] = []
    for number in range(20):
        kind = ("works", "busy", "silent", "unplugged")[number % 4]
        capture = FakeCapture({"works": 10**6, "unplugged": 3}.get(kind, 0), opened=kind != "busy")
        captures.append(capture)
        reader = Reader(source_of(capture), room=NEWEST, newest=True)
        if kind in ("busy", "silent"):
            with pytest.raises(UsageMistake, match="Close what uses it"), reader:
                pass
        else:
            with reader:
                pass
    until(lambda: all(capture.released for capture in captures), 20)
    until(lambda: set(threading.enumerate()) <= before, 20)


def test_a_picture_is_what_it_is_painted() -> None:
    assert not black(LiveFrame(picture(200), 0, True, 0, 0, 0, 0.0, 0.0))
