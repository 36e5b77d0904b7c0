"""An audition shows what a queued prompt would become, and leaves the film alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.live.messages import (
    Do,
    Problem,
    QueueEdit,
    QueueItem,
    Saved,
)
from app.live.session import Session
from tests.live_tiny import Stage, Watcher, say, watched


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


def test_four_takes_are_the_beginnings_of_films_under_their_seeds_and_the_film_knows_nothing(stage: Stage) -> None:
    watcher, session = watched(stage)
    stage.play(2)
    underruns = session.pace.underruns
    for _ in range(2):  # asked for again: the first four give way
        session.submit(Do(action="takes"), watcher)
        while session.previews.wait:
            stage.play(0.05)
        assert stage.engine._saves.idle(120)
    takes = [saved for saved in watcher.of(Saved) if saved.kind == "take"]
    assert len({saved.id for saved in takes}) == 8
    assert sorted(path.name for path in session.folder.glob("take-*.mp4")) == [f"take-{n}.mp4" for n in (5, 6, 7, 8)]
    assert session.pace.underruns == underruns
    assert "a red fox runs" in str(session.schedule.controls.prompt)
    import av

    with av.open(str(session.folder / takes[-1].name)) as film:
        seen = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(seen) == 9 + 12
    stream = stage.model._new(int(takes[-1].id), ())
    first = stream.next_chunk(session.schedule.controls.for_stream).pixels
    assert first is not None
    shown = seen[0].reshape(32, 12, 48, 12, 3).mean((1, 3))  # a small film is enlarged for its file
    assert abs(shown - first[0]).mean() < 12, "what starts with this seed begins as the clip does"


def test_takes_are_refused_where_there_is_no_time(stage: Stage) -> None:
    watcher, session = watched(stage)
    stage.model.chunk_seconds = 0.5  # of 0.75
    stage.play(30)
    session.submit(Do(action="takes"), watcher)
    assert "Pause it" in [problem for problem in watcher.of(Problem) if problem.code == "audition"][-1].message
    assert not session.previews.wait
