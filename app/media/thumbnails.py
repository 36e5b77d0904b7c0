"""Thumbnails: single pictures of a film, as JPEGs small enough to sit in a page.

A picture is reached from the key frame before it (two seconds at most), so a dozen of them out of an hour cost
what a dozen out of a minute do.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, cast

from app.media.stills import PngSequence, sink_kind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image as Picture

_SIZES = ((320, 82), (256, 78), (192, 72), (128, 65), (96, 50), (64, 40))
"""Longest side and JPEG quality, tried until all pictures fit."""


def jpegs(film: Path, numbers: Iterable[int], *, limit: int) -> dict[int, str]:
    """Return frames of a film (by number, from 0) as data URIs of at most `limit` characters together.

    Numbers behind the film's end are left out. Where many pictures or much detail do not fit they are made smaller.

    Raises:
        ValueError: the film cannot be read.
        OSError: the file cannot be opened.
    """
    frames = frames_at(film, sorted(set(numbers)))
    pictures: dict[int, str] = {}
    for side, quality in _SIZES:
        pictures = {number: _uri(frame, side, quality) for number, frame in frames.items()}
        if sum(map(len, pictures.values())) <= limit:
            return pictures
    while sum(map(len, pictures.values())) > limit:
        pictures = {number: pictures[number] for number in spaced(sorted(pictures), len(pictures) - 1)}
    return pictures


def frames_at(film: Path, numbers: Sequence[int]) -> Mapping[int, Picture]:
    """Return the frames with these ascending numbers, no longer than 320 pixels on a side."""
    kind = sink_kind(film)
    if kind == "png":
        return _of_files(film, numbers)
    return _of_animation(film, numbers) if kind in ("gif", "webp") else _of_video(film, numbers)


def spaced(items: Sequence[int], count: int) -> list[int]:
    """Choose `count` items evenly, each from the middle of its share; all of them if there are no more."""
    if len(items) <= count:
        return list(items)
    return [items[(2 * index + 1) * len(items) // (2 * count)] for index in range(count)]


def _of_video(film: Path, numbers: Sequence[int]) -> dict[int, Picture]:
    import av
    from av.error import InvalidDataError
    from PIL import Image

    found: dict[int, Picture] = {}
    try:
        with av.open(str(film.absolute()), "r") as container:
            stream = container.streams.video[0]
            rate, tick = stream.average_rate, stream.time_base
            if rate is None or tick is None:
                return found
            step = round(1 / (rate * tick))
            for number in numbers:
                container.seek(number * step, stream=stream)
                for frame in container.decode(stream):
                    if frame.pts is not None and frame.pts >= number * step:
                        pixels = cast("NDArray[np.uint8]", frame.to_ndarray(format="rgb24"))
                        found[number] = _small(Image.fromarray(pixels))
                        break
    except (InvalidDataError, IndexError) as error:
        raise ValueError(f"{film} is not a film that can be read. Render it again.") from error
    return found


def _of_animation(film: Path, numbers: Sequence[int]) -> dict[int, Picture]:
    from PIL import Image

    with Image.open(film) as animation:
        count: int = getattr(animation, "n_frames", 1)
        found: dict[int, Picture] = {}
        for number in numbers:
            if number < count:
                animation.seek(number)
                found[number] = _small(animation.convert("RGB"))
        return found


def _of_files(film: Path, numbers: Sequence[int]) -> dict[int, Picture]:
    from PIL import Image

    sequence = PngSequence(film)
    found: dict[int, Picture] = {}
    for number in numbers:
        if sequence.file(number).is_file():
            with Image.open(sequence.file(number)) as picture:
                found[number] = _small(picture.convert("RGB"))
    return found


def _small(picture: Picture) -> Picture:
    side = _SIZES[0][0]
    if max(picture.size) > side:
        picture.thumbnail((side, side))
    return picture


def _uri(picture: Picture, side: int, quality: int) -> str:
    if max(picture.size) > side:
        picture = picture.copy()
        picture.thumbnail((side, side))
    content = BytesIO()
    picture.save(content, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")
