"""Nobody stops the live server: what a driver may have under way is bounded, and nothing waits for a disk."""

from __future__ import annotations

import errno
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.live import recorder
from app.live.checkpoint import read_checkpoint
from app.live.commands import Commands
from app.live.messages import Do, Saved, SessionStart, Set, Stop
from app.live.saves import OF_ALL_FILMS, OF_ONE_FILM, Crowded, Saves, Stopped
from app.live.spelling import AT_ONCE, Spelling
from app.live.worker import Worker
from app.record.log_writer import LogWriter
from app.record.session_log import LOG, parse_log
from tests.live_tiny import CHUNK_SECONDS, FPS, Clock, Stage, TinyModel, Watcher, problems, watched


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Saves of films wait at their second frame until it is set, or until a test of `stopped` lets them go on."""
    gate, pictures = threading.Event(), recorder._pictures

    def slow(jpegs: Any) -> Iterator[Any]:
        frames = pictures(jpegs)
        yield next(frames)
        assert gate.wait(30)
        yield from frames

    monkeypatch.setattr(recorder, "_pictures", slow)
    yield gate
    gate.set()


# ------------------------------------------------------------------ saves


def test_sixty_saves_and_leaving_delay_no_film_and_most_are_refused_with_a_number(
    stage: Stage, gate: threading.Event
) -> None:
    quiet, _ = watched(stage)
    flooding, film = watched(stage)
    stage.play(2)
    for _ in range(60):
        film.submit(Do(action="save_last", seconds=60), flooding)
    refused = problems(flooding, "save")
    assert len(refused) == 60 - OF_ONE_FILM
    assert refused[0].message == f"{OF_ONE_FILM} files of this film are being made, the most at a time."
    film.detach(flooding)
    before = len(quiet.frames)
    stage.engine._sweep_at = stage.clock.now + 6.5  # what grows in a folder that nobody has open is not swept up
    stage.play(8)  # no save has ended, and the film that was left is parked all the same
    assert film.state == "parked"
    assert not read_checkpoint(film.folder, 3600).running
    assert stage.engine._sweep_at > stage.clock.now + 8
    assert len([*film.folder.glob(".last-*.part.mp4")]) == 1
    assert len(quiet.frames) - before > 0.95 * 8 * FPS
    again, seen = stage.open(film.id), Watcher(stage.clock)
    again.attach(seen)
    again.submit(Do(action="save_last", seconds=1), seen)
    stage.play(1)
    again.submit(Do(action="save_last", seconds=1), seen)  # they are still those of this film
    assert len(problems(seen, "save")) == 1
    gate.set()
    stage.settle()
    assert len([*film.folder.glob("last-*.mp4")]) == OF_ONE_FILM


def test_a_server_takes_so_many_files_of_all_films_and_counts_them_down_again() -> None:
    saves, gate = Saves(1000), threading.Event()
    for number in range(OF_ALL_FILMS):
        saves.add(f"film {number}", lambda: gate.wait(20), held=10)
    with pytest.raises(Crowded, match=f"{OF_ALL_FILMS} files of all films"):
        saves.add("another", lambda: None)
    assert (saves.under_way, saves.held) == (OF_ALL_FILMS, 10 * OF_ALL_FILMS)
    gate.set()
    assert saves.idle(20)
    assert (saves.under_way, saves.held) == (0, 0)
    saves.add("another", lambda: None, held=900)
    gate.clear()
    assert saves.idle(20)
    saves.add("another", lambda: gate.wait(20), held=900)
    with pytest.raises(Crowded, match="their frames hold"):
        saves.add("one more", lambda: None, held=200)
    gate.set()


def test_a_save_rests_as_long_as_it_has_worked_and_not_after_the_end() -> None:
    saves, waited = Saves(1000), list[float | None]()

    class Event(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waited.append(timeout)
            return self.is_set()

    saves.stopped = Event()
    saves.rest(0.004)
    saves.rest(30.0)
    first, second = waited
    assert first == 0.004
    assert second is not None
    assert second < 0.1
    assert saves.close(1.0)
    with pytest.raises(Stopped):
        saves.rest(0.001)


def test_a_save_that_fails_is_told_leaves_nothing_and_its_place_is_free_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher, film = watched(stage)
    stage.play(1)

    def broken(jpegs: Any) -> Iterator[Any]:
        yield np.zeros((32, 48, 3), np.uint8)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(recorder, "_pictures", broken)
    for _ in range(2 * OF_ONE_FILM):
        film.submit(Do(action="save_last", seconds=1), watcher)
        stage.settle()
    assert {problem.message for problem in problems(watcher, "save")} == {"The disk is full."}
    assert len(problems(watcher, "save")) == 2 * OF_ONE_FILM
    assert [path.name for path in film.folder.glob("*last*")] == []


def test_stills_do_not_queue_behind_minutes_of_film(stage: Stage, gate: threading.Event) -> None:
    watcher, film = watched(stage)
    stage.play(1)
    film.submit(Do(action="save_last", seconds=1), watcher)
    film.submit(Do(action="snapshot"), watcher)
    assert stage.engine._saves._pictures.idle(20)
    assert [saved.kind for saved in watcher.of(Saved)] == ["snapshot"]


def test_ending_drops_saves_leaves_no_half_files_and_parks_what_plays(
    stage: Stage, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher, film = watched(stage)
    film.submit(Do(action="record"), watcher)
    stage.play(2)
    for _ in range(3):
        film.submit(Do(action="save_last", seconds=60), watcher)
    stage.engine._closed = True
    stage.engine._park(film)
    closing = threading.Thread(target=lambda: closed.append(stage.engine.close(20)))
    closed: list[bool] = []
    begun = time.monotonic()
    closing.start()
    while not stage.engine._saves.stopped.is_set():
        assert time.monotonic() - begun < 20
        time.sleep(0.01)
    gate.set()  # the one that has begun looks up from its frame
    closing.join(20)
    assert closed == [True]
    assert not read_checkpoint(film.folder, 3600).running
    (name,) = (
        path.name for path in film.folder.iterdir() if path.suffix == ".mp4"
    )  # finished; no save, no part of one
    assert re.fullmatch(rf"recording-{time.strftime('%Y%m%d')}-\d{{6}}-a-red-fox-runs\.mp4", name)
    assert not [path.name for path in film.folder.iterdir() if path.name.startswith(".") or ".part" in path.name]


def test_closing_gives_up_on_a_thread_that_hangs(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    hangs = threading.Event()
    stage.engine._disk.give(lambda: hangs.wait(30))
    begun = time.monotonic()
    assert not stage.engine.close(0.3)
    assert time.monotonic() - begun < 5
    hangs.set()


def test_ending_waits_for_a_recording_that_has_nothing_to_write_at_the_moment() -> None:
    saves, gate = Saves(1000), threading.Event()
    worker = saves.recorder("film")
    assert worker.idle(20)
    other = saves.recorder("other")
    saves.recorded("other", other)
    worker.give(lambda: gate.wait(20))
    assert not saves.close(0.05)
    gate.set()
    assert saves.close(20)
    assert saves.under_way == 1


def test_whoever_waits_for_a_model_to_load_is_let_go_when_the_server_ends(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.engine._loaded.clear()  # as if it were loading still
    told: list[str] = []

    def ask() -> None:
        try:
            stage.engine.open()
        except RuntimeError as error:
            told.append(str(error))

    waiting = threading.Thread(target=ask)
    waiting.start()
    stage.engine.leave_off()
    waiting.join(20)
    assert told == ["The server ends. Try again when it has started anew."]


def test_what_a_kill_left_half_written_is_cleared_and_what_plays_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "0123456789abcdef"
    folder.mkdir()
    for name in (
        ".last-1.mp4.part",
        ".last-1.part.mp4",
        ".last-1.mp4.tmp",
        ".state-3.safetensors.tmp",
        "recording-1.part.mp4",
        "still.png",
    ):
        (folder / name).write_bytes(b"x")
    (tmp_path / ".secret.tmp").write_bytes(b"not a film's")
    with Stage(tmp_path) as stage:
        stage.play(0.1)
        assert sorted(path.name for path in folder.iterdir()) == ["recording-1.part.mp4", "still.png"]
        assert (tmp_path / ".secret.tmp").exists()


# ------------------------------------------------------------------ messages


def test_of_commands_that_wait_there_is_one_of_a_kind_and_the_last_counts() -> None:
    detours = Commands()
    for number in range(300):
        detours.ask(Do(action="rewind", seconds=1.0 + number))
    assert detours.take() == [Do(action="rewind", seconds=300.0)]
    assert not detours
    asked = [
        SessionStart(prompt="a fox", seed=1),
        Do(action="rewind"),
        Do(action="stop"),
        Do(action="reset", seed=7),
        Do(action="reset"),
        Do(action="rewind"),
    ]
    for detour in asked:
        detours.ask(detour)
    assert detours.take() == [asked[0], Do(action="reset", seed=7), asked[-1]]
    for detour in (*asked, Stop()):
        detours.ask(detour)
    assert detours.take() == [Stop()]


@pytest.mark.parametrize(
    "flood",
    [lambda number: Do(action="rewind", seconds=60.0), lambda number: Set(window=6 + number % 6)],
    ids=["rewinds", "windows"],  # resets, starts and cuts are among the jumps of test_turns
)
def test_a_driver_that_floods_does_not_take_the_time_of_other_films(stage: Stage, flood: Callable[[int], Any]) -> None:
    quiet, _ = watched(stage)
    flooding, film = watched(stage)
    stage.play(12)
    before, since, made = len(quiet.frames), stage.clock.now, stage.model.made
    for number in range(200):
        film.submit(flood(number), flooding)
        stage.play(0.05)
    passed = stage.clock.now - since
    assert len(quiet.frames) - before > 0.95 * passed * FPS
    gaps = [after - before for before, after in pairwise(quiet.times) if after > since]
    assert max(gaps) < 2 * CHUNK_SECONDS
    assert stage.model.made - made < 1.2 * 2 * passed / 0.75  # both films as often as a film needs a chunk
    assert len(film._commands) <= 3
    stage.play(2)
    assert not film._commands
    assert not film.over


class Ticking:
    """A clock that moves when a word is looked up."""

    def __init__(self) -> None:
        self.now = 0.0
        self.words: list[str] = []

    def __call__(self) -> float:
        return self.now

    knows: Mapping[str, Sequence[str]] = {}

    def instead(self, prompt: str, unknown: Mapping[str, Sequence[str]]) -> str:
        return prompt.replace("rde", "red")

    def unknown_words(self, word: str) -> dict[str, tuple[str, ...]]:
        self.now += 0.005
        self.words.append(word)
        return {} if word == "red" else {word: ("red",)}


def test_looking_words_up_takes_a_twentieth_of_the_time_at_most() -> None:
    clock = Ticking()
    spelling = Spelling(clock, clock)
    text = " ".join(f"w{number}" for number in range(160))
    assert spelling.unknown("red rde") == {"rde": ["red"]}
    assert spelling.unknown("rde") == {"rde": ["red"]}  # remembered
    assert spelling.unknown("other") == {}  # there is no time for it
    assert spelling.answer("a rde") == ({"rde": ["red"]}, None)  # a word of it was not looked up: half a sentence
    assert clock.words == ["red", "rde"]
    clock.now += 1
    begun = clock.now
    assert 3 <= len(spelling.unknown((("x" * 500, 1.0), (text, 1.0)))) <= 5
    assert clock.now - begun <= AT_ONCE + 0.005
    spent, clock.now = clock.now - begun, begun
    for _ in range(2000):  # a prompt each hundredth of a second
        clock.now += 0.01
        before = clock.now
        spelling.unknown(text + f" {clock.now}")
        spent += clock.now - before
    assert spent < 1.2 * (clock.now - begun) / 20
    clock.now += 10
    assert spelling.answer("a rde red") == ({"a": ["red"], "rde": ["red"]}, "a red red")
    clock.now += 10
    assert spelling.answer("red") == ({}, None)


# ------------------------------------------------------------------ logs, and the threads that write


def lines_of(path: Path) -> list[str]:
    return [line["event"] for line in map(json.loads, path.read_text().splitlines())]


def test_a_log_that_its_disk_does_not_take_keeps_its_lines_within_bounds_until_a_new_branch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.record.log_writer.HELD", 5000)
    model = TinyModel(Clock())()
    later: list[Callable[[], None]] = []
    take = LogWriter(tmp_path / LOG, model, later.append)
    gaps: list[str] = []
    take.gap = gaps.append
    for chunk in range(200):
        take.shown(0, chunk, 1)
    assert len(later) == 1  # asked once, however many lines wait
    assert gaps == ["The disk takes nothing more, so what is shown from now on cannot be rendered again."]
    assert take._held <= 5000
    later.pop()()
    take.shown(0, 201, 1)
    assert not later
    written = len(lines_of(tmp_path / LOG))
    take.branch(1, 0, 150)  # behind the gap: of no use
    take.shown(1, 150, 1)
    take.branch(2, 1, 3)
    take.shown(2, 3, 1)
    later.pop()()
    assert lines_of(tmp_path / LOG)[written:] == ["branch", "shown"]
    assert [*parse_lines(tmp_path / LOG)][-1]["branch"] == 2


def parse_lines(path: Path) -> Iterator[dict[str, Any]]:
    yield from map(json.loads, path.read_text().splitlines())


def test_a_log_does_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.record.log_writer.LARGEST", 20_000)
    take = LogWriter(tmp_path / LOG, TinyModel(Clock())())
    gaps: list[str] = []
    take.gap = gaps.append
    for chunk in range(1000):
        take.shown(0, chunk, 1)
    assert len(gaps) == 1
    assert 19_000 < (tmp_path / LOG).stat().st_size <= 20_000


def test_a_line_of_a_recording_is_part_of_a_log_and_not_of_the_film(stage: Stage) -> None:
    watcher, film = watched(stage)
    film.submit(Do(action="record"), watcher)
    stage.play(2)
    film.submit(Do(action="record_stop"), watcher)
    stage.play(1)
    data = (film.folder / LOG).read_bytes()
    assert b'"event":"recorded"' in data
    without = b"".join(line for line in data.splitlines(keepends=True) if b'"recorded"' not in line)
    assert parse_log(data, "x") == parse_log(without, "x")


def test_a_worker_does_its_jobs_in_order_survives_one_that_fails_and_ends_when_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker, done = Worker("test"), list[int]()
    gate = threading.Event()
    worker.give(lambda: gate.wait(20))
    worker.give(lambda: 1 // 0)
    for number in range(5):
        worker.give(lambda number=number: done.append(number))
    assert worker.pending == 7
    assert not worker.idle(0.01)
    gate.set()
    assert worker.idle(20)
    assert done == [0, 1, 2, 3, 4]
    assert "a job failed" in caplog.text
    gate.clear()
    begun = threading.Event()
    worker.give(lambda: (begun.set(), gate.wait(20)))
    worker.give(lambda: done.append(9))
    assert begun.wait(20)
    assert not worker.close(0.01, drop=True)
    assert not worker.give(lambda: done.append(10))
    gate.set()
    assert worker.idle(20)
    assert done == [0, 1, 2, 3, 4]
