"""Branches of a live film: what a rewind, a reset or another film leaves can be gone back to, and its log knows."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from app.live.branches import MOST
from app.live.messages import Action, Do, SessionStart, Track
from app.record.session_log import read_log
from app.render.replay_log import replay_log
from tests.live_tiny import FPS, Clock, Stage, TinyModel, Watcher, problems, say, watched


def left(watcher: Watcher) -> list[tuple[int, str]]:
    return [(each.branch, each.prompt) for each in watcher.of(Track)[-1].branches]


@pytest.mark.parametrize(("action", "sparse"), [("rewind", True), ("reset", False), ("start", False)])
def test_what_was_left_goes_on_as_if_nothing_had_happened(
    stage: Stage, action: Action, sparse: bool, tmp_path: Path
) -> None:
    watcher, session = watched(stage, sparse=sparse)
    stage.play(3)
    session.submit(say("a", "a grey wolf"), watcher)
    stage.play(2)
    before = {frame.frame: frame.payload for frame in watcher.frames}
    at = watcher.frames[-1].frame
    jump = SessionStart(prompt="a blue bird", seed=3) if action == "start" else Do(action=action, seconds=4)
    session.submit(jump, watcher)
    stage.play(2)
    assert left(watcher) == [(0, "a grey wolf")]
    assert watcher.of(Track)[-1].branches[0].t == pytest.approx(at / FPS, abs=0.3)
    shown = len(watcher.frames)
    session.submit(Do(action="return", branch=0), watcher)
    stage.play(2)
    back = watcher.frames[shown:]
    back = back[next(i for i, frame in enumerate(back) if frame.epoch == 2) :]
    assert 0 <= at - back[0].frame <= 24
    assert sum(frame.frame in before for frame in back) > 0
    assert all(before[frame.frame] == frame.payload for frame in back if frame.frame in before)
    assert session.schedule.controls.prompt == "a grey wolf"
    assert [branch for branch, _ in left(watcher)] == [1], "the one that was left now is the way back to it"
    session.end("enough")
    log = read_log(session.folder / "session.jsonl")
    assert {str(chunk.controls.prompt) for chunk in log.chunks} == {"a red fox runs", "a grey wolf"}
    if action != "rewind":
        return
    said = StringIO()
    console = Console(file=said, width=200)
    code = replay_log(
        session.folder / "session.jsonl",
        tmp_path / "again.mp4",
        check=True,
        overwrite=True,
        console=console,
        opener=TinyModel(Clock()),
    )
    assert (code, "bit for bit the same" in said.getvalue()) == (0, True)


def test_the_prompt_on_screen_comes_back_when_it_had_just_begun(stage: Stage) -> None:
    watcher, session = watched(stage)
    stage.play(3)
    session.submit(say("a", "a grey wolf", "cut"), watcher)
    while (applied := watcher.applied("a")) is None:
        stage.play(0.05)
    assert watcher.frames[-1].frame < applied.frame + 3
    session.submit(Do(action="rewind", seconds=2), watcher)
    stage.play(1.5)
    assert session.schedule.controls.prompt == "a red fox runs"
    session.submit(Do(action="return", branch=0), watcher)
    stage.play(1.5)
    assert session.schedule.controls.prompt == "a grey wolf"
    assert [span.prompt for span in watcher.of(Track)[-1].spans] == ["a red fox runs", "a grey wolf"]


def test_the_newest_branches_are_kept_as_memory_allows_and_a_gone_one_is_told(stage: Stage) -> None:
    watcher, session = watched(stage)
    stage.play(2)
    for _ in range(MOST + 2):
        session.submit(Do(action="rewind", seconds=0.5), watcher)
        stage.play(1.2)
    assert [branch for branch, _ in left(watcher)] == list(range(MOST + 1, 1, -1))
    size = session.film._stream.copy().size
    session.limit_memory(4 * 3 * size, 2**30)
    assert [each.branch for each in session.film.branches.told(FPS)] == [MOST + 1, MOST, MOST - 1]
    session.submit(Do(action="return", branch=2), watcher)
    stage.play(1)
    assert problems(watcher, "undo")
    assert session.film.branch == MOST + 2
