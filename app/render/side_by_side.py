"""Two films in one: the video that a film was made of, and the film, beside each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from app.media.files import FileSource, survey
from app.media.fit import Fit
from app.media.join import join
from app.media.mp4 import FilmWriter
from app.media.reader import QUEUED, FileFeed, Reader
from app.record.request import RenderRequest
from app.record.sidecar import FilmRecord
from app.record.video import VideoRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TOGETHER = 12
"""Frames that are written at a time."""


def write_side_by_side(
    request: RenderRequest, video: VideoRequest, moments: Sequence[int], film: FilmRecord, path: Path
) -> None:
    """Write the second film, with the times and the sound of the first.

    Args:
        request: of the film, settled by its video.
        video: what it was made of.
        moments: which pictures of that it shows, in ticks.
        film: what became of it.
        path: of the second film; replaced in one rename.

    Raises:
        SourceLost, OSError: the video cannot be read again, or the film not be written.
    """
    height, width = film.height * film.scale, film.width * film.scale
    source = FileSource(survey(Path(video.input)), Fit(height, width, video.fit, video.turn), moments[: film.frames])
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    assert request.fps is not None  # settled by the video
    try:
        writer = FilmWriter(
            part, height=height, width=2 * width, fps=request.fps, crf=request.crf, preset=request.encoder_preset
        )
        with Reader(source, room=QUEUED, newest=False, progress=lambda: source.decoded) as reader:
            feed = FileFeed(reader)
            for pixels in _frames(request.output):
                writer.write(np.concatenate([feed.take(len(pixels)), pixels], axis=2))
        writer.close()
        join(
            [part], path, audio=request.audio, audio_begin=request.audio_begin, times=request.times, frames=film.frames
        )
    finally:
        part.unlink(missing_ok=True)


def _frames(film: Path) -> Iterator[NDArray[np.uint8]]:
    """Its frames, uint8 RGB [T, H, W, 3], some at a time."""
    import av

    from app.media.colors import Colors

    colors = Colors()
    with av.open(str(film.absolute()), "r", format="mp4") as container:
        group: list[NDArray[np.uint8]] = []
        for frame in container.decode(video=0):
            group.append(colors.picture(frame, frame.height, frame.width))
            if len(group) == _TOGETHER:
                yield np.stack(group)
                group = []
        if group:
            yield np.stack(group)
