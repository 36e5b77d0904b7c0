"""Video files read with PyAV: what one holds, and its pictures at given moments, upright, in the model's size.

A file is surveyed first, packet by packet and nearly without decoding: when its pictures are shown decides how long the
film will be. Then it is decoded once, in order; where a picture cannot be decoded, the one before stands for it.
"""

# pyright: reportUnknownMemberType=false
# (PyAV's stubs leave the parameter of Packet open, in every call that takes or gives one.)

from __future__ import annotations

import stat
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, cast

from app.errors import UsageMistake, printable, shorten_path
from app.media.fit import Fit, Orientation
from app.media.source import Picture, SourceLost

if TYPE_CHECKING:
    import numpy as np
    from av import VideoFrame
    from av.container import InputContainer
    from av.sidedata.sidedata import SideDataContainer
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

    from app.media.colors import Colors

LARGEST_SIDE = 16_384
"""Pixels of a side: twice 8K. Decoders take many times a picture's size in memory."""
_PROTOCOLS = {"protocol_whitelist": "file"}
"""A playlist under a film's name would have FFmpeg open what it lists, from any network."""
_TRIED = 300
"""Packets that are looked at for a first picture that can be decoded."""
_GRACE = Fraction(1)
"""Seconds of pictures at the end of a file that may be missing, as the last ones of a recording often are."""


@dataclass(frozen=True, slots=True)
class VideoFile:
    """What a survey found.

    Attributes:
        path: of the file.
        height: of an upright picture, in square pixels.
        width: likewise.
        tick: the unit of time, in seconds.
        begin: when the first picture is shown, in ticks of the file's clock.
        ticks: when each picture is shown, in ticks from the first; rising.
        end: when the last one ends.
        rate: pictures a second where they follow each other evenly, None where the rate varies.
        counted: the file gives its pictures no times; each lasts a tick.
        sound: whether there is any; None where it is, and cannot be decoded.
    """

    path: Path
    height: float
    width: float
    tick: Fraction
    begin: int
    ticks: Sequence[int]
    end: int
    rate: Fraction | None
    counted: bool
    sound: bool | None

    @property
    def seconds(self) -> Fraction:
        """Length."""
        return self.end * self.tick

    @property
    def start(self) -> Fraction:
        """When the first picture is shown, in seconds of the file's own clock."""
        return self.begin * self.tick

    def sampled(self, rate: Fraction) -> list[int]:
        """The moments of `rate` pictures a second over the whole length, in ticks from the first picture."""
        return [round(index / rate / self.tick) for index in range(max(1, round(self.seconds * rate)))]


def survey(path: Path) -> VideoFile:
    """Find out what a video file holds.

    Raises:
        UsageMistake: it is missing, unreadable, no video, or damaged from its beginning on.
    """
    shown = printable(shorten_path(path))
    _check_plain(path, shown)
    from av.error import FFmpegError

    try:
        with _open(path) as container:
            stream = _video_of(container, shown)
            ticks, end, begin, counted = _packet_times(container, stream)
            rates = stream.average_rate, stream.guessed_rate
            tick = 1 / (rates[0] or rates[1] or Fraction(25)) if counted else stream.time_base or Fraction(1, 1000)
        with _open(path) as container:
            stream = _video_of(container, shown)
            frame = _first_frame(container, stream)
            aspect = stream.sample_aspect_ratio or Fraction(1)
        with _open(path) as container:
            sound = _sound_of(container)
    except PermissionError as error:
        raise UsageMistake(f"{shown} may not be read. Change its permissions, or give another file.") from error
    except (FFmpegError, OSError, IndexError, ValueError) as error:
        raise UsageMistake(
            f"{shown} cannot be read as a video: it is damaged, or none. Give a whole copy of it, or another file."
        ) from error
    if frame is None or not ticks:
        raise UsageMistake(f"{shown} holds no picture that can be decoded. Give a whole copy of it, or another file.")
    if max(frame.width, frame.height) > LARGEST_SIDE:
        raise UsageMistake(
            f"{shown} has pictures of {frame.width}x{frame.height} pixels, and {LARGEST_SIDE} a side is the most. "
            "Scale it down first."
        )
    height, width = float(frame.height), float(frame.width * aspect)
    if _orientation(frame).transposed:
        height, width = width, height
    rate = _even_rate(ticks, tick, rates)
    return VideoFile(path, height, width, tick, begin, ticks, end, rate, counted, sound)


class FileSource:
    """The pictures of a file at given moments, a `VideoSource`.

    Args:
        file: what its survey found.
        fit: how they become the model's size.
        moments: in ticks from the first picture, rising; each shows the newest picture that is not later.

    Attributes:
        decoded: pictures that were decoded so far, those that are skipped too.
    """

    def __init__(self, file: VideoFile, fit: Fit, moments: Sequence[int]) -> None:
        self._file, self._fit, self._moments = file, fit, moments
        self.decoded = 0
        self._container: InputContainer | None = None
        self._pictures: Iterator[Picture] = iter(())

    @property
    def name(self) -> str:
        """The file's name."""
        return printable(shorten_path(self._file.path))

    def open(self) -> None:
        """Open the file and its decoder.

        Raises:
            UsageMistake: it has gone since it was surveyed.
        """
        try:
            self._container = _open(self._file.path)
        except (OSError, IndexError) as error:
            raise UsageMistake(f"{self.name} cannot be opened any more. Put it back, and run this again.") from error
        self._pictures = self._read(self._container)

    def read(self) -> Picture | None:
        """The picture of the next moment; None behind the last.

        Raises:
            SourceLost: the file is damaged from there on.
        """
        return next(self._pictures, None)

    def skip(self, count: int) -> None:
        """Leave out as many moments; before the first picture is read."""
        self._moments = self._moments[count:]

    def close(self) -> None:
        """Close the file."""
        if self._container is not None:
            self._container.close()

    def _read(self, container: InputContainer) -> Iterator[Picture]:
        from app.media.colors import Colors

        colors, file = Colors(), self._file
        frames = self._decoded(container)
        shown, following = None, next(frames, None)
        picture = None
        for moment in self._moments:
            while following is not None and (shown is None or following[0] <= moment):
                shown, picture = following, None
                following = next(frames, None)
            if shown is None:
                raise SourceLost(f"{self.name} holds no picture that can be decoded")
            if following is None and (moment - self._due(shown[0])) * file.tick > _GRACE:
                raise SourceLost(f"{self.name} is damaged from {float(shown[0] * file.tick):.2f} s on")
            if picture is None:
                picture = self._picture(colors, shown[1])
            yield Picture(picture, float(moment * file.tick))

    def _due(self, tick: int) -> int:
        """Until when the picture of a tick is to be seen: the next one's beginning, or the end."""
        index = bisect_right(self._file.ticks, tick)
        return self._file.ticks[index] if index < len(self._file.ticks) else self._file.end

    def _picture(self, colors: Colors, frame: VideoFrame) -> NDArray[np.uint8]:
        """A decoded frame, upright and in the model's size."""
        orientation = _orientation(frame).turned(self._fit.turn)
        height, width = self._file.height, self._file.width
        if self._fit.turn % 180:
            height, width = width, height
        height, width = self._fit.scaled(height, width)
        stored = (width, height) if orientation.transposed else (height, width)
        return self._fit.place(orientation.upright(colors.picture(frame, *stored)))

    def _decoded(self, container: InputContainer) -> Iterator[tuple[int, VideoFrame]]:
        """Frames with their ticks from the first picture."""
        stream = _video_of(container, self.name)
        for number, frame in enumerate(_frames(container, stream)):
            self.decoded = number + 1
            if self._file.counted:
                yield number, frame
            elif frame.pts is not None:
                yield frame.pts - self._file.begin, frame


def _check_plain(path: Path, shown: str) -> None:
    """Refuse what is no ordinary file with something in it."""
    if "\0" in str(path):
        raise UsageMistake("The name of the video holds a NUL byte. Give an ordinary file name.")
    try:
        found = path.stat()
    except OSError as error:
        raise UsageMistake(f"{shown} cannot be found ({error.strerror}). Give a video file that is there.") from error
    if stat.S_ISDIR(found.st_mode):
        raise UsageMistake(f"{shown} is a folder. Give a video file in it.")
    if not stat.S_ISREG(found.st_mode):
        raise UsageMistake(f"{shown} is not an ordinary file. Give a video file; for a device, webcam:0.")
    if not found.st_size:
        raise UsageMistake(f"{shown} is empty. Give a whole copy of it.")


def _open(path: Path) -> InputContainer:
    import av

    return av.open(str(path.absolute()), "r", metadata_errors="replace", options=_PROTOCOLS)


def _video_of(container: InputContainer, shown: str) -> VideoStream:
    """The stream that is a film: no cover of a song, and no still picture."""
    from av.stream import Disposition

    streams = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
    if not streams:
        if container.streams.audio:
            raise UsageMistake(f"{shown} holds sound and no pictures. Give a video file.")
        raise UsageMistake(f"{shown} holds no pictures. Give a video file.")
    if container.format.name.endswith("_pipe") or container.format.name == "image2":
        raise UsageMistake(f"{shown} is a still picture, whatever its name. Give a video file.")
    stream = streams[0]
    # Slices only: with a thread a frame, what a decoder makes of damage depends on which thread was first.
    stream.thread_type = "SLICE"
    return stream


def _packet_times(container: InputContainer, stream: VideoStream) -> tuple[array[int], int, int, bool]:
    """Ticks of the pictures from the first, the end, the first's own, and whether pictures had to be counted."""
    from av.error import FFmpegError

    stamps, last, lasts, packets, stamped = array("q"), 0, 0, 0, True
    with suppress(FFmpegError):  # damage in the container: what lies behind it cannot be found
        for packet in container.demux(stream):
            if not packet.size or packet.is_discard:
                continue
            packets += 1
            if packet.pts is None:
                stamped = False
                continue
            stamps.append(packet.pts)
            if len(stamps) == 1 or packet.pts >= last:
                last, lasts = packet.pts, packet.duration or 0
    if not stamped:
        return array("q", range(packets)), packets, 0, True
    ticks = sorted(set(stamps))
    if not ticks:
        return array("q"), 0, 0, False
    lasts = lasts or (round((ticks[-1] - ticks[0]) / (len(ticks) - 1)) if len(ticks) > 1 else 1)
    return array("q", (each - ticks[0] for each in ticks)), ticks[-1] - ticks[0] + max(1, lasts), ticks[0], False


def _frames(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Every frame that can be decoded, in the order in which they are shown."""
    from av.error import FFmpegError

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, FFmpegError):
            return
        with suppress(FFmpegError):
            yield from packet.decode()


def _first_frame(container: InputContainer, stream: VideoStream) -> VideoFrame | None:
    """The first frame that can be decoded, if it comes soon."""
    from av.error import FFmpegError

    for number, packet in enumerate(container.demux(stream)):
        if number >= _TRIED:
            break
        with suppress(FFmpegError):
            for frame in packet.decode():
                return frame
    return None


def _sound_of(container: InputContainer) -> bool | None:
    """Whether there is sound; None where none of its beginning can be decoded."""
    from av.error import FFmpegError

    if not container.streams.audio:
        return False
    with suppress(FFmpegError):
        for number, packet in enumerate(container.demux(container.streams.audio[0])):
            with suppress(FFmpegError):
                if packet.decode():
                    return True
            if number >= _TRIED:
                break
    return None


def _orientation(frame: VideoFrame) -> Orientation:
    """How the file says that its pictures are held, to the nearest right angle."""
    from av.sidedata.sidedata import Type

    carried = cast("SideDataContainer", frame.side_data)  # which the stubs say is a dict
    kinds = [carried[index] for index in range(len(carried))]
    matrix = next((data for data in kinds if data.type == Type.DISPLAYMATRIX), None)
    if matrix is None:
        return Orientation()
    across, down, _, right, below, *_ = struct.unpack("9i", bytes(matrix))
    if abs(across) + abs(below) >= abs(down) + abs(right):
        return Orientation(False, across < 0, below < 0)
    return Orientation(True, right < 0, down < 0)


def _even_rate(ticks: Sequence[int], tick: Fraction, named: Sequence[Fraction | None]) -> Fraction | None:
    """Pictures a second if they follow each other evenly, as exactly as the file's clock can tell."""
    if len(ticks) < 2:
        return next((rate for rate in named if rate), None)
    steps = {after - before for before, after in pairwise(ticks)}
    if len(steps) == 1:
        return 1 / (steps.pop() * tick)
    for rate in named:  # a clock of milliseconds cannot say 29.97 evenly
        if rate and all(abs(at - index / rate / tick) <= 1 for index, at in enumerate(ticks)):
            return rate
    return None
