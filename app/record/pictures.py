"""Hashes of a finished film's pictures as a decoder shows them, for its record, and to hold against another film."""

# pyright: reportUnknownMemberType=false
# (PyAV's stubs leave the parameter of Packet open, in every call that takes or gives one.)

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from av.error import FFmpegError

from app.media.stills import PngSequence, sink_kind
from app.media.times import Times
from app.record.sidecar import PictureRecord

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]

Feed = Callable[[bytes], object]
"""Takes the coded pictures of a film, piece by piece."""

LOCAL = 16
"""Side of the squares in which two films are compared, so that a small thing that was painted over counts."""
_ANIMATION_CRF = 34
"""Palettes, dither and WebP's quality of 85 lie about as far from the frames as this constant rate factor."""


class Undecodable(ValueError):
    """A film that cannot be read back; the text is a clause for people."""


def picture_record(
    path: Path, shown: Sequence[int], *, decode: bool = True, times: Times | None = None
) -> PictureRecord:
    """Read a finished film back.

    Args:
        path: an MP4, growing or joined; a GIF or WebP; the pattern of a PNG sequence.
        shown: how many of its frames each chunk has; what lies behind them counts as one more.
        decode: hash the decoded frames; otherwise only an MP4's packets, a hundredth of the work.
        times: when its pictures will be shown, of a film that is not joined yet and counts them evenly.

    Returns:
        Hashes of what was read; `frames` counts the packets where nothing is decoded.

    Raises:
        Undecodable: it is damaged, or no film.
        OSError: it cannot be read.
    """
    packets = hashlib.sha256() if sink_kind(path) == "mp4" else None
    layout, frames, chunks = "", 0, list[str]()
    digest, room, rest = hashlib.sha256(), 0, iter(shown)
    for name, picture in _frames(path, None if packets is None else packets.update, decode=decode, times=times):
        layout = layout or name
        frames += 1
        if picture is None:
            continue
        if not room:
            if frames > 1:
                chunks.append(digest.hexdigest())
            digest, room = hashlib.sha256(), next((count for count in rest if count), -1)
        digest.update(picture.data)
        room -= 1
    if decode and frames:
        chunks.append(digest.hexdigest())
    return PictureRecord(
        frames=frames,
        sha256=pictures_hash(chunks, frames) if decode else "",
        chunks=chunks,
        packets="" if packets is None else packets.hexdigest(),
        layout=layout,
        decoder=decoder_version(path),
    )


def pictures_hash(chunks: Sequence[str], frames: int) -> str:
    """sha256 over the hashes of the chunks' decoded frames and how many frames there are."""
    return hashlib.sha256("\n".join([*chunks, str(frames)]).encode()).hexdigest()


def decoder_version(path: Path) -> str:
    """The library that reads this kind of film, and its version."""
    if sink_kind(path) == "mp4":
        return "libavcodec " + ".".join(map(str, av.library_versions["libavcodec"]))
    import PIL

    return f"Pillow {PIL.__version__}"


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What two encoders may make of the same frames: `psnr` of every frame at least, in dB; `local` at most, of 255.

    Where x264's presets differ among themselves, by the rate factor: 47 dB and 3.1 at 18, 41 dB and 7.3 at 28, 27 dB
    and 64 at 51 on a film of the embedded model, 35 dB and 7.3 at 18 with noise on it. The next frame of that film is
    at 12 dB and 147.
    """

    psnr: float
    local: float


def tolerance(path: Path, crf: int) -> Tolerance:
    """Of a film of this name that was encoded with the rate factor `crf`, which only MP4s have."""
    kind = sink_kind(path)
    factor = {"mp4": crf, "png": 0}.get(kind, _ANIMATION_CRF) - 18
    return Tolerance(34 - factor / 3, 10 * 2 ** (factor / 12))


@dataclass(frozen=True, slots=True)
class Distance:
    """How far two films are apart where they are furthest.

    Attributes:
        frames: how many were compared.
        psnr: of the worst frame, in dB; infinite if all are equal.
        local: the largest mean difference in a square of `LOCAL` x `LOCAL` pixels, of 255.
        frame: the first that is too far; None if none is.
        why: a clause, where the films are not alike at all.
    """

    frames: int
    psnr: float
    local: float
    frame: int | None = None
    why: str = ""

    @property
    def near(self) -> bool:
        """Whether they are encodings of the same frames."""
        return self.frame is None and not self.why


def distance(film: Path, other: Path, allowed: Tolerance) -> Distance:
    """Hold two films of the same kind against each other, frame by frame, up to the first that is too far.

    Raises:
        Undecodable, OSError: one of them cannot be read.
    """
    psnr, local, frames = float("inf"), 0.0, 0
    for one, two in zip_longest(_frames(film, None, decode=True), _frames(other, None, decode=True)):
        if one is None or two is None:
            return Distance(frames, psnr, local, frames, "one of them has more frames")
        (layout, left), (layout_2, right) = one, two
        if layout != layout_2 or left is None or right is None or left.shape != right.shape:
            return Distance(frames, psnr, local, frames, f"one is {layout}, the other {layout_2}")
        off = np.abs(left.astype(np.int16) - right)
        square = float(np.mean(np.square(off.astype(np.float32))))
        psnr = min(psnr, float("inf") if not square else 10 * float(np.log10(255**2 / square)))
        local = max(local, _largest_local(off))
        if psnr < allowed.psnr or local > allowed.local:
            return Distance(frames + 1, psnr, local, frames)
        frames += 1
    return Distance(frames, psnr, local)


def _largest_local(off: NDArray[np.int16]) -> float:
    """The largest mean of a square; of the rows of yuv420p the colour planes' are squares of their own."""
    plane = off if off.ndim == 2 else off.mean(axis=2)
    height, width = (side // LOCAL * LOCAL for side in plane.shape)
    if not height or not width:
        return float(plane.mean())
    squares = plane[:height, :width].reshape(height // LOCAL, LOCAL, width // LOCAL, LOCAL)
    return float(squares.mean(axis=(1, 3)).max())


def _frames(
    path: Path, feed: Feed | None, *, decode: bool, times: Times | None = None
) -> Iterator[tuple[str, Picture | None]]:
    """Size and format, and the picture, of every frame; None where nothing is decoded."""
    kind = sink_kind(path)
    try:
        if kind == "mp4":
            yield from _film_frames(path, feed, decode=decode, times=times)
        elif kind == "png":
            yield from _sequence_frames(path)
        else:
            yield from _animation_frames(path, kind)
    except OSError as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise Undecodable(f"it cannot be read ({type(error).__name__})") from error
    except (FFmpegError, ValueError, IndexError, EOFError, SyntaxError, ArithmeticError) as error:
        raise Undecodable(f"it cannot be read ({type(error).__name__})") from error


def _film_frames(
    path: Path, feed: Feed | None, *, decode: bool, times: Times | None
) -> Iterator[tuple[str, Picture | None]]:
    with av.open(str(path.absolute()), "r", format="mp4") as film:
        stream = film.streams.video[0]
        stream.thread_type = "AUTO"
        context = stream.codec_context
        if feed is not None:
            feed(f"{context.name} {context.width}x{context.height}\n".encode() + (context.extradata or b""))
        number = 0
        for packet in film.demux(stream):
            if feed is not None and packet.size:
                feed(_header(packet, stream) if times is None else _planned_header(packet, times, number))
                number += 1
                feed(bytes(packet))
            if not decode:
                if packet.size:
                    yield f"{context.width}x{context.height} {context.pix_fmt}", None
                continue
            for frame in packet.decode():
                yield f"{frame.width}x{frame.height} {frame.format.name}", np.asarray(frame.to_ndarray(), np.uint8)


def _header(packet: Packet[VideoStream], stream: VideoStream) -> bytes:
    """When a packet is shown, exactly and in seconds whatever clock the file counts by, and how long."""
    tick = packet.time_base or stream.time_base or Fraction(1)
    at = "?" if packet.pts is None else packet.pts * tick
    lasts = "?" if packet.duration is None else packet.duration * tick
    return f"\n{at} {lasts} {packet.size}\n".encode()


def _planned_header(packet: Packet[VideoStream], times: Times, number: int) -> bytes:
    """The same of a film that will be shown at these times."""
    at, end = times.second(number), times.second(number + 1)
    return f"\n{at} {end - at} {packet.size}\n".encode()


def _animation_frames(path: Path, kind: str) -> Iterator[tuple[str, Picture]]:
    from PIL import Image, ImageSequence

    try:
        with Image.open(path, formats=[kind.upper()]) as animation:
            for frame in ImageSequence.Iterator(animation):
                yield _rgb(frame)
    except Image.DecompressionBombError as error:
        raise ValueError("its pictures are far too large") from error


def _sequence_frames(path: Path) -> Iterator[tuple[str, Picture]]:
    from PIL import Image

    sequence = PngSequence(path)
    number = 0
    while (file := sequence.file(number)).is_file():
        with Image.open(file, formats=["PNG"]) as picture:
            yield _rgb(picture)
        number += 1


def _rgb(picture: object) -> tuple[str, Picture]:
    from PIL.Image import Image

    assert isinstance(picture, Image)
    pixels = np.asarray(picture.convert("RGB"))
    return f"{picture.width}x{picture.height} rgb24", pixels
