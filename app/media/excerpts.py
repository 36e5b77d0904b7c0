"""Excerpts of a film for people: the poster, a frame of its middle, and some seconds of it as a GIF."""

from __future__ import annotations

from fractions import Fraction
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

from app.errors import UsageMistake
from app.media.stills import AnimatedImage
from app.media.thumbnails import frames_at

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LONGEST_GIF = 10.0
"""Seconds of film in a GIF; an MP4 says the same in a tenth of the bytes."""
GIF_RATE, GIF_SIDE = 12, 320
"""Frames a second at most, and pixels of the longest side."""
_QUALITY = 85


def poster(film: Path, frames: int) -> bytes:
    """The middle one of `frames` frames as a JPEG, no longer than 320 pixels on a side.

    Raises:
        UsageMistake: the film has no such frame.
        ValueError, OSError: it cannot be read.
    """
    number = max(0, frames // 2)
    picture = frames_at(film, [number]).get(number)
    if picture is None:
        raise UsageMistake("This film has no frame there yet. Ask again when there is more of it.")
    content = BytesIO()
    picture.save(content, "JPEG", quality=_QUALITY)
    return content.getvalue()


def gif(film: Path, begin: float, seconds: float) -> bytes:
    """Some seconds of an MP4 as an animation, from second `begin` on.

    Raises:
        UsageMistake: seconds that cannot be, or in which there is no frame.
    """
    if not 0 <= begin < 1e6 or not 0 < seconds <= LONGEST_GIF:
        raise UsageMistake(f"A GIF holds up to {LONGEST_GIF:g} s of a film. Give from and seconds within it.")
    import av
    from av.error import FFmpegError

    with TemporaryDirectory() as folder:
        file = Path(folder) / "film.gif"
        animation: AnimatedImage | None = None
        try:
            with av.open(str(film.absolute()), "r") as container:
                stream = container.streams.video[0]
                rate = stream.average_rate or Fraction(16)
                every = max(1, -(-rate.numerator // (rate.denominator * GIF_RATE)))
                side = max(stream.width, stream.height)
                shrink = min(1.0, GIF_SIDE / side)
                width, height = (max(2, round(length * shrink)) for length in (stream.width, stream.height))
                container.seek(round(begin * av.time_base))
                number = 0
                for frame in container.decode(stream):
                    if frame.pts is None or frame.time < begin - 1e-6:
                        continue
                    if frame.time >= begin + seconds - 1e-6:
                        break
                    if number % every == 0:
                        animation = animation or AnimatedImage(file, fps=Fraction(rate) / every)
                        small = frame.reformat(width=width, height=height, format="rgb24")
                        animation.write(cast("NDArray[np.uint8]", small.to_ndarray())[None])
                    number += 1
        except (FFmpegError, IndexError):
            if animation is not None:
                animation.abandon()
            raise UsageMistake("This film cannot be read. Render it again.") from None
        if animation is None:
            raise UsageMistake(f"There is no frame of this film at {begin:g} s. Give an earlier second.")
        animation.close()
        return file.read_bytes()
