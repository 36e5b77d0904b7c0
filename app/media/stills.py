"""Still pictures of a film: a PNG a frame, or one animated GIF or WebP.

Pillow draws the pictures and we put the animations together, frame by frame, because Pillow's own writers hold a
whole film in memory before the first byte is on the disk. The sinks take frames as `FilmWriter` does.
"""

from __future__ import annotations

import os
import re
import struct
from contextlib import suppress
from difflib import get_close_matches
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from app.errors import UsageMistake, shorten_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

Kind = Literal["mp4", "png", "gif", "webp"]

LONGEST = 960
"""Frames an animation may have, a minute at 16 fps: viewers keep all of it decoded, and 1 MB a second is usual."""
FASTEST_GIF = 50
"""GIF counts hundredths of a second, and viewers slow down frames of less than two."""

_ENDINGS: dict[str, Kind] = {".mp4": "mp4", ".png": "png", ".gif": "gif", ".webp": "webp"}
_NUMBER = re.compile(r"%0?(\d?)d")
_WEBP_QUALITY = 85
_WEBP_SIDE = 16384


def sink_kind(path: Path) -> Kind:
    """Tell what an output's name asks for: film.mp4, film.gif, film.webp, or PNGs in an existing folder or a pattern.

    Raises:
        UsageMistake: none of these; the text says which name would be.
    """
    if path.is_dir():
        return "png"
    ending = path.suffix.lower()
    kind = _ENDINGS.get(ending)
    shown = shorten_path(path)
    if kind is None:
        near = get_close_matches(ending, _ENDINGS, n=1, cutoff=0.5) if ending else []
        stem = path.stem or "out"
        raise UsageMistake(
            f"{shown} does not end in .mp4, .gif, .webp or .png. Give for example {stem}{(near or ['.mp4'])[0]}."
        )
    signs = path.name.count("%")
    if kind == "png" and (signs != 1 or not _NUMBER.search(path.name)):
        stem = path.stem.replace("%", "")
        raise UsageMistake(f"{shown} is one picture and a film is many. Give {stem}_%06d.png, or an existing folder.")
    return kind


def check_stills(path: Path, frames: int, *, fps: Fraction | None = None, size: tuple[int, int] | None = None) -> None:
    """Refuse, before rendering, an animation that its format cannot hold; PNG sequences have no limit.

    Args:
        path: the output.
        frames: how many there will be; an animation holds `LONGEST`.
        fps: how fast they will play, at most `FASTEST_GIF` for a GIF.
        size: height and width after scaling, where they are known already.

    Raises:
        UsageMistake: the film is too long, too fast or too large.
    """
    kind = sink_kind(path)
    if kind in ("mp4", "png"):
        return
    name = {"gif": "GIF", "webp": "WebP"}[kind]
    if frames > LONGEST:
        raise UsageMistake(
            f"{frames} frames are too many for an animated {name}, which holds {LONGEST}. "
            f"Give {path.stem}.mp4, or --num_frames {LONGEST} or less."
        )
    if kind == "gif" and fps is not None and fps > FASTEST_GIF:
        raise UsageMistake(
            f"A GIF plays at most {FASTEST_GIF} frames a second, not {float(fps):g}. Give {path.stem}.webp or .mp4."
        )
    if kind == "webp" and size is not None and max(size) >= _WEBP_SIDE:
        raise UsageMistake(f"A WebP is at most {_WEBP_SIDE - 1} pixels high or wide. Give {path.stem}.mp4.")


class PngSequence:
    """A PNG a frame, lossless, each whole or not there: after a kill every file is a picture.

    Args:
        path: a folder (frame_000000.png ...), or a name with a number in it such as frame_%06d.png.
        scale: whole factor by which frames are enlarged (bicubic); 1 keeps the engine's own pixels bit for bit.
        first: number of the first frame, to go on with a sequence.
    """

    def __init__(self, path: Path, *, scale: int = 1, first: int = 0) -> None:
        self.path = path / "frame_%06d.png" if path.is_dir() else path
        self.frames = first
        self._scale = scale
        self._whole = first

    def file(self, number: int) -> Path:
        """Return the name of one frame."""
        return self.path.with_name(_NUMBER.sub(lambda found: f"{number:0{found[1] or 1}d}", self.path.name))

    def write(self, pixels: NDArray[np.uint8]) -> None:
        """Append frames, uint8 RGB [T, H, W, 3]; all of them are there or none."""
        _check(pixels)
        try:
            for picture in pixels:
                file = self.file(self.frames)
                half = file.with_name(f".{file.name}.tmp")
                try:
                    _picture(picture, self._scale).save(half, "PNG", compress_level=4)
                    half.replace(file)
                finally:
                    half.unlink(missing_ok=True)
                self.frames += 1
        except BaseException:
            self.abandon()
            raise
        self._whole = self.frames

    def close(self) -> None:
        """End the sequence: frames of a longer one that it replaces are removed."""
        number = self.frames
        while (file := self.file(number)).is_file():
            file.unlink()
            number += 1

    def abandon(self) -> None:
        """Go back to the last whole `write`; its pictures stay."""
        for number in range(self._whole, self.frames + 1):
            self.file(number).unlink(missing_ok=True)
        self.frames = self._whole


class AnimatedImage:
    """An animated GIF or WebP that plays for ever, of at most `LONGEST` frames.

    Frames go to the disk as they come, under a hidden name; `close` gives the animation its own. GIF frames have 256
    colours each, dithered, and times in hundredths of a second whose sum keeps to the clock; WebP frames are lossy
    (quality 85), with times in milliseconds.

    Args:
        path: where the animation goes; an existing file is replaced. The ending decides the format.
        fps: frames a second.
        scale: whole factor by which frames are enlarged (bicubic).

    Raises:
        ValueError: the name ends in neither .gif nor .webp.
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, *, fps: Fraction, scale: int = 1) -> None:
        kinds = {".gif": _Gif, ".webp": _WebP}
        kind = kinds.get(path.suffix.lower())
        if kind is None:
            raise ValueError(f"{path} is no animation: choose a name that ends in .gif or .webp")
        self.path = path
        self.frames = 0
        self._scale = scale
        self._fps = fps
        self._half = path.absolute().with_name(f".{path.name}.tmp")
        self._file = self._half.open("wb")
        self._format = kind(self._file)

    def write(self, pixels: NDArray[np.uint8]) -> None:
        """Append frames, uint8 RGB [T, H, W, 3]."""
        _check(pixels)
        if self.frames + len(pixels) > LONGEST:
            raise ValueError(f"an animation holds {LONGEST} frames: choose an MP4 for a longer film")
        for picture in pixels:
            begin, end = (round(number / self._fps * self._format.ticks) for number in (self.frames, self.frames + 1))
            self._format.add(_picture(picture, self._scale), end - begin)
            self.frames += 1
        self._file.flush()

    def close(self) -> None:
        """Finish the file and give it its name; without frames there is none."""
        try:
            if self.frames:
                self._format.end()
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                self._half.replace(self.path)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Drop the file: half an animation cannot be told from a whole one."""
        with suppress(OSError):  # what is still buffered finds no room either
            self._file.close()
        self._half.unlink(missing_ok=True)


class _Gif:
    """GIF89a: a header, frames with a palette each, a byte that ends it."""

    ticks = 100

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._begun = False

    def add(self, picture: Image, ticks: int) -> None:
        from PIL.GifImagePlugin import getdata
        from PIL.Image import Dither, Quantize

        if not self._begun:
            # No global palette (0x70); the Netscape block makes it loop for ever.
            self._file.write(b"GIF89a" + struct.pack("<HHBBB", *picture.size, 0x70, 0, 0))
            self._file.write(b"!\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")
            self._begun = True
        palette = picture.quantize(256, method=Quantize.MEDIANCUT)
        frame = picture.quantize(palette=palette, dither=Dither.FLOYDSTEINBERG)
        for block in getdata(frame, duration=ticks * 10, include_color_table=True):
            self._file.write(block)

    def end(self) -> None:
        self._file.write(b";")


class _WebP:
    """WebP's extended format: RIFF of VP8X (size), ANIM (loop) and an ANMF a frame, which wraps a still picture."""

    ticks = 1000

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._begun = False

    def add(self, picture: Image, ticks: int) -> None:
        size = b"".join((side - 1).to_bytes(3, "little") for side in picture.size)
        if not self._begun:
            self._file.write(b"RIFF\0\0\0\0WEBP")
            self._chunk(b"VP8X", b"\x02\0\0\0" + size)  # 2: animated
            self._chunk(b"ANIM", b"\0\0\0\xff" + b"\0\0")  # opaque black, for ever
            self._begun = True
        still = BytesIO()
        picture.save(still, "WEBP", quality=_WEBP_QUALITY, method=4)
        # Behind the still's own 12 bytes of RIFF; flag 2: replace, do not blend.
        self._chunk(b"ANMF", bytes(6) + size + ticks.to_bytes(3, "little") + b"\x02" + still.getvalue()[12:])

    def end(self) -> None:
        size = self._file.tell()
        self._file.seek(4)
        self._file.write(struct.pack("<I", size - 8))

    def _chunk(self, name: bytes, content: bytes) -> None:
        self._file.write(name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2))


def _check(pixels: NDArray[np.uint8]) -> None:
    if pixels.dtype.name != "uint8" or pixels.ndim != 4 or pixels.shape[3] != 3:
        raise ValueError(f"frames must be uint8 [T, H, W, 3], not {pixels.dtype} {pixels.shape}")


def _picture(pixels: NDArray[np.uint8], scale: int) -> Image:
    from PIL import Image

    picture = Image.fromarray(pixels)
    if scale == 1:
        return picture
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC)
