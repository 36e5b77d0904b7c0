"""Video files written with PyAV for tests: known pictures at known times, in whatever form a film may come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

GRID = 8
"""Pictures carry their number as bits, in a row of squares of this side along the top."""
BITS = 8


def numbered(number: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """A picture that tells its number: grey, white squares for the bits along the top, red top left below, blue right.

    The four corners differ, so that a picture that was turned or mirrored is told from one that was not.
    """
    picture = np.full((height, width, 3), 110, np.uint8)
    for bit in range(BITS):
        picture[:GRID, bit * GRID : (bit + 1) * GRID] = 255 if number >> bit & 1 else 0
    picture[GRID : 2 * GRID, :GRID] = (220, 30, 30)
    picture[-GRID:, :GRID] = (30, 200, 40)
    picture[-GRID:, -GRID:] = (30, 50, 220)
    return picture


def number_of(picture: NDArray[np.uint8]) -> int:
    """The number of a picture in the size in which it was painted."""
    bits = [picture[2 : GRID - 2, bit * GRID + 2 : (bit + 1) * GRID - 2].mean() > 127 for bit in range(BITS)]
    return sum(1 << bit for bit, on in enumerate(bits) if on)


def write_clip(
    path: Path,
    count: int = 12,
    *,
    rate: Fraction | int = 30,
    codec: str = "libx264",
    form: str = "yuv420p",
    ticks: Sequence[int] | None = None,
    tick: Fraction | None = None,
    height: int = 48,
    width: int = 64,
    options: dict[str, str] | None = None,
    paint: Callable[[int], NDArray[np.uint8]] | None = None,
    turn: int | None = None,
    mirrored: tuple[bool, bool] = (False, False),
    sound: Sequence[float] | NDArray[np.float32] | None = None,
    sound_at: float = 0.0,
    colorspace: int | None = None,
    color_range: int | None = None,
    trc: int | None = None,
    aspect: Fraction | None = None,
) -> Path:
    """Write a film of numbered pictures, at `ticks` of `tick` seconds or evenly at `rate`.

    `turn` is by how many degrees clockwise a player has to turn it, `sound` samples of 48 kHz that begin at
    `sound_at` seconds.
    """
    with av.open(str(path), "w") as film:
        stream = film.add_stream(codec, rate=rate, options=options or ({"crf": "6"} if codec == "libx264" else {}))
        stream.width, stream.height, stream.pix_fmt = width, height, form
        stream.codec_context.time_base = tick or 1 / Fraction(rate)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if trc is not None:
            stream.codec_context.color_trc, stream.codec_context.color_primaries = trc, 9
        if colorspace is not None:
            stream.codec_context.colorspace = colorspace
        if turn is not None:
            stream.set_display_rotation(-turn, mirrored[0], mirrored[1])
        voice = None if sound is None else film.add_stream("aac", rate=48_000, layout="mono")
        for index in range(count):
            picture = numbered(index, height, width) if paint is None else paint(index)
            frame = av.VideoFrame.from_ndarray(picture, format="rgba" if picture.shape[2] == 4 else "rgb24")
            frame = frame.reformat(format=form, dst_colorspace=colorspace, dst_color_range=color_range)
            if trc is not None:
                frame.color_trc, frame.color_primaries = trc, 9
            frame.pts = index if ticks is None else ticks[index]
            frame.time_base = tick or 1 / Fraction(rate)
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))
        if voice is not None and sound is not None:
            samples = np.asarray(sound, np.float32)
            for start in range(0, len(samples), 1024):
                part = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], format="fltp", layout="mono")
                part.sample_rate, part.time_base = 48_000, Fraction(1, 48_000)
                part.pts = start + round(sound_at * 48_000)
                film.mux(voice.encode(part))
            film.mux(voice.encode(None))
    return path
