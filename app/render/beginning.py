"""Films that begin with a picture or with the end of a clip: their stream is handed its first chunks."""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from app.atomic import file_hash
from app.config.lengths import Rhythm
from app.errors import UsageMistake, printable, shorten_path
from app.loading.engine_request import EngineRequest
from app.loading.model import Beginnings, FilmStream, Opened, StreamOpener
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
        raise UsageMistake(f"{beginning.named}A film of a video begins with that video. Leave out {beginning.kind}.")
    check_beginning(beginning)

    def open_stream(request: EngineRequest, seed: int) -> Opened:
        opened = opener(request, seed)
        assert opened.begins is not None  # every stream of a model with pictures has it
        film = begun_film(beginning, opened.stream, opened.rhythm, opened.begins)

        def restore(path: Path, sha256: str) -> None:
            opened.restore(path, sha256)
            film.go_on()

        return replace(opened, stream=film, restore=restore)

    return open_stream


def begun_film(beginning: BeginningRequest, stream: FilmStream, rhythm: Rhythm, begins: Beginnings) -> BegunFilm:
    """A film of a stream that has not begun, with its beginning.

    Raises:
        UsageMistake: the stream cannot begin so.
    """
    if beginning.kind != "reference":
        return BegunFilm(beginning, stream, rhythm, begins)
    if begins.no_reference:
        raise UsageMistake(f"{beginning.named}{begins.no_reference}")
    if rhythm.start_frame(1) > rhythm.start_frame(2) - rhythm.start_frame(1):
        raise UsageMistake(f"{beginning.named}This preset's first chunk is the longest. Choose another preset.")
    return ReferringFilm(beginning, stream, rhythm, begins)


class BegunFilm:
    """A film whose first chunks are given pictures.

    Args:
        beginning: what it begins with.
        stream: that has not begun.
        rhythm: of its chunks.
        begins: how the stream takes pictures.
    """

    def __init__(self, beginning: BeginningRequest, stream: FilmStream, rhythm: Rhythm, begins: Beginnings) -> None:
        self._beginning, self._stream, self._rhythm, self._begins = beginning, stream, rhythm, begins
        self._begun = False
        self._ready: deque[Chunk] = deque()

    def next_chunk(self, controls: Controls, *, decode: bool = True) -> Chunk:
        """Make the next chunk."""
        if not self._begun:
            self._begun = True
            self._begin(controls)
        if self._ready:
            return self._ready.popleft()
        return self._stream.next_chunk(controls, decode=decode)

    def go_on(self) -> None:
        """The stream went back to a state, which lies behind the beginning."""
        self._begun = True
        self._ready.clear()

    def _begin(self, controls: Controls) -> None:
        begins = self._begins
        frames, parts = first_pictures(self._beginning, self._rhythm, begins.remembers, begins.size, begins.fps)
        self._ready += begins.begin_with(frames, controls, parts)


class ReferringFilm(BegunFilm):
    """A film that refers to a picture which it does not show: what lies before its first chunk is not counted.

    In the stream every chunk of it has four pictures a latent frame, but a film's first latent frame shows one: of the
    first chunk the pictures before that are left out.
    """

    def next_chunk(self, controls: Controls, *, decode: bool = True) -> Chunk:
        """Make the next chunk."""
        chunk, rhythm = super().next_chunk(controls, decode=decode), self._rhythm
        shown = range(rhythm.start_frame(chunk.index), rhythm.start_frame(chunk.index + 1))
        counted = replace(chunk, latent=range(rhythm.start(chunk.index), rhythm.start(chunk.index + 1)), pixel=shown)
        if chunk.pixels is None or len(chunk.pixels) == len(shown):
            return counted
        pixels = chunk.pixels[-len(shown) :]
        return replace(counted, pixels=pixels, sha256=hashlib.sha256(pixels.tobytes()).hexdigest())

    def _begin(self, controls: Controls) -> None:
        self._begins.refer_to(image_pixels(Path(self._beginning.input), *self._begins.size), controls)


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
        if beginning.kind == "extend":
            survey(path)
        else:
            image_pixels(path, 8, 8)
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
