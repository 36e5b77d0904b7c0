"""Join of a film's segments into one ordinary MP4, without encoding anything again.

Each segment has an encoder of its own, so one that a crash cost is made again and nothing after it changes; here
they become one film: index first, times counted in whole frames (a sum of rounded times drifts over thousands of
segments), chapters, metadata and sound. The film appears under its name complete or not at all.
"""

# pyright: reportUnknownMemberType=false
# (PyAV's stubs leave the parameter of Packet open, in every call that takes or gives one.)

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import av
from av.container import InputContainer, OutputContainer
from av.error import EOFError as EndError
from av.error import InvalidDataError
from av.packet import Packet
from av.video.stream import VideoStream

from app.atomic import put
from app.errors import shorten
from app.media.audio import Soundtrack
from app.media.subtitles import Chapter
from app.media.times import Times

if TYPE_CHECKING:
    from av.container.core import Chapter as Entry  # a name of the stubs alone

_NOTHING: Mapping[str, str] = MappingProxyType({})
_OPTIONS = {"movflags": "+faststart+use_metadata_tags"}  # the latter keeps keys that MP4 has no name for
_TITLE_BYTES = 200
"""Chapter titles are cut to this: MP4's chapter list counts their bytes in one byte, and menus are narrow."""
_MILLISECOND = Fraction(1, 1000)


@dataclass(frozen=True, slots=True)
class Joined:
    """What became of the segments: how many frames, a sentence on the sound's fit (or ""), the sha256 of the file."""

    frames: int
    sound: str = ""
    sha256: str = ""


def join(
    segments: Sequence[Path],
    output: Path,
    *,
    chapters: Sequence[Chapter] = (),
    metadata: Mapping[str, str] = _NOTHING,
    audio: Path | None = None,
    audio_begin: Fraction | None = None,
    times: Times | None = None,
    frames: int | None = None,
) -> Joined:
    """Copy the segments, in order, into one MP4 at `output`; they stay where they are.

    Args:
        segments: fragmented MP4s of `FilmWriter`, all of the same settings. The last may end in half a frame, as
            a killed render leaves it; that half is left out.
        output: an existing file is replaced in one rename.
        chapters: in order; a title is one line, shortened to 200 bytes.
        metadata: any keys and texts, megabytes long if need be (30 MB come back unchanged). Players know `title`
            and `comment`.
        audio: a file that `check_audio` accepts; cut or padded with silence to the film's length.
        audio_begin: the moment of that file's own clock at which the film begins; None begins with its first sound.
        times: when each frame is shown; None leaves them even.
        frames: how many there have to be, if that is known.

    Raises:
        ValueError: no segments, one that cannot be read, segments that do not belong together, or frames that lack.
        OSError: the film cannot be written; nothing is left of it.
    """
    if not segments:
        raise ValueError("there is nothing to join: a film needs at least one segment")
    output = output.absolute()  # a relative name with a colon would read as a protocol
    whole = output.with_name(f".{output.name}.tmp")
    try:
        with av.open(str(whole), "w", format="mp4", options=_OPTIONS) as target:
            target.metadata.update({key: text.replace("\0", " ") for key, text in metadata.items()})
            joined = _copy(segments, target, _Layout(chapters, audio, audio_begin, times))
        if frames not in (None, joined.frames):
            raise ValueError(
                f"{segments[-1]} holds {joined.frames} frames where {frames} were written: the disk lost some. "
                "Render it again."
            )
        with whole.open("rb") as file:
            os.fsync(file.fileno())
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        put(whole, output)
    finally:
        whole.unlink(missing_ok=True)
    return replace(joined, sha256=sha256)


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a film, every key that `join` was given among it.

    Raises:
        ValueError: the file is not a film.
        OSError: the file cannot be read.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder. Give the film in it.")
    try:
        # As an MP4 and nothing else: a playlist under its name would have FFmpeg open what it lists, from any network.
        with av.open(str(path.absolute()), "r", format="mp4", metadata_errors="replace") as film:
            return dict(film.metadata)
    except (InvalidDataError, IndexError, EndError) as error:
        raise ValueError(f"{path} is not a film that can be read. Give an MP4 made by rivulet render.") from error


class _Layout(NamedTuple):
    """What a film has beside its pictures, and when they are shown, as `join` was told."""

    chapters: Sequence[Chapter]
    audio: Path | None
    audio_begin: Fraction | None
    times: Times | None


def _copy(segments: Sequence[Path], target: OutputContainer, layout: _Layout) -> Joined:
    """Mux every packet with its time as a whole number of frames."""
    film: _Film | None = None
    try:
        for number, path in enumerate(segments):
            with _open(path, last=number == len(segments) - 1) as source:
                stream = source.streams.video[0]
                settings = _settings(stream)
                for packet in _frames(source, stream, path):
                    if film is None:
                        film = _Film(target, stream, packet, settings, layout)
                    film.add(packet, settings, path)
        if film is None:
            raise ValueError(f"{segments[0]} holds no whole frame, so there is no film to join. Render it again.")
        return Joined(film.frames, film.sound.finish(film.seconds) if film.sound is not None else "")
    finally:
        if film is not None and film.sound is not None:
            film.sound.close()


class _Film:
    """The film being joined: its picture track, laid out like the first segment's, and its sound."""

    def __init__(
        self,
        target: OutputContainer,
        stream: VideoStream,
        first: Packet[VideoStream],
        settings: tuple[object, ...],
        layout: _Layout,
    ) -> None:
        self.frames = 0
        self._step = first.duration or 0
        self._tick = first.time_base
        self._settings = settings
        self._target = target
        self._times = layout.times
        self._copied = target.add_stream_from_template(stream)
        if self._times is not None:
            self._copied.time_base = self._times.tick
        target.set_chapters(_entries(layout.chapters))
        self.sound = None if layout.audio is None else Soundtrack(layout.audio, target, begin=layout.audio_begin)

    @property
    def seconds(self) -> Fraction:
        """Length so far, exactly."""
        return self.frames * self._step * self._tick if self._times is None else self._times.second(self.frames)

    def add(self, packet: Packet[VideoStream], settings: tuple[object, ...], path: Path) -> None:
        """Append one frame."""
        if (packet.duration, packet.time_base, settings) != (self._step, self._tick, self._settings):
            raise ValueError(
                f"{path} was made with other settings than the segments before it: they cannot be one film. "
                "Render the film again."
            )
        if self.sound is not None:
            self.sound.until(self.seconds)
        packet.stream = self._copied
        packet.pts = packet.dts = self.frames * self._step
        if self._times is not None:
            packet.pts = packet.dts = self._times.ticks[self.frames]
            packet.duration = self._times.ticks[self.frames + 1] - packet.pts
            packet.time_base = self._times.tick
        self._target.mux(packet)
        self.frames += 1


def whole_bytes(path: Path) -> int:
    """Return how many bytes of a fragmented MP4 are whole boxes.

    A kill can end a file anywhere, and FFmpeg refuses a whole film for a fragment's header that is cut at some of its
    bytes: the file without its last, cut box plays everywhere.
    """
    size = path.stat().st_size
    end = 0
    with path.open("rb") as file:
        while True:
            file.seek(end)
            head = file.read(16)
            if len(head) < 8:
                return end
            length = int.from_bytes(head[:4], "big")
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            if length < 8 or end + length > size:
                return end
            end += length


def _open(path: Path, *, last: bool) -> InputContainer:
    """Open a segment; only the last may be cut: elsewhere that is a hole in the film."""
    whole = whole_bytes(path)
    name = str(path.absolute())
    if whole < path.stat().st_size:
        if not last and whole:
            raise ValueError(f"{path} is damaged in the middle of the film. Render the film again.")
        name = f"subfile,,start,0,end,{whole},,:{name}"
    try:
        return av.open(name, "r", format="mp4")
    except (InvalidDataError, IndexError, EndError) as error:
        raise ValueError(f"{path} is not a segment of a film. Render the film again.") from error


def _frames(source: InputContainer, stream: VideoStream, path: Path) -> Iterator[Packet[VideoStream]]:
    """Yield the packets of the frames, which follow each other without a gap."""
    following: int | None = None
    for packet in source.demux(stream):
        if packet.pts is None or packet.duration is None:  # the empty packet that ends every demux
            continue
        if packet.is_corrupt or following not in (None, packet.pts):
            raise ValueError(f"{path} is damaged at {float(packet.pts * packet.time_base):.2f} s. Render it again.")
        following = packet.pts + packet.duration
        yield packet


def _settings(stream: VideoStream) -> tuple[object, ...]:
    """What must be equal for one decoder to show both: the H.264 headers and the size."""
    context = stream.codec_context
    return context.name, context.extradata, context.width, context.height


def _entries(chapters: Sequence[Chapter]) -> list[Entry]:
    """Chapters as FFmpeg takes them; MP4 counts their times in milliseconds."""
    return [
        {
            "id": number,
            "start": round(chapter.start * 1000),
            "end": round(chapter.end * 1000),
            "time_base": _MILLISECOND,
            "metadata": {"title": _short(chapter.title)},
        }
        for number, chapter in enumerate(chapters)
    ]


def _short(title: str) -> str:
    line = " ".join(title.replace("\0", " ").split())
    width = _TITLE_BYTES
    while len((short := shorten(line, width)).encode()) > _TITLE_BYTES:
        width -= (len(short.encode()) - _TITLE_BYTES + 3) // 4  # a letter has at most 4 bytes
    return short
