"""Every prompt is told what became of it: accepted, applied with its first frame, or overtaken."""

from __future__ import annotations

from itertools import pairwise

import pytest

from app.live.messages import (
    Accepted,
    Applied,
    Do,
    LookUp,
    Overtaken,
    Problem,
    SessionStart,
    Words,
)
from app.record.session_log import read_log
from tests.live_tiny import CHUNK_SECONDS, Stage, Watcher, say, watched


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
    take = read_log(session.folder / "session.jsonl")
    seen = [str(chunk.controls.prompt) for chunk in take.chunks if chunk.shown]
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
    for name, detour in (("a", Do(action="rewind", seconds=2.0)), ("b", SessionStart(prompt="a blue bird"))):
        session.submit(say(name, "a grey wolf"), watcher)
        while session.schedule.controls.prompt != "a grey wolf":
            stage.play(0.05)
        session.submit(detour, watcher)
        stage.play(1)
    assert answers(watcher) == {"a": ["overtaken"], "b": ["overtaken"]}


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
    assert session.hello(watcher).knows["words"] == ["red", "blue"]
    session.submit(say("typo", [("a rde fox", 1.0), ("a wolf", 1.0)]), watcher)
    assert watcher.of(Accepted)[0].unknown == {"rde": ["red"]}
    stage.clock.now += 10
    session.submit(say("again", "a rde fox"), watcher)
    assert watcher.of(Accepted)[1].instead == "a red fox"


def test_the_words_of_a_text_are_told_while_it_is_written_and_change_nothing(stage: Stage) -> None:
    watcher, session = watched(stage)
    before = session.schedule.controls
    session.submit(LookUp(type="session.look_up", id="w1", prompt="a rde fox"), watcher)
    assert [(told.id, told.unknown) for told in watcher.of(Words)] == [("w1", {"rde": ["red"]})]
    assert session.schedule.controls == before
    assert not watcher.of(Accepted)


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


@pytest.mark.parametrize("anew", [SessionStart(prompt="xyzzy"), Do(action="reset")])
def test_a_beginning_the_model_cannot_read_is_refused_and_the_film_begins_with_what_it_can(
    stage: Stage, anew: SessionStart | Do
) -> None:
    watcher, session = watched(stage)
    stage.play(1)
    session.submit(anew, watcher)
    if isinstance(anew, Do):  # and before the first chunk of it is made
        session.submit(say("bad", "xyzzy"), watcher)
    stage.play(2)
    assert [problem.code for problem in watcher.of(Problem)] == ["refused"]
    session.submit(Do(action="reset"), watcher)
    drawn = len(watcher.frames)
    stage.play(2)
    assert len(watcher.frames) > drawn
    assert (session.over, session.schedule.controls.prompt) == (False, "a red fox runs")
