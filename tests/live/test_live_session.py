"""A live film answers its viewers: on time, in order, and only while somebody watches."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from app.live.messages import (
    Accepted,
    Applied,
    Do,
    Done,
    Metrics,
    Overtaken,
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
from app.live.session import Session
from app.record.session_log import read_log
from app.render.replay_log import replay_log
from pipelines.types import Transition, in_words
from tests.live_tiny import CHUNK_SECONDS, FPS, Clock, Stage, TinyModel, Watcher, say

PERIOD = 1 / FPS


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as stage:
        yield stage


def watched(stage: Stage) -> tuple[Watcher, Session]:
    session = stage.open()
    watcher = Watcher(stage.clock)
    session.attach(watcher)
    return watcher, session


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


def test_a_prompt_is_accepted_at_once_and_applied_with_its_first_frame(stage: Stage) -> None:
    watcher, session = watched(stage)
    stage.play(2)
    session.submit(say("wolf", "a grey wolf"), watcher)
    (accepted,) = watcher.of(Accepted)
    stage.play(1.5)
    applied = watcher.applied("wolf")
    assert applied is not None
    assert applied.chunk == accepted.chunk
    assert applied.frame == stage.engine._shared.model.rhythm.start_frame(applied.chunk)
    assert 0 < applied.ms <= 1000 * (0.75 + CHUNK_SECONDS + 0.15)


def answers(watcher: Watcher) -> dict[str, list[str]]:
    """The receipts after `accepted` that every prompt got, in the order in which they came."""
    told: dict[str, list[str]] = {}
    for event in watcher.told:
        if isinstance(event, Applied | Overtaken):
            told.setdefault(event.id, []).append(event.type.rpartition(".")[2])
        elif isinstance(event, Problem) and event.id:
            told.setdefault(event.id, []).append(event.code)
    return told


def test_of_two_prompts_before_one_chunk_the_first_is_overtaken_by_the_second(stage: Stage) -> None:
    watcher, session = watched(stage)
    stage.play(1)
    session.submit(say("a", "a grey wolf"), watcher)
    session.submit(say("b", "a blue bird"), watcher)
    assert [(event.id, event.by) for event in watcher.of(Overtaken)] == [("a", "b")]
    stage.play(1.5)
    assert answers(watcher) == {"a": ["overtaken"], "b": ["applied"]}
    assert session.schedule.controls.prompt == "a blue bird"


def test_prompts_that_flood_in_are_applied_as_often_as_the_log_has_them(stage: Stage) -> None:
    watcher, session = watched(stage)
    stage.play(1)
    kinds = ("recache", "cut", "keep")
    for number in range(120):
        session.submit(say(f"p{number}", f"a grey wolf {number}", kinds[number % 3]), watcher)
        stage.play(0.02 * (number % 4))
    stage.play(2)
    told = answers(watcher)
    assert set(told) == {f"p{number}" for number in range(120)}
    assert {len(answer) for answer in told.values()} == {1}
    stage.settle()
    log = read_log(session.folder / "session.jsonl")
    seen = [str(chunk.controls.prompt) for chunk in log.chunks if chunk.shown]
    switches = [after for before, after in pairwise(seen) if after != before]
    applied = watcher.of(Applied)
    assert [f"a grey wolf {event.id[1:]}" for event in applied] == switches
    assert 3 < len(applied) < 60


def test_a_prompt_whose_frames_went_by_unseen_is_overtaken_and_not_applied(stage: Stage) -> None:
    watcher, session = watched(stage)
    session.attach(Watcher(stage.clock, driver=False))
    stage.play(1)
    watcher.credit = 0
    session.submit(say("a", "a grey wolf"), watcher)
    stage.play(1.5)
    session.submit(say("b", "a blue bird"), watcher)
    stage.play(1.5)
    watcher.credit = 3
    stage.play(0.5)
    assert answers(watcher) == {"a": ["overtaken"], "b": ["applied"]}


@pytest.mark.parametrize("action", ["reset", "stop"])
def test_a_prompt_that_is_still_in_force_after_a_reset_or_a_stop_is_applied_when_it_is_seen(
    stage: Stage, action: str
) -> None:
    watcher, session = watched(stage)
    session.attach(Watcher(stage.clock, driver=False))
    stage.play(1)
    watcher.credit = 0
    session.submit(say("a", "a grey wolf"), watcher)
    while session.schedule.controls.prompt != "a grey wolf":
        stage.play(0.05)
    session.submit(Do(action=action), watcher)
    stage.play(1)
    assert answers(watcher) == {}
    watcher.credit = 3
    session.submit(Do(action="resume"), watcher)
    stage.play(2)
    assert answers(watcher) == {"a": ["applied"]}


def test_a_prompt_that_a_rewind_or_a_new_film_leaves_behind_is_overtaken(stage: Stage) -> None:
    watcher, session = watched(stage)
    session.attach(Watcher(stage.clock, driver=False))
    stage.play(3)
    watcher.credit = 0
    for name, command in (("a", Do(action="rewind", seconds=2.0)), ("b", SessionStart(prompt="a blue bird"))):
        session.submit(say(name, "a grey wolf"), watcher)
        while session.schedule.controls.prompt != "a grey wolf":
            stage.play(0.05)
        session.submit(command, watcher)
        stage.play(1)
    assert answers(watcher) == {"a": ["overtaken"], "b": ["overtaken"]}


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


def test_a_prompt_the_model_cannot_read_is_refused_and_the_film_goes_on(stage: Stage) -> None:
    watcher, session = watched(stage)
    stage.play(1)
    session.submit(say("bad", "xyzzy"), watcher)
    stage.play(1.5)
    (problem,) = watcher.of(Problem)
    assert problem.code == "refused"
    assert answers(watcher) == {"bad": ["refused"]}
    drawn = len(watcher.frames)
    stage.play(1)
    assert len(watcher.frames) > drawn
    assert session.schedule.controls.prompt == "a red fox runs"


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


def test_a_receipt_waits_until_the_driver_can_be_sent_the_frame(stage: Stage) -> None:
    watcher, session = watched(stage)
    other = Watcher(stage.clock, driver=False)
    session.attach(other)
    stage.play(1)
    watcher.credit = 0
    session.submit(say("wolf", "a grey wolf"), watcher)
    stage.play(1.5)
    assert watcher.applied("wolf") is None
    watcher.credit = 3
    stage.play(0.2)
    assert watcher.applied("wolf") is not None
    assert not other.of(Accepted)


def waiting(stage: Stage, watcher: Watcher, session: Session, prompt: str = "a blue bird") -> None:
    session.submit(QueueEdit(items=[QueueItem(id="next", prompt=prompt, hold=60.0)]), watcher)
    session.submit(say("first", "a red fox", "keep", hold=60.0), watcher)
    stage.play(2)


def auditioned(stage: Stage, watcher: Watcher) -> list[Saved]:
    stage.settle()
    return [event for event in watcher.of(Saved) if event.kind == "audition"]


@pytest.mark.parametrize("paused", [False, True])
def test_an_audition_shows_the_chunk_that_the_queued_prompt_would_begin_with_and_leaves_the_film_alone(
    stage: Stage, tmp_path: Path, paused: bool
) -> None:
    watcher, session = watched(stage)
    waiting(stage, watcher, session)
    if paused:
        session.submit(Do(action="pause"), watcher)
    asked, underruns = stage.clock.now, session.pace.underruns
    session.submit(Do(action="audition", id="next"), watcher)
    while session.previews.wait:
        stage.play(0.05)
    assert stage.clock.now - asked < 2
    stage.settle()
    log = (session.folder / "session.jsonl").read_text()
    assert "a blue bird" not in log
    session.submit(Do(action="resume"), watcher)
    stage.play(2)
    assert session.pace.underruns == underruns
    (saved,) = auditioned(stage, watcher)
    assert saved.id == "next"
    import av

    with av.open(str(session.folder / saved.name)) as film:
        assert sum(1 for _ in film.decode(video=0)) == 12
    session.submit(Do(action="audition"), watcher)  # the first of the queue; the file before it gives way
    stage.play(2)
    assert len(auditioned(stage, watcher)) == 2
    assert len([*session.folder.glob("audition-*.mp4")]) == 1
    with Stage(tmp_path / "plain") as plain:
        other, undisturbed = watched(plain)
        waiting(plain, other, undisturbed)
        plain.play(4)
        shown = {frame.frame: frame.payload for frame in other.frames}
        assert len(shown) > 60
        assert all(shown.get(frame.frame, frame.payload) == frame.payload for frame in watcher.frames)


def test_the_chunk_of_an_audition_is_the_one_that_is_made_when_the_prompt_comes(stage: Stage) -> None:
    watcher, session = watched(stage)
    waiting(stage, watcher, session)
    session.submit(Do(action="pause"), watcher)
    seen = session.film.preview("a blue bird")
    session.submit(say("now", "a blue bird"), watcher)
    session.submit(Do(action="resume"), watcher)
    while watcher.applied("now") is None:
        stage.play(0.05)
    stage.settle()
    log = [json.loads(line) for line in (session.folder / "session.jsonl").read_text().splitlines()]
    applied = watcher.applied("now")
    assert applied is not None
    made = next(line for line in log if line["event"] == "chunk" and line["chunk"] == applied.chunk)
    assert (made["sha256"], seen.index) == (seen.sha256, applied.chunk)


def test_an_audition_is_refused_where_there_is_no_time_or_nothing_to_show(stage: Stage) -> None:
    watcher, session = watched(stage)
    stage.play(1)
    session.submit(Do(action="audition"), watcher)
    waiting(stage, watcher, session, "xyzzy")
    session.submit(Do(action="audition", id="other"), watcher)
    session.submit(Do(action="audition"), watcher)
    stage.play(2)
    stage.model.chunk_seconds = 0.5  # of 0.75
    stage.play(30)
    session.submit(Do(action="audition"), watcher)
    told = [problem for problem in watcher.of(Problem) if problem.code == "audition"]
    assert ["queue" in problem.message for problem in told] == [True, True, False, False]
    assert "xyzzy" in told[2].message
    assert "Pause it" in told[3].message
    assert not auditioned(stage, watcher)


def test_an_item_that_is_edited_before_its_audition_is_not_auditioned(stage: Stage) -> None:
    watcher, session = watched(stage)
    waiting(stage, watcher, session)
    session.submit(Do(action="audition"), watcher)
    session.submit(QueueEdit(items=[QueueItem(id="next", prompt="a green frog", hold=60.0)]), watcher)
    stage.play(2)
    assert not session.previews.wait
    assert not auditioned(stage, watcher)


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
    schedule = stage.open().schedule
    schedule.say("a grey wolf", Transition("soft", 3), 10.0, Receipt("wolf", 0.0))
    schedule.line_up([QueueItem(id="next", prompt="a blue bird", hold=60.0)], 0.0)
    assert schedule.plan(4).controls.transition == Transition("soft", 3)
    due = schedule.queued_start(0)
    schedule.refresh(6)
    assert not schedule.waits
    schedule.refresh(7)
    plan = schedule.plan(7)
    assert in_words(plan.controls.prompt) == "a grey wolf"
    assert plan.controls.transition == Transition()
    assert schedule.queued_start(0) == due
    schedule.refresh(8)
    schedule.say("a green frog", Transition(), None, Receipt("frog", 0.0))
    plan = schedule.plan(8)
    assert (plan.controls.prompt, [receipt.id for receipt in plan.receipts]) == ("a green frog", ["frog"])


def test_the_track_shows_how_far_a_soft_transition_goes(stage: Stage) -> None:
    schedule = stage.open().schedule
    schedule.say("a grey wolf", Transition("soft", 3), 10.0, Receipt("wolf", 0.0))
    schedule.plan(4)
    start = stage.engine._shared.model.rhythm.start_frame
    assert [(span.kind, span.begin, span.end) for span in schedule.spans()] == [
        ("past", 0, start(4)),
        ("transition", start(4), start(7)),
        ("now", start(7), None),
    ]
    schedule.say("a blue bird", Transition(), None, Receipt("bird", 0.0))
    schedule.plan(6)
    assert [(span.kind, span.begin, span.end) for span in schedule.spans()][1:] == [
        ("transition", start(4), start(6)),  # it did not come to its end
        ("now", start(6), None),
    ]


def test_saying_a_mix_again_and_again_keeps_its_weights_in_bounds() -> None:
    prompt: Any = (("a red fox", 0.7), ("a grey wolf", 0.3))
    for _ in range(2000):
        before, prompt = prompt, respelled(prompt)
        assert prompt != before
    assert 0.1 < sum(weight for _, weight in prompt) < 10


def test_a_receipt_says_where_its_time_went(stage: Stage) -> None:
    watcher, session = watched(stage)
    stage.play(2)
    session.submit(say("wolf", "a grey wolf"), watcher)
    stage.play(1.5)
    applied = watcher.applied("wolf")
    assert applied is not None
    assert [*applied.parts] == ["wait", "recache", "denoise", "remember", "decode", "rest", "pacing", "encode"]
    assert sum(applied.parts.values()) == pytest.approx(applied.ms, abs=1)
    assert applied.parts["wait"] >= 0
    assert applied.parts["pacing"] >= 0


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


def test_with_a_fast_model_a_prompt_is_seen_within_a_chunk_and_150_ms(stage: Stage) -> None:
    stage.model.chunk_seconds = 0.12
    watcher, session = watched(stage)
    stage.play(2)
    seen: list[Applied] = []
    for number in range(12):
        stage.play(1.5 + 0.067 * number)
        session.submit(say(f"p{number}", f"a grey wolf {number}"), watcher)
        stage.play(1.5)
        applied = watcher.applied(f"p{number}")
        assert applied is not None
        seen.append(applied)
    assert max(applied.ms for applied in seen) < 1000 * (0.75 + 0.15)
    assert max(applied.parts["pacing"] for applied in seen) < 100  # it is finished when it is needed, not before
    assert session.pace.underruns == 0


def test_words_that_the_model_does_not_know_come_with_the_receipt(stage: Stage) -> None:
    watcher, session = watched(stage)
    session.submit(say("typo", [("a rde fox", 1.0), ("a wolf", 1.0)]), watcher)
    assert watcher.of(Accepted)[0].unknown == {"rde": ["red"]}


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
