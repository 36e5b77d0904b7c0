"""Films that begin with a picture or with the end of a clip: their stream is handed its first chunks."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from app.atomic import file_hash
from app.config.lengths import Rhythm
from app.errors import UsageMistake, printable, shorten_path
from app.loading.model import EngineRequest, Opened, StreamOpener
from app.media.files import LARGEST_SIDE, FileSource, survey
from app.media.fit import Fit
from app.media.reader import QUEUED, FileFeed, Reader
from app.record.beginning import BeginningRequest
from app.record.request import RenderRequest
from pipelines.types import Chunk, Controls

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def begun_with(request: RenderRequest, opener: StreamOpener) -> StreamOpener:
    """Open streams that begin as a request asks for; as they were, where it asks for nothing.

    Raises:
        UsageMistake: what it is to begin with cannot be read, or is another file than it has to be.
    """
    beginning = request.beginning
    if beginning is None:
        return opener
    if request.video is not None:
        raise UsageMistake(f"{beginning.named}A film of a video begins with that video. Leave out image and extend.")
    check_beginning(beginning)

    def open_stream(request: EngineRequest, seed: int) -> Opened:
        opened = opener(request, seed)
        film = BegunFilm(opened, beginning)
        return replace(opened, stream=film, restore=film.restore)

    return open_stream


class BegunFilm:
    """A stream whose first chunks are given pictures.

    Args:
        opened: a stream that has not begun.
        beginning: what it begins with.
    """

    def __init__(self, opened: Opened, beginning: BeginningRequest) -> None:
        self._opened, self._beginning = opened, beginning
        self._begun = False
        self._ready: deque[Chunk] = deque()

    def next_chunk(self, controls: Controls, *, decode: bool = True) -> Chunk:
        """Make the next chunk."""
        if not self._begun:
            self._begun = True
            self._ready += self._first(controls)
        if self._ready:
            return self._ready.popleft()
        return self._opened.stream.next_chunk(controls, decode=decode)

    def restore(self, path: Path, sha256: str) -> None:
        """Go back to a state, which lies behind the beginning."""
        self._opened.restore(path, sha256)
        self._begun = True
        self._ready.clear()

    def _first(self, controls: Controls) -> list[Chunk]:
        opened = self._opened
        assert opened.begin_with is not None  # every stream of a model with pictures has it
        frames, parts = first_pictures(self._beginning, opened.rhythm, opened.remembers, opened.size, opened.fps)
        return opened.begin_with(frames, controls, parts)


def check_beginning(beginning: BeginningRequest) -> None:
    """Refuse what cannot be read, before a model is loaded.

    Raises:
        UsageMistake: it is another file than it has to be, or no picture or video; with its place in a script.
    """
    path = Path(beginning.input)
    try:
        if file_hash(path) != beginning.sha256:
            raise UsageMistake(
                f"{printable(shorten_path(path))} is not what the film was begun with. Put that back, or start over."
            )
        if beginning.kind == "image":
            image_pixels(path, 8, 8)
        else:
            survey(path)
    except UsageMistake as mistake:
        raise UsageMistake(f"{beginning.named}{mistake}") from mistake


def first_pictures(
    beginning: BeginningRequest, rhythm: Rhythm, remembers: int, size: tuple[int, int], fps: float
) -> tuple[NDArray[np.uint8], list[int]]:
    """The pictures that a film begins with, uint8 RGB [T, H, W, 3], and the latent frames of the chunks they are.

    Args:
        beginning: what it begins with.
        rhythm: of its chunks.
        remembers: latent frames that its memory holds.
        size: height and width, in pixels.
        fps: of the film.
    """
    path = Path(beginning.input)
    if beginning.kind == "image":
        count = rhythm.start_frame(1)
        return image_pixels(path, *size)[None].repeat(count, axis=0), [rhythm.first]
    parts = rhythm.within(remembers)
    return last_pictures(path, rhythm.start_frame(len(parts)), *size, fps), parts


def last_pictures(path: Path, count: int, height: int, width: int, fps: float) -> NDArray[np.uint8]:
    """The last `count` pictures of a clip, `fps` a second; its first one is held where it has fewer.

    Raises:
        UsageMistake: it is no video.
    """
    import numpy as np

    file = survey(path)
    moments = file.sampled(Fraction(fps).limit_denominator(1001))[-count:]
    source = FileSource(file, Fit(height, width), moments)
    with Reader(source, room=QUEUED, newest=False, progress=lambda: source.decoded) as reader:
        frames = FileFeed(reader).take(len(moments))
    return np.concatenate([frames[:1].repeat(count - len(frames), axis=0), frames])


def image_pixels(path: Path, height: int, width: int) -> NDArray[np.uint8]:
    """A picture file as uint8 RGB [height, width, 3], upright, cropped in its middle.

    Raises:
        UsageMistake: it is no picture.
    """
    import numpy as np
    from PIL import Image, ImageOps

    shown = printable(shorten_path(path))
    try:
        with Image.open(path) as file:
            if max(file.size) > LARGEST_SIDE:
                raise UsageMistake(f"{shown} has more than {LARGEST_SIDE} pixels a side. Give a smaller picture.")
            tall, wide = Fit(height, width).scaled(file.size[1], file.size[0])
            file.draft("RGB", (wide, tall))
            picture = ImageOps.exif_transpose(file).convert("RGB")
    except UsageMistake:
        raise
    except Exception as error:  # Pillow raises what its decoders raise
        raise UsageMistake(f"{shown} cannot be read as a picture. Give a PNG, a JPEG or a WebP.") from error
    fit = Fit(height, width)
    tall, wide = fit.scaled(picture.height, picture.width)
    return fit.place(np.array(picture.resize((wide, tall), Image.Resampling.LANCZOS, reducing_gap=3.0)))
