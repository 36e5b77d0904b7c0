"""Nobody stops the live server: what a driver may have under way is bounded, and nothing waits for a disk."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.live import recorder, session
from app.live import recording as recording_module
from app.live.admission import Busy
from app.live.checkpoint import NotKept, read_parked
from app.live.detours import Detours
from app.live.messages import Do, Done, Problem, Saved, SavingState, SessionStart, Set, Stop
from app.live.quota import NoRoom, Quota, size_of
from app.live.recording import WAITING_BYTES, Ended, Recording
from app.live.saves import OF_ALL_FILMS, OF_ONE_FILM, Crowded, Saves
from app.live.session import Session
from app.live.spelling import AT_ONCE, Spelling
from app.live.status import ended_of
from app.live.worker import Worker
from app.loading.live import HostCopy
from app.record.log_writer import TakeWriter
from app.record.session_log import LOG, parse_take, read_take
from tests.live_tiny import CHUNK_SECONDS, FPS, Clock, Stage, TinyModel, Watcher, say


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as stage:
        yield stage


def watched(stage: Stage, name: str | None = None) -> tuple[Watcher, Session]:
    film, watcher = stage.open(name), Watcher(stage.clock)
    film.attach(watcher)
    return watcher, film


def problems(watcher: Watcher, code: str) -> list[Problem]:
    return [problem for problem in watcher.of(Problem) if problem.code == code]


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
    assert not read_parked(film.folder, 3600).running
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
    assert not read_parked(film.folder, 3600).running
    names = sorted(path.name.rpartition("-")[0] for path in film.folder.iterdir() if path.suffix == ".mp4")
    assert names == ["recording-" + time.strftime("%Y%m%d")]  # finished; no save, and no part of one
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


# ------------------------------------------------------------------ the disk


def test_a_disk_that_hangs_delays_no_film_and_films_that_are_left_wait_where_they_are(tmp_path: Path) -> None:
    with Stage(tmp_path, max_sessions=2) as stage:
        quiet, _ = watched(stage)
        other, film = watched(stage)
        stage.play(2)
        disk, stage.disk_hangs = threading.Event(), True
        stage.engine._disk.give(lambda: disk.wait(60))
        film.submit(Do(action="record"), other)
        film.submit(say("wolf", "a grey wolf"), other)
        before = len(quiet.frames)
        stage.play(10)
        film.submit(Do(action="record_stop"), other)
        film.detach(other)
        left = [film]
        for _ in range(3):  # films come and go: two fit where they wait for the disk
            stage.play(6)
            if len(stage.engine._all()) < 2:
                left.append(stage.open())
        assert len(quiet.frames) - before > 0.95 * 28 * FPS
        assert stage.engine._parking == 2
        with pytest.raises(Busy):
            stage.open()
        disk.set()
        stage.disk_hangs = False
        stage.play(7)
        assert all(not read_parked(each.folder, 3600).running for each in left)
        assert stage.engine._parking == 0
        take = read_take(film.folder / LOG)
        assert [chunk.index for chunk in take.chunks] == list(range(len(take.chunks)))


class FullDisk:
    """A disk that takes nothing while it is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        save, write = HostCopy.save, os.write

        def save_or_not(copy: HostCopy, path: Path) -> str:
            if self.full:
                path.with_name(f".{path.name}.tmp").touch()
                raise OSError(errno.ENOSPC, "No space left on device")
            return save(copy, path)

        def write_or_not(handle: int, data: Any) -> int:
            if self.full:
                if len(data) < 20:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return write(handle, data[:10])  # some of it still fits
            return write(handle, data)

        monkeypatch.setattr(HostCopy, "save", save_or_not)
        monkeypatch.setattr("app.record.log_writer.os.write", write_or_not)


def test_a_full_disk_costs_neither_the_film_nor_its_good_copy_and_all_is_saved_when_there_is_room(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = FullDisk(monkeypatch)
    watcher, film = watched(stage)
    stage.play(6)
    good = read_parked(film.folder, 3600)
    disk.full = True
    before = len(watcher.frames)
    for number in range(4):
        film.submit(say(f"p{number}", f"a grey wolf {number}"), watcher)
        stage.play(5)
    assert len(watcher.frames) - before > 0.95 * 20 * FPS
    assert not film.over
    assert read_parked(film.folder, 3600) == good
    assert (film.folder / good.state).exists()
    assert [(state.on, state.message) for state in watcher.of(SavingState)] == [(False, "The disk is full.")]
    late = Watcher(stage.clock)
    film.attach(late)
    assert [state.on for state in late.of(SavingState)] == [False]
    disk.full = False
    stage.play(6)
    assert [state.on for state in watcher.of(SavingState)] == [False, True]
    assert read_parked(film.folder, 3600).chunk > good.chunk + 20
    take = read_take(film.folder / LOG)  # with every line of the time when the disk was full
    assert [chunk.index for chunk in take.chunks] == list(range(film.film.chunk))
    assert {str(chunk.moment.prompt) for chunk in take.chunks} >= {f"a grey wolf {number}" for number in range(4)}


def test_a_film_that_is_left_while_the_disk_is_full_goes_on_from_its_last_copy(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = FullDisk(monkeypatch)
    watcher, film = watched(stage)
    stage.play(6)
    good = read_parked(film.folder, 3600)
    disk.full = True
    stage.play(3)
    film.detach(watcher)
    stage.play(6)
    assert film.over
    disk.full = False
    again, seen = stage.open(film.id), Watcher(stage.clock)
    assert (again.id, again.film.chunk) == (film.id, good.chunk)
    again.attach(seen)
    stage.play(3)
    assert seen.frames
    assert read_take(again.folder / LOG).chunks[-1].index == again.film.chunk - 1


def test_a_film_paused_while_the_disk_is_full_is_saved_when_there_is_room(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = FullDisk(monkeypatch)
    watcher, film = watched(stage)
    stage.play(2)
    disk.full = True
    film.submit(say("wolf", "a grey wolf"), watcher)
    film.submit(Do(action="pause"), watcher)
    stage.play(10)
    disk.full = False
    stage.play(7)
    assert [state.on for state in watcher.of(SavingState)] == [False, True]
    assert "a grey wolf" in (film.folder / "parked.json").read_text()


def test_a_film_that_the_engine_could_not_go_on_with_can_be_taken_up_and_one_that_was_stopped_cannot(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    watcher, film = watched(stage)
    stage.play(6)
    stage.model.broken = RuntimeError("a kernel failed")
    stage.play(1)
    assert [done.reason for done in watcher.of(Done)] == ["error"]
    stage.model.broken = None
    seen, again = watched(stage, film.id)
    stage.play(2)
    assert again.id == film.id
    assert seen.frames
    again.submit(Stop(), seen)
    stage.play(1)
    with pytest.raises(NotKept, match="ended"):
        stage.open(film.id)


def damage_state(folder: Path) -> None:
    (state,) = folder.glob("state-*")
    state.write_bytes(state.read_bytes()[:-1] + b"?")


def other_weights(folder: Path) -> None:
    parked = json.loads((folder / "parked.json").read_text())
    (folder / "parked.json").write_text(json.dumps(parked | {"checksum": "1" * 64}))


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (damage_state, "is damaged"),
        (other_weights, "made with preset embedded, and this server plays another model"),
        (lambda folder: (folder / "parked.json").write_text("{}"), "is damaged, or another version"),
        (lambda folder: next(iter(folder.glob("state-*"))).unlink(), "is damaged"),
        (lambda folder: (folder / "parked.json").unlink(), "no copy of this film"),
    ],
)
def test_a_film_that_cannot_be_taken_up_says_why_and_nothing_of_it_is_lost(
    stage: Stage, harm: Callable[[Path], object], sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    film = stage.open()
    stage.play(6)
    harm(film.folder)
    before = sorted((path.name, path.read_bytes()) for path in film.folder.iterdir())
    with pytest.raises(NotKept, match=sentence):
        stage.open(film.id)
    assert sorted((path.name, path.read_bytes()) for path in film.folder.iterdir()) == before
    assert not stage.engine._all()


# ------------------------------------------------------------------ recordings


@pytest.mark.parametrize("hidden", [False, True], ids=["nobody", "a hidden tab"])
def test_a_recording_that_nobody_watches_ends_and_whoever_comes_back_is_told(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, hidden: bool
) -> None:
    monkeypatch.setattr(session, "UNWATCHED_RECORDING", 9.0)
    watcher, film = watched(stage)
    stage.play(1)
    film.submit(Do(action="record"), watcher)
    stage.play(12)
    assert film.screen.recorder.recording  # somebody watches
    if hidden:
        watcher.credit = 0
    else:
        film.detach(watcher)
    stage.play(8)
    assert film.screen.recorder.recording
    stage.play(8)
    assert not film.screen.recorder.recording
    stage.settle()
    if hidden:
        (told,) = problems(watcher, "recording")
    else:
        assert film.state == "parked"
        seen, _ = watched(stage, film.id)
        (told,) = problems(seen, "recording")
        other, _ = watched(stage, film.id)
        assert not problems(other, "recording")  # once
    assert "Nobody watched for 0.15 minutes." in told.message
    (recorded,) = [
        line for line in map(json.loads, (film.folder / LOG).read_text().splitlines()) if line["event"] == "recorded"
    ]
    assert (recorded["ended"], recorded["name"] in told.message) == ("unwatched", True)
    assert 18 * FPS < recorded["frames"] < 24 * FPS
    import av

    with av.open(str(film.folder / recorded["name"])) as written:
        assert sum(1 for _ in written.decode(video=0)) == recorded["frames"]
    assert read_take(film.folder / LOG).chunks


def test_four_recordings_that_nobody_watches_give_the_server_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "UNWATCHED_RECORDING", 6.0)
    with Stage(tmp_path) as stage:
        for _ in range(4):
            watcher, film = watched(stage)
            film.submit(Do(action="record"), watcher)
            film.detach(watcher)
        stage.play(3)
        with pytest.raises(Busy):
            stage.open()
        stage.play(5)
        assert not stage.engine._all()
        watched(stage)


def a_recording(folder: Path, worker: Worker, told: list[Any], room: Callable[[int], None]) -> Recording:
    from fractions import Fraction

    return Recording(
        folder / "recording.mp4", Fraction(FPS), lambda _: {}, worker, room=room, ended=told.append, done=told.append
    )


def test_a_recording_that_its_disk_cannot_follow_ends_and_holds_a_bounded_memory(tmp_path: Path) -> None:
    told: list[Any] = []
    worker, gate = Worker("test"), threading.Event()
    worker.give(lambda: gate.wait(20))
    recording = a_recording(tmp_path, worker, told, lambda size: None)
    frame = np.zeros((1024, 1024, 3), np.uint8)
    for _ in range(100):
        recording.add(frame)
    fit = WAITING_BYTES // frame.nbytes
    assert told == [Ended("recording.mp4", fit, "slow", "This machine could not write it as fast as the film plays.")]
    assert worker.pending == fit + 2  # what keeps it, the frames, and the end
    gate.set()
    assert worker.idle(60)
    assert told[1] == tmp_path / "recording.mp4"


def test_a_recording_ends_at_its_share_of_the_disk_and_is_a_whole_film(tmp_path: Path) -> None:
    told: list[Any] = []
    asked: list[int] = []

    def room(size: int) -> None:
        asked.append(size)
        if len(asked) == 3:
            raise NoRoom("The files of this film have reached 1 MB.")

    worker = Worker("test")
    recording = a_recording(tmp_path, worker, told, room)
    for _ in range(100):
        recording.add(np.zeros((32, 48, 3), np.uint8))
    assert worker.idle(20)
    assert (told[0].ended, told[0].why) == ("size", "The files of this film have reached 1 MB.")
    assert told[1:] == [tmp_path / "recording.mp4"]
    assert recording.over
    assert [path.name for path in tmp_path.iterdir()] == ["recording.mp4"]


@pytest.mark.parametrize("asked", [False, True])
def test_a_recording_that_never_had_room_leaves_no_file_and_says_so(tmp_path: Path, asked: bool) -> None:
    told: list[Any] = []

    def room(size: int) -> None:
        raise NoRoom("The files of this film have reached 1 MB.")

    worker, gate = Worker("test"), threading.Event()
    worker.give(lambda: gate.wait(20))
    recording = a_recording(tmp_path, worker, told, room)
    for _ in range(20):
        recording.add(np.zeros((32, 48, 3), np.uint8))
    if asked:  # before the first frame is written
        recording.end("asked")
    gate.set()
    assert worker.idle(20)
    recording.end("asked")
    assert worker.idle(20)
    assert list(tmp_path.iterdir()) == []
    if asked:
        assert isinstance(told[1], NoRoom)
        return
    assert told == [Ended("recording.mp4", 0, "size", "The files of this film have reached 1 MB."), None]
    assert ended_of(told[0], 120.0).action == "There is no file of it."


@pytest.mark.parametrize("at", ["begin", "first frame"])
def test_a_recording_without_a_whole_frame_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    growing = recording_module.growing_film

    def broken(path: Path, *rest: Any) -> Any:
        film = growing(path, *rest)

        def write(pixels: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        film.write = write  # type: ignore[method-assign]
        if at == "begin":
            film.abandon()
            write(None)
        return film

    monkeypatch.setattr(recording_module, "growing_film", broken)
    told: list[Any] = []
    worker = Worker("test")
    recording = a_recording(tmp_path, worker, told, lambda size: None)
    for _ in range(3):
        recording.add(np.zeros((32, 48, 3), np.uint8))
    assert worker.idle(20)
    assert told == [Ended("recording.mp4", 0, "disk", "The disk is full."), None]
    assert list(tmp_path.iterdir()) == []


def test_a_recording_whose_settings_cannot_be_read_is_a_film_all_the_same(tmp_path: Path) -> None:
    told: list[Any] = []
    worker = Worker("test")
    recording = a_recording(tmp_path, worker, told, lambda size: None)
    recording._tags = lambda path: {}[path]
    for _ in range(3):
        recording.add(np.zeros((32, 48, 3), np.uint8))
    recording.end("asked")
    assert worker.idle(20)
    assert told == [Ended("recording.mp4", 3, "asked"), tmp_path / "recording.mp4"]
    assert [path.name for path in tmp_path.iterdir()] == ["recording.mp4"]


def test_a_recording_that_is_asked_of_a_film_that_is_over_does_not_begin(stage: Stage) -> None:
    _, film = watched(stage)
    stage.play(1)
    film.end("stopped")
    assert film.screen.recorder.start() is None
    assert not film.screen.recorder.recording
    assert stage.engine._saves.under_way == 0


# ------------------------------------------------------------------ quotas


def a_film(root: Path, number: int, state: int, saved: int) -> Path:
    folder = root / f"{number:016x}"
    folder.mkdir()
    for name, size in (("parked.json", 10), ("state-1.safetensors", state), ("last.mp4", saved)):
        (folder / name).write_bytes(bytes(size))
        os.utime(folder / name, (1000 + number, 1000 + number))
    return folder


def test_films_that_nobody_has_open_give_way_oldest_first_copies_before_what_was_saved(tmp_path: Path) -> None:
    films = [a_film(tmp_path, number, 40_000, 40_000) for number in range(4)]
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "film.mp4").write_bytes(bytes(10**6))
    quota = Quota(tmp_path, 600_000, lambda: {films[0].name})  # the oldest is open
    full = sum(map(size_of, films))
    quota.room(films[0].name, 600_000 - full, copy=True)
    assert all((film / "state-1.safetensors").exists() for film in films)
    quota.room(films[0].name, 600_000 - full + 50_000, copy=True)
    assert [(film / "state-1.safetensors").exists() for film in films] == [True, False, False, True]
    assert all((film / "last.mp4").exists() for film in films)
    quota.room(films[0].name, 600_000 - size_of(films[0]) - 50_000, copy=True)
    assert [film.exists() for film in films] == [True, False, False, True]
    assert quota.used == size_of(films[0]) + size_of(films[3])
    with pytest.raises(NoRoom, match=r"all of the 0\.6 MB"):
        quota.room(films[0].name, 590_000, copy=True)
    with pytest.raises(NoRoom, match="a quarter of --live_disk"):
        quota.room(films[0].name, 100_000)
    assert (films[0] / "state-1.safetensors").exists()
    assert (tmp_path / "jobs" / "film.mp4").exists()


def test_films_opened_and_left_by_the_dozen_keep_within_their_disk_and_the_newest_can_be_taken_up(
    tmp_path: Path,
) -> None:
    with Stage(tmp_path, live_disk=10**6) as stage:
        names: list[str] = []
        for _ in range(10):
            for _ in range(4):
                watcher, film = watched(stage)
                film.detach(watcher)
                names.append(film.id)
            stage.play(5.3)
            assert not stage.engine._all()
            assert sum(size_of(folder) for folder in tmp_path.iterdir()) <= 10**6
        assert stage.engine.metrics()["disk_bytes"] <= 10**6
        assert stage.open(names[-1]).id == names[-1]
        with pytest.raises(NotKept):
            stage.open(names[0])


def test_a_film_without_room_on_its_disk_goes_on_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Stage(tmp_path, live_disk=10_000) as stage:
        watcher, film = watched(stage)
        stage.play(8)
        film.submit(Do(action="save_last", seconds=5), watcher)
        stage.settle()
        (saving,) = watcher.of(SavingState)
        assert "--live_disk" in saving.message
        (refused,) = problems(watcher, "save")
        assert "a quarter of --live_disk" in refused.message
        assert len(watcher.frames) > 0.9 * 7 * FPS


def test_the_last_minutes_of_all_films_keep_to_their_memory(tmp_path: Path) -> None:
    with Stage(tmp_path, live_memory=200_000) as stage:
        for _ in range(3):
            watched(stage)
        stage.play(6)
        kept = stage.engine.metrics()["kept_bytes"]
        assert 0 < kept <= 100_000
        for film in stage.engine._all():
            frames = list(film.screen.recorder._ring)
            assert sum(map(len, frames)) == film.screen.recorder.kept_bytes
            assert frames[-1] == film.latest_jpeg()  # the newest are kept


# ------------------------------------------------------------------ messages


def test_of_detours_that_wait_there_is_one_of_a_kind_and_the_last_counts() -> None:
    detours = Detours()
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
    assert len(film._detours) <= 3
    stage.play(2)
    assert not film._detours
    assert not film.over


class Ticking:
    """A clock that moves when a word is looked up."""

    def __init__(self) -> None:
        self.now = 0.0
        self.words: list[str] = []

    def __call__(self) -> float:
        return self.now

    def look_up(self, word: str) -> dict[str, tuple[str, ...]]:
        self.now += 0.005
        self.words.append(word)
        return {} if word == "red" else {word: ("red",)}


def test_looking_words_up_takes_a_twentieth_of_the_time_at_most() -> None:
    clock = Ticking()
    spelling = Spelling(clock.look_up, clock)
    text = " ".join(f"w{number}" for number in range(160))
    assert spelling.unknown("red rde") == {"rde": ["red"]}
    assert spelling.unknown("rde") == {"rde": ["red"]}  # remembered
    assert spelling.unknown("other") == {}  # there is no time for it
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


# ------------------------------------------------------------------ logs, and the threads that write


def lines_of(path: Path) -> list[str]:
    return [line["event"] for line in map(json.loads, path.read_text().splitlines())]


def test_a_log_that_its_disk_does_not_take_keeps_its_lines_within_bounds_until_a_new_branch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.record.log_writer.HELD", 5000)
    model = TinyModel(Clock())()
    later: list[Callable[[], None]] = []
    take = TakeWriter(tmp_path / LOG, model, later.append)
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
    take = TakeWriter(tmp_path / LOG, TinyModel(Clock())())
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
    assert parse_take(data, "x") == parse_take(without, "x")


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
