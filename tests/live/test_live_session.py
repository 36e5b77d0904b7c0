"""A live film answers its viewers: on time, in order, and only while somebody watches."""

from __future__ import annotations

import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from app.live.messages import (
    Do,
    Done,
    Metrics,
    Problem,
    QueueEdit,
    QueueItem,
    Saved,
    SessionStart,
    Set,
    Stop,
    Track,
)
from app.live.player import Receipt
from app.live.prompts import respelled
from app.render.replay_log import replay_log
from pipelines.types import Transition, in_words
from tests.live_tiny import CHUNK_SECONDS, FPS, Clock, Stage, TinyModel, say, watched

PERIOD = 1 / FPS


def test_frames_come_one_by_one_at_the_films_own_rate(stage: Stage) -> None:
    watcher, _ = watched(stage)
    stage.play(3)
    gaps = [after - before for before, after in pairwise(watcher.times)]
    assert len(gaps) > 36
    assert max(gaps) < 2 * PERIOD
    assert abs(sum(gaps) / len(gaps) - PERIOD) < 0.002
    assert [frame.frame for frame in watcher.frames] == list(range(len(watcher.frames)))
    assert [frame.seq for frame in watcher.frames] == list(range(1, len(watcher.frames) + 1))


def test_a_chunk_is_begun_just_in_time_and_never_kept_in_stock(stage: Stage) -> None:
    watcher, session = watched(stage)
    stage.play(4)
    ahead = [stage.clock.now - watcher.times[-1]]
    assert session.player.deadline(stage.clock.now) - stage.clock.now < 0.75 + CHUNK_SECONDS
    assert ahead[0] < 2 * PERIOD
    made_before = stage.model.made
    while not session.player.stocked:
        stage.play(0.01)
    stage.play(0.01)
    assert stage.model.made - made_before <= 1


def test_a_cut_takes_the_screen_at_once_and_no_old_frame_follows(stage: Stage) -> None:
    watcher, session = watched(stage)
    stage.play(2.5)
    session.submit(say("bird", "a blue bird", "cut"), watcher)
    stage.play(1)
    applied = watcher.applied("bird")
    assert applied is not None
    assert applied.ms < 1000 * (2 * CHUNK_SECONDS + 0.1)
    epochs = [frame.epoch for frame in watcher.frames]
    assert epochs == sorted(epochs)
    assert set(epochs) == {0, 1}
    first_new = next(frame for frame in watcher.frames if frame.epoch == 1)
    assert first_new.frame == applied.frame
    stage.settle()
    log = (session.folder / "session.jsonl").read_text()
    assert '"event":"shown"' in log  # the old chunk's rest was dropped, and that is written down


def test_a_cut_to_the_same_words_begins_the_picture_anew(stage: Stage) -> None:
    watcher, session = watched(stage)
    stage.play(1)
    session.submit(say("again", "a red fox runs", "cut"), watcher)
    stage.play(1)
    assert watcher.applied("again") is not None
    assert watcher.frames[-1].epoch == 1
    assert session.hello(watcher).prompt == "a red fox runs"


def test_nothing_is_made_while_no_viewer_draws(stage: Stage) -> None:
    watcher, _ = watched(stage)
    stage.play(2)
    watcher.credit = 0
    stage.play(2)
    made = stage.model.made
    stage.play(4)
    assert stage.model.made == made
    watcher.credit = 3
    stage.play(2)
    assert stage.model.made > made
    assert min(after - before for before, after in pairwise(watcher.times)) > PERIOD - 0.006  # no burst after the pause


def test_what_a_hidden_page_asks_for_is_kept_on_the_disk_and_makes_no_chunk(stage: Stage) -> None:
    watcher, session = watched(stage)
    stage.play(2)
    watcher.credit = 0
    stage.play(3)
    made = stage.model.made
    for number in range(3):
        session.submit(say(f"p{number}", f"a grey wolf {number}"), watcher)
        stage.play(2)
    for _ in range(
        2
    ):  # the disk may have been busy with an earlier prompt: the stage's clock runs, the disk's does not
        stage.settle()
        session._autosave._took = 0.0
        stage.play(2)
    stage.settle()
    assert stage.model.made == made
    assert "a grey wolf 2" in (session.folder / "parked.json").read_text()


def test_a_stall_is_not_played_back_faster(stage: Stage) -> None:
    watcher, session = watched(stage)
    stage.play(2)
    stage.model.chunk_seconds = 2.0
    stage.play(2.5)
    stage.model.chunk_seconds = CHUNK_SECONDS
    stage.play(3)
    gaps = [after - before for before, after in pairwise(watcher.times)]
    assert max(gaps) > 0.5  # there was one
    assert min(gaps) > PERIOD - 0.006
    assert session.pace.underruns >= 1
    assert session.pace.margin > 0.05


def test_pause_holds_the_picture_and_resume_goes_on_with_the_next_frame(stage: Stage) -> None:
    watcher, session = watched(stage)
    stage.play(2)
    session.submit(Do(action="pause"), watcher)
    held = len(watcher.frames)
    stage.play(2)
    assert len(watcher.frames) == held
    made = stage.model.made
    session.submit(Do(action="resume"), watcher)
    stage.play(1)
    assert watcher.frames[held].frame == watcher.frames[held - 1].frame + 1
    assert stage.model.made <= made + 2
    assert watcher.of(Metrics)[-1].state == "playing"


def test_stop_makes_nothing_more_and_a_new_prompt_goes_on(stage: Stage) -> None:
    watcher, session = watched(stage)
    stage.play(1)
    session.submit(Do(action="stop"), watcher)
    stage.play(0.1)
    made = stage.model.made
    stage.play(1)
    assert stage.model.made == made
    session.submit(say("on", "a grey wolf"), watcher)
    stage.play(1)
    assert watcher.applied("on") is not None


def test_reset_keeps_the_prompt_in_force_and_takes_the_new_seed(stage: Stage) -> None:
    watcher, session = watched(stage)
    stage.play(1)
    session.submit(say("wolf", "a grey wolf"), watcher)
    stage.play(1.5)
    session.submit(Do(action="reset", seed=77), watcher)
    stage.play(1)
    hello = session.hello(watcher)
    assert (hello.prompt, hello.seed) == ("a grey wolf", 77)
    assert watcher.frames[-1].frame < FPS  # a new film
    assert watcher.frames[-1].epoch == 1


def test_queued_prompts_follow_after_their_holds_and_can_be_edited(stage: Stage) -> None:
    watcher, session = watched(stage)
    stage.play(0.5)
    session.submit(say("one", "a grey wolf", hold=1.5), watcher)
    session.submit(say("two", "a blue bird", queue=True, hold=1.5), watcher)
    session.submit(QueueEdit(items=[QueueItem(id="three", prompt="a green frog")]), watcher)
    stage.play(5)
    assert watcher.applied("one") is not None
    assert watcher.applied("two") is None  # edited away
    three = watcher.applied("three")
    assert three is not None
    one = watcher.applied("one")
    assert one is not None
    assert 1.5 - 0.75 <= three.t - one.t <= 1.5 + 0.75
    assert session.hello(watcher).queue == []
    assert [span.kind for span in watcher.of(Track)[-1].spans] == ["past", "past", "now"]


def test_rewind_shows_the_same_frames_again_until_something_is_changed(stage: Stage) -> None:
    watcher, session = watched(stage)
    stage.play(5)
    at = watcher.frames[-1].frame
    session.submit(Do(action="rewind", seconds=3), watcher)
    stage.play(1.5)
    again = [frame for frame in watcher.frames if frame.epoch == 1]
    assert 0 <= at - 3 * FPS - again[0].frame <= 12
    before = {frame.frame: frame.payload for frame in watcher.frames if frame.epoch == 0}
    assert len(again) > 12
    assert all(before[frame.frame] == frame.payload for frame in again)
    assert watcher.of(Track)[-1].branch == 1


def test_rewind_reaches_moments_between_sparse_copies_by_going_forward(stage: Stage) -> None:
    watcher, session = watched(stage)
    session.film._history._memory = 20 * session.film._stream.copy().size  # of 80 chunks
    stage.play(5)
    assert len(session.film._history._marks) < stage.model.made - 2
    session.submit(Do(action="rewind", seconds=2), watcher)
    stage.play(2)
    before = {frame.frame: frame.payload for frame in watcher.frames if frame.epoch == 0}
    again = [frame for frame in watcher.frames if frame.epoch == 1 and frame.frame in before]
    assert again
    assert all(before[frame.frame] == frame.payload for frame in again)


def test_save_last_and_a_still_are_files_with_what_was_shown(stage: Stage) -> None:
    watcher, session = watched(stage)
    stage.play(2)
    session.submit(Do(action="save_last", seconds=1), watcher)
    session.submit(Do(action="snapshot"), watcher)
    stage.settle()
    saved = {event.kind: session.folder / event.name for event in watcher.of(Saved)}
    import av

    with av.open(str(saved["last"])) as film:
        assert sum(1 for _ in film.decode(video=0)) == FPS
        assert "rivulet" in film.metadata, "it brings its prompt and seed back"
    with Image.open(saved["snapshot"]) as still, Image.open(io.BytesIO(session.latest_jpeg() or b"")) as shown:
        assert still.size == shown.size == (48, 32)


def test_a_recording_keeps_the_film_going_without_viewers(stage: Stage) -> None:
    watcher, session = watched(stage)
    stage.play(1)
    session.submit(Do(action="record"), watcher)
    session.detach(watcher)
    made = stage.model.made
    stage.play(7)
    assert stage.model.made > made + 5
    session.attach(watcher)
    session.submit(Do(action="record_stop"), watcher)
    stage.settle()
    assert [event.kind for event in watcher.of(Saved)] == ["recording"]


@pytest.mark.parametrize(
    ("error", "code"), [(MemoryError("no more"), "memory"), (RuntimeError("a kernel failed"), "engine")]
)
def test_an_error_ends_the_session_with_a_sentence_and_not_the_engine(
    stage: Stage, error: Exception, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    watcher, session = watched(stage)
    stage.play(1)
    stage.model.broken = error
    stage.play(1)
    assert [problem.code for problem in watcher.of(Problem)] == [code]
    assert [done.reason for done in watcher.of(Done)] == ["error"]
    assert session.over
    stage.model.broken = None
    other, _ = watched(stage)
    stage.play(1)
    assert other.frames


def test_a_weighted_mix_guidance_and_quality_reach_the_stream_and_the_picture(stage: Stage) -> None:
    watcher, session = watched(stage)
    stage.play(1)
    session.submit(Set(guidance_scale=3.0, jpeg_quality=20), watcher)
    session.submit(say("mix", [("a red fox", 0.7), ("a grey wolf", 0.3)]), watcher)
    stage.play(2)
    assert watcher.applied("mix") is not None
    stage.settle()
    lines = [json.loads(line) for line in (session.folder / "session.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["event"] == "controls"][-1]
    assert last["prompt"] == [["a red fox", 0.7], ["a grey wolf", 0.3]]
    assert last["guidance_scale"] == 3.0
    assert len(watcher.frames[-1].payload) < len(watcher.frames[0].payload)


def test_session_start_begins_anew_with_its_prompt_and_stop_ends_it(stage: Stage) -> None:
    watcher, session = watched(stage)
    session.submit(SessionStart(prompt="a blue bird", seed=3), watcher)
    stage.play(1)
    assert session.hello(watcher).prompt == "a blue bird"
    assert session.hello(watcher).seed == 3
    session.submit(Stop(), watcher)
    stage.play(1)
    assert [done.reason for done in watcher.of(Done)] == ["stopped"]
    assert stage.engine.metrics()["sessions"] == 0


def test_a_film_that_drifts_is_refreshed_by_a_re_cache_that_its_log_makes_again(stage: Stage, tmp_path: Path) -> None:
    watcher, session = watched(stage)
    stage.play(2)
    session.submit(Set(refresh_on_drift=0.001), watcher)  # random weights drift at once
    while not any(span.kind == "refresh" for track in watcher.of(Track) for span in track.spans):
        stage.play(0.5)
        assert stage.clock.now < 1060
    refresh = next(span for span in watcher.of(Track)[-1].spans if span.kind == "refresh")
    assert [span.kind for span in watcher.of(Track)[-1].spans] == ["now", "refresh"]
    assert refresh.prompt == "a red fox runs"
    stage.play(2)
    assert {frame.epoch for frame in watcher.frames} == {0}  # nothing was cut off
    gaps = [after - before for before, after in pairwise(watcher.times)]
    assert max(gaps) < 2 * PERIOD
    stage.settle()
    log = session.folder / "session.jsonl"
    steered = [line for line in map(json.loads, log.read_text().splitlines()) if line["event"] == "controls"]
    assert [line["transition"][0] for line in steered] == ["recache"] * len(steered)
    assert len(steered) >= 2
    opener = TinyModel(Clock())
    console = Console(file=io.StringIO())
    assert replay_log(log, tmp_path / "again.mp4", check=True, overwrite=False, console=console, opener=opener) == 0


def test_a_refresh_neither_ends_a_hold_nor_a_blend_and_gives_way_to_a_prompt(stage: Stage) -> None:
    course = stage.open().schedule
    course.say("a grey wolf", Transition("soft", 3), 10.0, Receipt("wolf", 0.0))
    course.line_up([QueueItem(id="next", prompt="a blue bird", hold=60.0)], 0.0)
    assert course.plan(4).controls.transition == Transition("soft", 3)
    due = course.queued_start(0)
    course.refresh(6)
    assert not course.waits
    course.refresh(7)
    turn = course.plan(7)
    assert in_words(turn.controls.prompt) == "a grey wolf"
    assert turn.controls.transition == Transition()
    assert course.queued_start(0) == due
    course.refresh(8)
    course.say("a green frog", Transition(), None, Receipt("frog", 0.0))
    turn = course.plan(8)
    assert (turn.controls.prompt, [receipt.id for receipt in turn.receipts]) == ("a green frog", ["frog"])


def test_the_track_shows_how_far_a_soft_transition_goes(stage: Stage) -> None:
    course = stage.open().schedule
    course.say("a grey wolf", Transition("soft", 3), 10.0, Receipt("wolf", 0.0))
    course.plan(4)
    start = stage.engine._shared.model.rhythm.start_frame
    assert [(span.kind, span.begin, span.end) for span in course.spans()] == [
        ("past", 0, start(4)),
        ("transition", start(4), start(7)),
        ("now", start(7), None),
    ]
    course.say("a blue bird", Transition(), None, Receipt("bird", 0.0))
    course.plan(6)
    assert [(span.kind, span.begin, span.end) for span in course.spans()][1:] == [
        ("transition", start(4), start(6)),  # it did not come to its end
        ("now", start(6), None),
    ]


def test_saying_a_mix_again_and_again_keeps_its_weights_in_bounds() -> None:
    prompt: Any = (("a red fox", 0.7), ("a grey wolf", 0.3))
    for _ in range(2000):
        before, prompt = prompt, respelled(prompt)
        assert prompt != before
    assert 0.1 < sum(weight for _, weight in prompt) < 10


def test_a_machine_that_is_too_slow_says_so_once_and_does_not_fall_behind(stage: Stage) -> None:
    watcher, session = watched(stage)
    stage.play(2)
    stage.model.chunk_seconds = 1.5
    stage.play(30)
    (told,) = [problem for problem in watcher.of(Problem) if problem.code == "slow"]
    assert (told.message, told.action) == (
        "This machine makes 8 of the film's 16 frames a second.",
        "Take fewer steps.",
    )
    assert watcher.of(Metrics)[-1].rate == pytest.approx(0.5, abs=0.05)
    times: list[float] = []
    for number in range(4):
        session.submit(say(f"p{number}", f"a grey wolf {number}"), watcher)
        stage.play(5.1)
        applied = watcher.applied(f"p{number}")
        assert applied is not None
        times.append(applied.ms)
    assert max(times) < 1000 * (2 * 1.5 + 0.15)  # the chunk under way, and its own
    stage.model.chunk_seconds = 0.1
    stage.play(10)
    assert not session.pace.slow
    stage.model.chunk_seconds = 1.5
    stage.play(15)
    assert len([problem for problem in watcher.of(Problem) if problem.code == "slow"]) == 2


def test_hello_tells_the_settings_in_force(stage: Stage) -> None:
    watcher, session = watched(stage)
    session.submit(Set(steps=2, guidance_scale=3.0, refresh_on_drift=1.5), watcher)
    settings = session.hello(watcher).settings
    assert settings is not None
    assert (settings.steps, settings.sink, settings.guidance_scale) == (2, 3, 3.0)
    assert (settings.refresh_on_drift, settings.jpeg_quality) == (1.5, 90)


def test_the_clock_of_these_tests_moves() -> None:
    clock = Clock()
    before = clock()
    clock.sleep(1)
    assert clock() == before + 1
