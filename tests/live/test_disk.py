"""A disk that hangs, is full or damaged, and the room that films have on it."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.live.admission import Busy
from app.live.checkpoint import NotKept, read_checkpoint
from app.live.messages import Do, Done, SavingState, Stop
from app.live.quota import NoRoom, Quota, size_of
from app.loading.live import HostCopy
from app.record.session_log import LOG, read_log
from tests.live_tiny import FPS, Stage, Watcher, problems, say, watched


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
        assert all(not read_checkpoint(each.folder, 3600).running for each in left)
        assert stage.engine._parking == 0
        take = read_log(film.folder / LOG)
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
    good = read_checkpoint(film.folder, 3600)
    disk.full = True
    before = len(watcher.frames)
    for number in range(4):
        film.submit(say(f"p{number}", f"a grey wolf {number}"), watcher)
        stage.play(5)
    assert len(watcher.frames) - before > 0.95 * 20 * FPS
    assert not film.over
    assert read_checkpoint(film.folder, 3600) == good
    assert (film.folder / good.state).exists()
    assert [(state.on, state.message) for state in watcher.of(SavingState)] == [(False, "The disk is full.")]
    late = Watcher(stage.clock)
    film.attach(late)
    assert [state.on for state in late.of(SavingState)] == [False]
    disk.full = False
    stage.play(6)
    assert [state.on for state in watcher.of(SavingState)] == [False, True]
    assert read_checkpoint(film.folder, 3600).chunk > good.chunk + 20
    take = read_log(film.folder / LOG)  # with every line of the time when the disk was full
    assert [chunk.index for chunk in take.chunks] == list(range(film.film.chunk))
    assert {str(chunk.controls.prompt) for chunk in take.chunks} >= {f"a grey wolf {number}" for number in range(4)}


def test_a_film_that_is_left_while_the_disk_is_full_goes_on_from_its_last_copy(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = FullDisk(monkeypatch)
    watcher, film = watched(stage)
    stage.play(6)
    good = read_checkpoint(film.folder, 3600)
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
    assert read_log(again.folder / LOG).chunks[-1].index == again.film.chunk - 1


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
            frames = list(film.player.recorder._ring)
            assert sum(map(len, frames)) == film.player.recorder.kept_bytes
            assert frames[-1] == film.latest_jpeg()  # the newest are kept
