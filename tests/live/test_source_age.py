"""T35: a source of 30 pictures a second before a model that makes 10, for ten minutes of a clock that is turned."""

from __future__ import annotations

from statistics import fmean

import numpy as np
import pytest
from numpy.typing import NDArray

from app.live import pictures, player
from app.live.messages import Do
from app.live.picture_header import Upload
from app.live.source_messages import SourceSet
from app.media.fit import Fit
from pipelines.types import Controls
from pipelines.video import Shown
from tests.live_tiny import SlowStream, Stage, watched

SOURCE, MODEL, CHUNK = 30, 10, 12
"""Pictures a second, and frames of a chunk."""


def echoed(self: SlowStream, frames: NDArray[np.uint8], controls: Controls, steps: int | None) -> list[Shown]:
    """What enters leaves as it is, after the time that it takes: what is tested here are queues."""
    self.model.clock.sleep(CHUNK / MODEL)
    return [Shown(range(len(frames)), frames, None)]


def painted(upload: Upload, fit: Fit) -> NDArray[np.uint8]:
    return np.full((fit.height, fit.width, 3), upload.seq % 256, np.uint8)


def test_no_frame_grows_older_than_its_chunk_and_what_making_it_takes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SlowStream, "enter", echoed)
    monkeypatch.setattr(pictures, "decoded", painted)
    monkeypatch.setattr(player, "_jpeg", lambda pixels, quality: b"jpeg")
    watcher, film = watched(stage)
    stage.play(1)
    film.film.video.choose(SourceSet(kind="camera", number=1), watcher)
    source = film.film.video._source
    assert source is not None
    monkeypatch.setattr(source.pictures._worker, "give", lambda job: job())
    sent, kept, show, due = 0, 0, stage.clock.during, stage.clock.now

    def meanwhile() -> float:
        nonlocal sent, kept, due
        while due <= stage.clock.now:
            sent += 1
            film.film.video.offer(Upload(1, sent, due, 0, b"x"), watcher)
            kept, due = max(kept, len(source.pictures._kept)), due + 1 / SOURCE
        return min(due, show() or due)

    stage.clock.during = meanwhile
    for minute in range(10):
        stage.play(59)
        if minute == 4:
            film.submit(Do(action="reset", seed=3), watcher)
        stage.play(1)
    assert sent >= 600 * SOURCE
    assert kept <= 2 * CHUNK, "memory is bounded"
    shown = [
        (time, frame.source.seq, time - frame.source.captured)
        for frame, time in zip(watcher.frames, watcher.times, strict=True)
        if frame.source is not None
    ]
    assert len(shown) > 0.85 * 600 * MODEL
    ages = [age for _, _, age in shown[CHUNK:]]  # the first chunk had a single picture to be made of
    assert max(ages) < CHUNK / film.fps + CHUNK / MODEL + 1 / SOURCE, "a chunk, its making, and a picture"
    assert fmean(ages[-500:]) < fmean(ages[100:600]) + 0.01, "no growth"
    numbers = [seq for _, seq, _ in shown]
    assert numbers == sorted(numbers), "nothing comes back"
    epochs = [frame.epoch for frame in watcher.frames]
    assert epochs == sorted(epochs), "after the reset no frame from before it"
    assert len(set(epochs)) == 2
