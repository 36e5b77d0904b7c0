"""The live engine serves several films fairly, and lets go of those that nobody watches."""

from __future__ import annotations

import io
import shutil
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from app.live import status
from app.live.checkpoint import NotKept, read_checkpoint
from app.live.engine import Busy, LiveEngine
from app.live.history import History
from app.live.messages import Do, Done, QueueEdit, QueueItem, Stop
from app.live.pacing import CALM, SLACK, Pace
from app.live.player import LiveFrame
from app.loading.engine_request import EngineRequest
from app.record.session_log import read_log
from app.render.replay_log import replay_log
from pipelines.presets import PRESETS
from pipelines.types import Reused
from tests.live_tiny import CHUNK_SECONDS, Clock, SlowStream, Stage, TinyModel, Watcher, say, watched


def test_two_films_share_the_engine_and_both_keep_their_rate(stage: Stage) -> None:
    watchers = [Watcher(stage.clock), Watcher(stage.clock)]
    for watcher in watchers:
        stage.open().attach(watcher)
    stage.play(6)
    counts = [len(watcher.frames) for watcher in watchers]
    assert min(counts) > 0.85 * 16 * 5.4
    assert abs(counts[0] - counts[1]) <= 12


def test_the_film_that_is_due_first_is_served_first(stage: Stage) -> None:
    late, early = stage.open(), stage.open()
    for session, deadline in ((late, 5.0), (early, 2.0)):
        session.attach(Watcher(stage.clock))
        session.due = lambda now, at=deadline: now - 10 + at  # type: ignore[method-assign]  # both wait already
    order: list[object] = []
    for session in (late, early):
        session.step = lambda session=session: order.append(session) or 0  # type: ignore[method-assign]
    stage.engine.step()
    assert order == [early]


def test_metrics_tell_what_a_feature_cache_spared_of_the_newest_chunk(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, session = watched(stage)
    stage.play(1)
    assert status.metrics(session, stage.clock.now).reused is None
    made = SlowStream.next_chunk
    monkeypatch.setattr(
        SlowStream, "next_chunk", lambda self, controls: replace(made(self, controls), reused=Reused(3, 12, 1, 2))
    )
    stage.play(1)
    assert status.metrics(session, stage.clock.now).reused == 0.25


def test_no_more_films_than_allowed_at_once(tmp_path: Path) -> None:
    with Stage(tmp_path, max_sessions=1) as stage:
        first = stage.open()
        with pytest.raises(Busy):
            stage.open()
        assert stage.open(first.id) is first
        stage.play(5.5)  # nobody came: it is parked, and its place is free
        assert stage.open().id != first.id


def test_a_film_nobody_watches_is_parked_and_its_memory_freed(stage: Stage) -> None:
    session, watcher = stage.open(), Watcher(stage.clock)
    session.attach(watcher)
    stage.play(2)
    session.detach(watcher)
    made = stage.model.made
    stage.play(4)
    assert session.state == "playing"
    stage.play(1.5)
    assert session.state == "parked"
    assert stage.model.made <= made + 1
    assert stage.engine.metrics()["sessions"] == 0
    assert not hasattr(session.film, "_stream")


def test_another_process_takes_a_parked_film_up_where_it_was(stage: Stage, tmp_path: Path) -> None:
    session, watcher = stage.open(), Watcher(stage.clock)
    session.attach(watcher)
    stage.play(1)
    session.submit(say("wolf", "a grey wolf", hold=60.0), watcher)
    session.submit(QueueEdit(items=[QueueItem(id="next", prompt="a blue bird")]), watcher)
    stage.play(1.5)
    session.detach(watcher)
    stage.play(5.5)
    stage.settle()
    with Stage(tmp_path) as later:
        again, seen = later.open(session.id), Watcher(later.clock)
        hello = again.hello(seen)
        assert (again.id, hello.prompt, hello.seed) == (session.id, "a grey wolf", 5)
        assert [item.id for item in hello.queue] == ["next"]
        again.attach(seen)
        later.play(1)
        assert seen.frames[0].frame > watcher.frames[-1].frame
        assert seen.frames[0].seq > watcher.frames[-1].seq
        later.settle()
        checkpoint = read_checkpoint(again.folder, 3600)
        assert checkpoint.running  # it goes on; were the server killed now, this would be where


def test_a_killed_servers_film_goes_on_from_seconds_before_and_its_log_makes_it_again(
    stage: Stage, tmp_path: Path
) -> None:
    session, watcher = stage.open(), Watcher(stage.clock)
    session.attach(watcher)
    stage.play(7)
    session.submit(say("wolf", "a grey wolf", hold=60.0), watcher)
    session.submit(QueueEdit(items=[QueueItem(id="next", prompt="a blue bird")]), watcher)
    stage.play(6)
    stage.settle()  # what is being written is written; the kill comes now
    dead = tmp_path / "dead"
    shutil.copytree(session.folder, dead / session.id)
    with (dead / session.id / "session.jsonl").open("a") as log:
        log.write('{"event":"chunk","bra')  # the kill came in the middle of a line
    with Stage(dead) as later:
        again, seen = later.open(session.id), Watcher(later.clock)
        assert again.hello(seen).prompt == "a grey wolf"
        assert [item.id for item in again.schedule.queue] == ["next"]
        again.attach(seen)
        later.play(1.5)
        assert 0 < watcher.frames[-1].frame - seen.frames[0].frame <= 6 * 16
        assert seen.frames[0].seq > watcher.frames[-1].seq
        again.submit(say("fox", "a red fox", "keep"), seen)
        later.play(2)
        log = read_log(again.folder / "session.jsonl")
        assert log.chunks[-1].index == again.film.chunk - 1
        film = tmp_path / "again.mp4"
        opener = TinyModel(Clock())
        opener.chunk_seconds = 0
        console = Console(file=io.StringIO())
        code = replay_log(
            again.folder / "session.jsonl", film, check=True, overwrite=False, console=console, opener=opener
        )
        assert code == 0


def test_a_prompt_that_had_not_begun_when_the_server_was_killed_begins_afterwards(stage: Stage, tmp_path: Path) -> None:
    session, watcher = stage.open(), Watcher(stage.clock)
    session.attach(watcher)
    stage.play(3)
    session.submit(say("wolf", "a grey wolf"), watcher)
    while watcher.applied("wolf") is None and not (session.folder / "parked.json").exists():
        stage.play(0.01)
        if session._autosave._writing is not None:
            stage.settle()
    shutil.copytree(session.folder, tmp_path / "dead" / session.id)
    with Stage(tmp_path / "dead") as later:
        again, seen = later.open(session.id), Watcher(later.clock)
        again.attach(seen)
        later.play(1.5)
        assert again.schedule.controls.prompt == "a grey wolf"
        assert seen.applied("wolf") is not None


def test_a_film_that_is_ended_is_not_taken_up_and_copies_of_it_do_not_pile_up(stage: Stage) -> None:
    session, watcher = stage.open(), Watcher(stage.clock)
    session.attach(watcher)
    for _ in range(4):
        stage.play(6)
        stage.settle()
    assert len([*session.folder.glob("*state*")]) == 1
    session.submit(Stop(), watcher)
    stage.play(0.1)
    stage.settle()
    assert [path.name for path in session.folder.iterdir()] == ["session.jsonl"]
    with pytest.raises(NotKept, match="ended"):
        stage.open(session.id)


def test_a_film_that_plays_is_not_swept_away(tmp_path: Path) -> None:
    with Stage(tmp_path, keep_seconds=0.0) as stage:
        session, watcher = stage.open(), Watcher(stage.clock)
        session.attach(watcher)
        stage.play(6)
        session.submit(Do(action="pause"), watcher)
        stage.settle()
        stage.play(130)
        assert (session.folder / "parked.json").exists()


def test_all_films_together_keep_to_the_memory_for_ways_back(tmp_path: Path) -> None:
    with Stage(tmp_path, undo_memory=6 * 2**20) as stage:
        sessions = [stage.open()]
        assert sessions[0].film._history._memory == 6 * 2**20 * 3 // 4, "a quarter is for branches that were left"
        sessions += [stage.open(), stage.open()]
        assert [session.film._history._memory for session in sessions] == [2 * 2**20 * 3 // 4] * 3
        sessions[2].submit(Stop())
        stage.play(0.1)
        assert [session.film._history._memory for session in sessions[:2]] == [3 * 2**20 * 3 // 4] * 2


@dataclass(frozen=True, slots=True)
class _Copy:
    size: int

    def save(self, path: Path) -> str:
        raise NotImplementedError


def test_copies_give_way_when_there_is_less_memory_for_them_and_come_back_with_it() -> None:
    history = History(100, reach=10)
    for chunk in range(10):
        assert history.due(chunk)
        history.add(chunk, _Copy(10))
    history.limit(30)
    assert [mark.chunk for mark in history._marks] == [7, 8, 9]
    history.limit(10)
    history.add(10, _Copy(10))
    assert not history.due(11)  # a single copy is no way back
    history.limit(100)
    assert history.due(12)


def test_a_parked_film_holds_nothing(stage: Stage) -> None:
    session, watcher = stage.open(), Watcher(stage.clock)
    session.attach(watcher)
    stage.play(3)
    assert session.player.recorder.kept_frames > 16
    session.detach(watcher)
    stage.play(5.5)
    assert session.state == "parked"
    assert session.player.recorder.kept_frames == session.player.recorder.kept_bytes == 0
    assert not session.film._history._marks


def test_what_was_kept_too_long_is_not_taken_up(stage: Stage, tmp_path: Path) -> None:
    session = stage.open()
    stage.play(5.5)
    assert session.state == "parked"
    stage.settle()
    with Stage(tmp_path, keep_seconds=0.0) as later, pytest.raises(NotKept, match="are kept for 0"):
        later.open(session.id)


@pytest.mark.parametrize("name", ["../../etc", "", "x" * 500, "0123456789abcdef"])
def test_a_name_that_is_not_ours_opens_nothing_and_says_so(stage: Stage, name: str) -> None:
    with pytest.raises(NotKept, match="not on this server's disk"):
        stage.open(name)
    assert not stage.engine._all()
    assert not [*stage.engine.folder.iterdir()]


def test_the_margin_grows_when_a_chunk_is_late_and_shrinks_when_all_is_calm() -> None:
    pace = Pace(0.8)
    pace.took(0.2, 0.0, 0.0, 0.0)
    assert pace.lead(switching=False) == pytest.approx(0.2 + SLACK)
    pace.took(0.2, 0.0, 0.2, 1.0)
    grown = pace.margin
    assert grown > SLACK
    pace.took(0.2, 0.0, 0.0, 1.0 + CALM - 1)
    assert pace.margin == grown
    pace.took(0.2, 0.0, 0.0, 1.0 + CALM + 1)
    assert SLACK <= pace.margin < grown
    for second in range(20):
        pace.took(0.2, 0.0, 5.0, 100.0 + second)
    assert pace.margin == 0.4
    assert pace.underruns == 21


def test_a_machine_is_slow_when_films_wait_for_it_and_not_when_one_chunk_was_late() -> None:
    pace = Pace(0.8)
    for chunk in range(8):
        pace.took(0.2, 0.0, 1.0 if chunk == 4 else 0.0, 0.8 * chunk)
    assert not pace.slow
    assert pace.rate == pytest.approx(4)
    for chunk in range(8):  # its own chunks are quick, but others' come in between
        pace.took(0.2, 0.0, 0.8, 10 + 1.6 * chunk)
    assert pace.slow
    assert pace.rate == pytest.approx(0.5)
    for chunk in range(8):
        pace.took(0.2, 0.0, 0.0, 30 + 0.8 * chunk)
    assert not pace.slow


def test_a_prompt_is_expected_to_take_as_long_as_the_last_ones_did() -> None:
    pace = Pace(0.8)
    pace.took(0.5, 0.3, 0.0, 0.0)
    pace.took(0.2, 0.0, 0.0, 1.0)
    assert pace.lead(switching=True) - pace.lead(switching=False) == pytest.approx(0.3)


class _Real(Watcher):
    """Sees frames at their real time, and on which threads."""

    def __init__(self) -> None:
        super().__init__(Clock())
        self.threads: set[str] = set()
        self.some = threading.Event()

    def offer(self, frame: LiveFrame) -> None:
        super().offer(frame)
        self.threads.add(threading.current_thread().name)
        self.some.set()


def test_with_real_threads_a_film_plays_and_is_parked_when_the_engine_closes(tmp_path: Path) -> None:
    clock = Clock()
    model = TinyModel(clock)
    model.chunk_seconds = 0.0
    request: Any = SimpleNamespace()
    engine = LiveEngine(request, folder=tmp_path, prompt="a red fox runs", opener=model)
    assert not engine.ready
    engine.start()
    try:
        session = engine.open()
        assert engine.ready
        watcher = _Real()
        session.attach(watcher)
        assert watcher.some.wait(20)
        session.submit(say("wolf", "a grey wolf", "cut"), watcher)
        end = time.monotonic() + 20
        while watcher.applied("wolf") is None:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert engine.open(session.id) is session
        assert watcher.threads == {"rivulet-encode"}
    finally:
        engine.close()
    assert session.state == "parked"
    assert [done.reason for done in watcher.of(Done)] == ["parked"]
    assert not read_checkpoint(session.folder, 3600).running


def test_a_model_that_cannot_be_loaded_is_told_to_whoever_opens(tmp_path: Path) -> None:
    def refuse(request: object) -> Any:
        raise FileNotFoundError("the weights are missing: download them")

    request: Any = SimpleNamespace()
    engine = LiveEngine(request, folder=tmp_path, prompt="a fox", opener=refuse)
    engine.start()
    with pytest.raises(FileNotFoundError, match="weights are missing"):
        engine.open()
    assert not engine.ready
    engine.close()


def test_a_model_that_somebody_can_put_right_is_a_sentence_in_the_log_and_no_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "spoilt" / "transformer").mkdir(parents=True)
    (tmp_path / "spoilt" / "transformer" / "config.json").write_text("{}")
    (tmp_path / "spoilt" / "card.json").write_text("null")
    request = EngineRequest(preset=PRESETS["embedded"], model=str(tmp_path / "spoilt"))
    engine = LiveEngine(request, folder=tmp_path, prompt="a fox")
    engine.load()
    (told,) = [record for record in caplog.records if "could not be loaded" in record.message]
    assert "spoilt" in told.message
    assert told.exc_info is None


def test_chunks_take_time_on_the_clock_of_these_tests(stage: Stage) -> None:
    stage.open().attach(Watcher(stage.clock))
    before = stage.clock.now
    stage.engine.step()
    assert stage.clock.now - before >= CHUNK_SECONDS
