"""A recording is bounded in time, memory and disk, and a whole film however it ends."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.live import recording as recording_module
from app.live import session
from app.live.admission import Busy
from app.live.messages import Do
from app.live.quota import NoRoom
from app.live.recording import WAITING_BYTES, Ended, Recording
from app.live.status import ended
from app.live.worker import Worker
from app.record.session_log import LOG, read_log
from tests.live_tiny import FPS, Stage, problems, watched


@pytest.mark.parametrize("hidden", [False, True], ids=["nobody", "a hidden tab"])
def test_a_recording_that_nobody_watches_ends_and_whoever_comes_back_is_told(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, hidden: bool
) -> None:
    monkeypatch.setattr(session, "UNWATCHED_RECORDING", 6.0)
    watcher, film = watched(stage)
    stage.play(1)
    film.submit(Do(action="record"), watcher)
    stage.play(7)
    assert film.player.recorder.recording  # somebody watches
    if hidden:
        watcher.credit = 0
    else:
        film.detach(watcher)
    stage.play(5)
    assert film.player.recorder.recording
    stage.play(8)
    assert not film.player.recorder.recording
    stage.settle()
    if hidden:
        (told,) = problems(watcher, "recording")
    else:
        assert film.state == "parked"
        seen, _ = watched(stage, film.id)
        (told,) = problems(seen, "recording")
        other, _ = watched(stage, film.id)
        assert not problems(other, "recording")  # once
    assert "Nobody watched for 0.1 minutes." in told.message
    (recorded,) = [
        line for line in map(json.loads, (film.folder / LOG).read_text().splitlines()) if line["event"] == "recorded"
    ]
    assert (recorded["ended"], recorded["name"] in told.message) == ("unwatched", True)
    assert 11 * FPS < recorded["frames"] < 15 * FPS
    import av

    with av.open(str(film.folder / recorded["name"])) as written:
        assert sum(1 for _ in written.decode(video=0)) == recorded["frames"]
    assert read_log(film.folder / LOG).chunks


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
    assert ended(told[0], 120.0).action == "There is no file of it."


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
    assert film.player.recorder.start() is None
    assert not film.player.recorder.recording
    assert stage.engine._saves.under_way == 0
