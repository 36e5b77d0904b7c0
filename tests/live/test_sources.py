"""A camera, a screen or a file of a page as a live film's source: the newest pictures, no other, and the way back."""

from __future__ import annotations

import io
import json
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.errors import UsageMistake
from app.live.frame_header import FrameHeader, pack_frame, unpack_frame
from app.live.messages import Problem, WireError
from app.live.picture_header import MAX_PICTURE, WEBP, Upload, pack_picture, read_picture
from app.live.pictures import BAD_IN_A_ROW, BadPicture, Pictures, decoded
from app.live.session import Session
from app.live.source_messages import PictureTaken, SourceFigures, SourceSet, SourceState
from app.loading.live import EngineStream
from app.media.fit import Fit
from app.media.flatten import flattened
from app.record.session_log import Decided, Made, parse_log
from app.render.replay_log import replay_log
from pipelines.streaming import Stream
from schedulers.similarity import SimilarityFilter
from tests import live_tiny
from tests.live_tiny import Clock, Stage, Watcher, say, watched

FIT = Fit(32, 48)


def picture(level: int, size: tuple[int, int] = (48, 32), kind: str = "JPEG") -> bytes:
    """A picture that is as bright as a number, with an edge in it."""
    pixels = np.full((size[1], size[0], 3), level, np.uint8)
    pixels[:, : size[0] // 2] //= 2
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, quality=95)
    return file.getvalue()


class Page:
    """What shows itself to a film: pictures that rise in number, sixteen a second of the stage's clock."""

    def __init__(self, stage: Stage, watcher: Watcher, film: Session) -> None:
        self.stage, self.watcher, self.film = stage, watcher, film
        self.number = self.seq = 0

    def show(self, kind: str = "camera", **more: object) -> None:
        self.number += 1
        self.film.film.video.choose(SourceSet(kind=kind, number=self.number, **more), self.watcher)  # type: ignore[arg-type]

    def send(self, payload: bytes, *, number: int | None = None) -> None:
        self.seq += 1
        upload = Upload(self.number if number is None else number, self.seq, self.stage.clock.now, 0, payload)
        self.film.film.video.offer(upload, self.watcher)
        self.settle()

    def settle(self) -> None:
        source = self.film.film.video._source
        assert source is None or source.pictures._worker.idle(20)

    def play(self, seconds: float, *, rate: float = 16.0) -> None:
        """Let time pass while pictures come."""
        end, due = self.stage.clock.now + seconds, self.stage.clock.now
        while self.stage.clock.now < end:
            self.send(picture(self.seq * 7 % 256))
            due += 1 / rate
            self.stage.play(max(0.001, due - self.stage.clock.now))


@pytest.fixture
def page(stage: Stage) -> Page:
    watcher, film = watched(stage)
    stage.play(1)
    return Page(stage, watcher, film)


def log_of(film: Session) -> bytes:
    return (film.folder / "session.jsonl").read_bytes()


# ------------------------------------------------------------------ what the film is made of


def test_frames_are_made_of_the_pictures_of_their_moment(page: Page) -> None:
    page.show(strength=0.4)
    before = len(page.watcher.frames)
    page.play(6)
    frames = [frame for frame in page.watcher.frames[before:] if frame.source is not None]
    assert len(frames) > 60
    numbers = [frame.source.seq for frame in frames if frame.source]
    assert numbers == sorted(numbers), "no picture comes back"
    ages = [
        time - frame.source.captured
        for frame, time in zip(page.watcher.frames, page.watcher.times, strict=True)
        if frame.source
    ][12:]
    # A chunk waits for its pictures (0.75 s less one), is made in 0.25 s and is shown at once: no more, ever.
    assert max(ages) < 0.75 + 0.25 + 0.2
    assert min(ages) > 0.75 - 1 / 16
    numbered = [frame.frame for frame in page.watcher.frames]
    assert numbered == list(range(numbered[0], numbered[0] + len(numbered))), "the film counts on"


def test_a_film_goes_from_a_file_to_a_camera_to_words_and_to_a_camera(page: Page) -> None:
    threads = threading.active_count()
    states: list[str] = []
    kinds = ("file", "camera", "none", "camera", "screen", "none") * 2
    for kind in kinds:
        page.show(kind)
        states.append(page.watcher.of(SourceState)[-1].kind)
        before = len(page.watcher.frames)
        if kind == "none":
            page.stage.play(0.8)
        else:
            page.play(0.8)
        new = page.watcher.frames[before:]
        assert len(new) > 8, "the film goes on"
        assert (new[-1].source is None) == (kind == "none")
    assert states == [*kinds]
    assert not page.watcher.of(Problem)
    assert not page.film.film._stream._stream.state.encoder  # type: ignore[attr-defined]  # nothing of a video is kept
    assert threading.active_count() <= threads + 1  # an idle one lingers for a second


def test_only_the_source_in_force_and_its_own_viewer_are_seen(page: Page) -> None:
    page.show()
    page.send(picture(10))
    source = page.film.film.video._source
    assert source is not None
    page.send(picture(250), number=99)
    other = Watcher(page.stage.clock)
    page.film.film.video.offer(Upload(page.number, 9999, 0.0, 0, picture(250)), other)
    page.settle()
    assert source.pictures.newest is not None
    assert source.pictures.newest.mark.seq == 1
    first = source
    page.show("file")
    page.send(picture(250), number=first.asked.number)
    assert page.film.film.video._source is not None
    assert page.film.film.video._source.pictures.newest is None, "what was on its way belongs to the one before"
    assert first.pictures.newest is None, "and is forgotten"


def test_settings_change_while_a_source_plays_and_another_number_is_another_source(page: Page) -> None:
    page.show(strength=0.4)
    page.play(1)
    source = page.film.film.video._source
    page.film.film.video.choose(SourceSet(kind="camera", number=page.number, strength=0.9, hold=0.3), page.watcher)
    assert page.film.film.video._source is not None
    assert source is not None
    assert page.film.film.video._source.pictures is source.pictures
    assert source.pictures.hold == 0.3
    state = page.watcher.of(SourceState)[-1]
    assert (state.strength, state.hold) == (0.9, 0.3)
    page.play(1)
    shares = [figures.share for figures in page.watcher.of(SourceFigures)]
    assert shares[0] is not None
    assert shares[-1] is not None
    assert shares[0] < 0.45 < 0.7 < shares[-1]


@pytest.mark.parametrize("end", ["silent", "hands", "gone"])
def test_a_source_ends_with_its_pictures_its_controls_or_its_viewer(page: Page, end: str) -> None:
    page.show()
    page.play(1)
    other = Watcher(page.stage.clock, driver=False)
    page.film.attach(other)
    if end == "silent":
        page.stage.play(8)
        assert page.film.film.video.state.kind == "camera", "the newest picture stands for a while"
        page.stage.play(4)
    elif end == "hands":
        page.watcher.driver, other.driver = False, True
        page.stage.play(1)
    else:
        page.film.detach(page.watcher)
        other.driver = True
    told = other.of(SourceState)[-1]
    assert told.kind == "none"
    assert (
        told.message
        == {
            "silent": "It has sent nothing for 10 s.",
            "hands": "Somebody else has the controls now.",
            "gone": "Whoever showed it has gone.",
        }[end]
    )
    before = len(other.frames)
    page.stage.play(2)
    assert all(frame.source is None for frame in other.frames[before + 12 :])
    assert len(other.frames) > before + 24, "the film goes on from its words"


def test_a_producer_twice_as_fast_leaves_nothing_waiting(page: Page) -> None:
    page.show()
    page.play(5, rate=32)
    source = page.film.film.video._source
    assert source is not None
    assert len(source.pictures._kept) <= 24
    ages = [
        time - frame.source.captured
        for frame, time in zip(page.watcher.frames, page.watcher.times, strict=True)
        if frame.source
    ][12:]
    assert max(ages) < 0.75 + 0.25 + 0.2


def test_after_a_stall_the_newest_pictures_are_shown_at_the_film_s_own_pace(page: Page) -> None:
    page.show()
    page.play(2)
    page.stage.model.chunk_seconds = 3.0
    page.play(0.8)  # one chunk is begun, and takes 3 s
    page.stage.model.chunk_seconds = 0.25
    before = len(page.watcher.frames)
    page.play(3)
    times = page.watcher.times[before:]
    assert min(after - at for at, after in pairwise(times)) > 0.9 / 16, "no burst"
    ages = [
        time - frame.source.captured
        for frame, time in list(zip(page.watcher.frames, page.watcher.times, strict=True))[before + 24 :]
        if frame.source
    ]
    assert ages
    assert max(ages) < 0.75 + 0.6 + 0.3, "a chunk and what the margin has grown by"


def test_a_latency_takes_steps_away_and_says_so(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EngineStream, "levels", (1000.0, 750.0, 500.0, 250.0))
    page.show(strength=0.9, latency=0.8)
    page.play(4)
    figures = page.watcher.of(SourceFigures)
    assert figures[-1].steps == 1
    assert figures[-1].reached is False
    assert "0.80 s cannot be held" in figures[-1].said
    events = [json.loads(line) for line in log_of(page.film).splitlines()]
    decisions = [Decided(**event) for event in events if event["event"] == "decision" and event["kind"] == "latency"]
    assert [decision.data["steps"] for decision in decisions][-1] == 1
    page.film.film.video.choose(SourceSet(kind="camera", number=page.number, strength=0.9), page.watcher)
    page.play(1)
    assert page.watcher.of(SourceFigures)[-1].steps is None


def test_a_still_camera_costs_little_and_the_film_counts_on(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = live_tiny._networks()
    video = replace(engine.policies.video, similarity=SimilarityFilter())
    filtering = replace(engine, policies=replace(engine.policies, video=video))
    monkeypatch.setattr(live_tiny, "_networks", lambda: filtering)
    entered = list[int]()
    usual = Stream.enter

    def enter(self: Stream, *given: Any, **more: Any) -> Any:
        entered.append(self.state.cur)
        return usual(self, *given, **more)

    monkeypatch.setattr(Stream, "enter", enter)
    watcher, film = watched(stage)
    stage.play(1)
    page = Page(stage, watcher, film)
    page.show()
    for _ in range(170):
        page.send(picture(90))
        stage.play(1 / 16)
    chunks = len(watcher.of(SourceFigures))
    assert chunks >= 13
    assert len(entered) <= 0.16 * chunks, "one in eleven, and the first"
    assert watcher.of(SourceFigures)[-1].skips > 0.8
    seen = len(watcher.of(SourceFigures))
    page.play(2)
    assert [figures.skipped for figures in watcher.of(SourceFigures)[seen + 1 :]] == [False] * (
        len(watcher.of(SourceFigures)) - seen - 1
    ), "movement is seen at once"
    numbered = [frame.frame for frame in watcher.frames]
    assert numbered == list(range(numbered[0], numbered[0] + len(numbered))), "what was left out is film too"
    page.show("none")
    stage.play(2)
    numbered = [frame.frame for frame in watcher.frames]
    assert numbered == list(range(numbered[0], numbered[0] + len(numbered)))
    stage.settle()
    assert len(parse_log(log_of(film), "log").chunks) > chunks, "and the log has every chunk of it"


# ------------------------------------------------------------------ ways back, and the log


def test_a_rewind_into_a_source_goes_to_a_copy_for_its_pictures_are_gone(page: Page) -> None:
    page.film.film._history._memory = 20 * page.film.film._stream.copy().size  # a copy every fourth chunk
    page.show()
    page.play(4)
    from app.live.messages import Do

    page.film.submit(Do(action="rewind", seconds=1.5), page.watcher)
    page.play(2)
    assert not page.film.over
    assert not page.film.film.behind
    assert page.watcher.frames[-1].source is not None, "the camera goes on"
    page.film.submit(Do(action="rewind", seconds=30), page.watcher)  # to before there was one
    page.play(2)
    assert page.watcher.frames[-1].source is not None
    page.film.submit(say("p", "a blue wolf", "cut"), page.watcher)
    page.play(2)
    assert page.watcher.applied("p") is not None
    assert not page.film.over


def test_the_log_says_which_chunks_had_pictures_and_a_replay_refuses_them(page: Page, tmp_path: Path) -> None:
    page.show("screen")
    page.play(2)
    page.show("none")
    page.stage.play(2)
    data = log_of(page.film)
    made = [Made(**json.loads(line)) for line in data.splitlines() if b'"event":"chunk"' in line]
    kinds = [each.source for each in made]
    first, last = kinds.index("screen"), len(kinds) - 1 - kinds[::-1].index("screen")
    assert first > 1
    assert last < len(kinds) - 1
    assert set(kinds[first : last + 1]) == {"screen"}
    assert [chunk.source for chunk in parse_log(data, "log").chunks] == kinds
    (tmp_path / "session.jsonl").write_bytes(data)
    with pytest.raises(UsageMistake, match=f"chunk {first} was made of a screen, whose pictures nobody kept"):
        replay_log(
            tmp_path / "session.jsonl",
            tmp_path / "out.mp4",
            check=True,
            overwrite=False,
            console=None,  # type: ignore[arg-type]  # refused before it says anything
        )


def test_a_film_with_a_source_is_parked_and_goes_on_from_its_words(page: Page) -> None:
    page.show()
    page.play(2)
    name = page.film.id
    page.film.detach(page.watcher)
    page.stage.play(8)
    assert page.film.over
    page.stage.settle()
    watcher, film = watched(page.stage, name)
    page.stage.play(2)
    assert film.id == name
    assert len(watcher.frames) > 20
    assert all(frame.source is None for frame in watcher.frames)
    assert film.film.video.state.kind == "none"


# ------------------------------------------------------------------ hostile pictures


def test_headers_of_pictures_are_read_or_refused_in_a_sentence() -> None:
    upload = Upload(3, 7, 12.5, WEBP, b"abc")
    assert read_picture(pack_picture(upload)) == upload
    whole = pack_picture(upload)
    for wrong in (
        b"",
        whole[:20],
        whole[:7],
        b"x" + whole[1:],
        whole[:2] + b"\x09" + whole[3:],
        whole[:3] + b"\x07" + whole[4:],
        whole + b"x" * MAX_PICTURE,
        whole[:12] + b"\xff" * 8 + whole[20:],
    ):
        with pytest.raises(WireError, match=r"^[A-Z].{10,120}\.$"):
            read_picture(wrong)


def test_a_frame_tells_of_what_picture_it_was_made_and_one_of_words_is_as_it_was() -> None:
    plain, made = FrameHeader(1, 2, 3.0, 4.0), FrameHeader(1, 2, 3.0, 4.0, source=(9, 77.25))
    assert unpack_frame(pack_frame(plain, b"jpeg")) == (plain, b"jpeg")
    assert unpack_frame(pack_frame(made, b"jpeg")) == (made, b"jpeg")
    assert len(pack_frame(made, b"jpeg")) == len(pack_frame(plain, b"jpeg")) + 12
    with pytest.raises(WireError):
        unpack_frame(pack_frame(made, b"")[:-8])


def hostile() -> Iterator[tuple[str, bytes]]:
    whole = picture(100)
    draw = random.Random(3)
    yield "empty", b"\0"
    yield "text", b"hello" * 100
    yield "cut", whole[: len(whole) // 3]
    yield "webp under a jpeg's name", picture(100, kind="WEBP")
    yield "png", picture(100, kind="PNG")
    yield "too large", picture(0, (2100, 16))
    yield "huge claim", whole.replace(b"\x00\x20\x00\x30", b"\xff\xff\xff\xff", 1)
    yield "noise", draw.randbytes(20_000)


@pytest.mark.parametrize(
    ("name", "payload"), list(hostile()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_is_no_picture_is_refused_in_a_sentence(name: str, payload: bytes) -> None:
    with pytest.raises(BadPicture, match=r"^A picture .{5,120}\.$"):
        decoded(Upload(0, 0, 0.0, 0, payload), FIT)


def test_a_picture_of_any_shape_becomes_one_of_the_film_s() -> None:
    for size in ((48, 32), (1, 1), (640, 480), (33, 500), (2048, 90)):
        for kind, codec in (("JPEG", 0), ("WEBP", WEBP)):
            pixels = decoded(Upload(0, 0, 0.0, codec, picture(200, size, kind)), FIT)
            assert (pixels.shape, pixels.dtype) == ((32, 48, 3), np.uint8)
    bright = decoded(Upload(0, 0, 0.0, 0, picture(200, (640, 480))), FIT)
    assert abs(int(bright[16, 40, 0]) - 200) < 6
    assert abs(int(bright[16, 8, 0]) - 100) < 6


def test_bad_pictures_are_told_once_and_end_a_source_that_sends_nothing_else(page: Page) -> None:
    page.show()
    page.send(picture(9))
    for _ in range(5):
        page.send(b"no picture at all")
    assert [problem.code for problem in page.watcher.of(Problem)] == ["picture"]
    assert page.watcher.of(PictureTaken)[-1].seq == page.seq, "credit comes back for what was refused too"
    page.send(picture(9))
    for _ in range(BAD_IN_A_ROW):
        page.send(b"no picture at all")
    assert page.film.film.video.state.kind == "none"
    assert "None of its pictures can be read" in page.watcher.of(SourceState)[-1].message


def test_only_the_newest_picture_waits_to_be_decoded() -> None:
    clock, taken = Clock(), list[int]()
    pictures = Pictures(FIT, room=4, clock=clock, taken=taken.append, refused=lambda error, last: None)
    begin, go_on = threading.Event(), threading.Event()

    def hold_up() -> None:
        begin.set()
        assert go_on.wait(20)

    pictures._worker.give(hold_up)
    assert begin.wait(20)
    for seq in range(50):
        pictures.offer(Upload(0, seq, 0.0, 0, picture(seq)))
    go_on.set()
    assert pictures._worker.idle(20)
    assert taken == [49]
    assert pictures.replaced == 49
    kept = pictures.take(3, 1 / 16, clock.now)
    assert [each.mark.seq for each in kept] == [49, 49, 49]
    pictures.close()
    pictures.offer(Upload(0, 50, 0.0, 0, picture(0)))
    assert pictures.newest is None
    assert pictures.take(3, 1 / 16, clock.now) == []


def test_holding_less_leaves_flat_colours_and_holding_all_changes_nothing() -> None:
    noise = np.random.default_rng(0).integers(-40, 40, (32, 48, 3))
    pixels = np.full((32, 48, 3), 60)
    pixels[:, 24:] = 190
    textured = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    assert flattened(textured, 1.0) is textured
    all_of_it, much, half, little = (float(flattened(textured, hold)[:, :16].std()) for hold in (1, 0.8, 0.5, 0.2))
    assert max(half, little) < much < all_of_it / 3
    flat = flattened(textured, 0.4)
    assert flat.shape == textured.shape
    assert abs(flat[:, :16].mean() - 60) < 6
    assert abs(flat[:, 32:].mean() - 190) < 6
