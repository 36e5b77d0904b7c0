"""MP4 writer: uint8 RGB frames as H.264 in a file that plays whatever happens to the process.

The file grows as fragments (a fragment a frame), so what a killed render leaves still plays; app/media/join.py
copies a finished film into an ordinary MP4. One encoder thread and no B-frames make the bytes a function of the
frames, the settings and the places of the segments alone.
"""

# pyright: reportUnknownMemberType=false
# (PyAV's stubs leave the parameter of Packet open, in every call that takes or gives one.)

import hashlib
import os
import re
from contextlib import suppress
from fractions import Fraction
from io import FileIO
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter
from numpy.typing import NDArray

from app.config.readers import VIEWING_SIDE

_SWSCALE = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.BITEXACT
# A fragment a frame, no index at the end: whatever is in the file plays. Timestamps stay as they are given, so that a
# muxer that goes on in the middle of a film writes what the first one would have written.
_FRAGMENTED = {
    "movflags": "+frag_every_frame+empty_moov+default_base_moof+skip_trailer+frag_discont",
    "avoid_negative_ts": "disabled",
    "flush_packets": "1",
}
_NAMED = re.compile(rb"rivulet-film:([0-9a-f]{32})")
_HEADER_BYTES = 65_536


def viewing_scale(height: int, width: int) -> int:
    """Return the enlargement at which a small film is pleasant to watch: 4 for 96x96, 1 from 193 pixels up."""
    return max(1, VIEWING_SIDE // min(height, width))


def film_name(path: Path) -> str:
    """The name that a growing film was given, "" if it has none or it cannot be read.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        found = _NAMED.search(file.read(_HEADER_BYTES))
    return found[1].decode() if found else ""


class _Tail:
    """What a muxer writes into: the film, but for the header of a muxer that goes on with a film that has one.

    `digest` is of all bytes that it passed on.
    """

    def __init__(self, file: FileIO, *, header: bool) -> None:
        self._file = file
        self.open = header
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Take the bytes of a fragment, or swallow those of a header.

        The file is unbuffered, so that a kill never cuts a fragment where Python's buffer happened to be full; such a
        file may take a part of the bytes at a time, and says that a disk is full only to the next part.
        """
        rest = memoryview(data) if self.open else memoryview(b"")
        while rest:
            written = self._file.write(rest)
            self.digest.update(rest[:written])
            rest = rest[written:]
        return len(data)


class FilmWriter:
    """An MP4 that grows at `path`, playable up to the last `write` at any moment, in segments.

    A segment has an encoder and a muxer of its own, so that its bytes depend on nothing before it: a film that was cut
    off at a segment's beginning goes on to be the file it would have been.

    Args:
        path: where the fragments go.
        height: of the frames that will be written, even after scaling (yuv420p halves the colour planes).
        width: likewise.
        fps: frames a second of the file.
        scale: whole factor by which frames are enlarged (bicubic) before encoding; 1 keeps the engine's own pixels.
        crf: x264's constant rate factor, 0 (lossless) to 51.
        preset: x264's, one of ENCODER_PRESETS; the pictures of a film that goes on have one.
        frames: with how many frames to go on; 0 begins a film.
        size: bytes of the file that hold them.
        keep: write over what the file holds behind them, which stays until then; otherwise it is cut off at once.
        name: 32 hexadecimal digits that `film_name` finds in the growing film, and that no joined film has; or "".

    Raises:
        ValueError: the scaled size is odd.
        OSError: the file cannot be opened.
    """

    def __init__(
        self,
        path: Path,
        *,
        height: int,
        width: int,
        fps: Fraction,
        scale: int = 1,
        crf: int = 18,
        preset: str = "veryfast",
        frames: int = 0,
        size: int = 0,
        keep: bool = False,
        name: str = "",
    ) -> None:
        if height * scale % 2 or width * scale % 2:
            raise ValueError(
                f"H.264 needs even sizes and {width * scale}x{height * scale} is not. Choose an even scale or size."
            )
        self.path = path
        self.frames = frames
        self._shape = (height, width, 3)
        self._size = (width * scale, height * scale)
        self._fps, self._crf, self._preset = fps, crf, preset
        self._tick = 1 / fps
        self._reformatter = VideoReformatter()  # one for all frames: its tables cost more than a frame
        self._name = name
        going_on = frames > 0 or (keep and path.exists())
        self._file = path.open("r+b" if going_on else "wb", buffering=0)
        self._older = self._file.seek(0, os.SEEK_END) if keep else 0
        self._whole_bytes = self._file.seek(size if frames else 0)
        if not keep:
            self._file.truncate()
        self._open_segment()

    @property
    def size(self) -> int:
        """Bytes of the file up to the last `write` or `begin_segment`."""
        return self._whole_bytes

    def begin_segment(self) -> tuple[int, str]:
        """Let the next frame begin a segment, with what came before safe on the disk.

        Returns the bytes that it takes, and the sha256 of those of the segment that ended.
        """
        self._close_segment()
        self._sync()
        ended = self._sink.digest.hexdigest()
        self._open_segment()
        return self._whole_bytes, ended

    def write(self, pixels: NDArray[np.uint8]) -> None:
        """Append frames, uint8 RGB [T, H, W, 3], and hand the bytes to the operating system."""
        if pixels.dtype != np.uint8 or pixels.shape[1:] != self._shape:
            raise ValueError(f"frames must be uint8 [T, {self._shape}], not {pixels.dtype} {pixels.shape}")
        width, height = self._size
        for picture in pixels:
            frame = self._reformatter.reformat(
                av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24"),
                width,
                height,
                "yuv420p",
                dst_colorspace=Colorspace.ITU709,
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.MPEG,
                interpolation=int(_SWSCALE),
                threads=1,
            )
            frame.pts, frame.time_base = self.frames, self._tick
            self._container.mux(self._stream.encode(frame))
            self.frames += 1
        self._file.flush()
        self._whole_bytes = self._file.tell()

    def close(self) -> None:
        """Write what the encoder still holds and close the file; it is then a whole, if fragmented, MP4."""
        self._close_segment()
        self._file.truncate()  # an older end that was kept
        self._sync()
        self._file.close()

    def abandon(self) -> None:
        """Close the file at the last whole `write`: after a full disk the bytes behind it are half a frame.

        An older end that was kept, and that reaches further, stays.
        """
        if self._file.closed:
            return
        with suppress(OSError):  # what is still buffered finds no room either
            self._file.close()
        with suppress(FileNotFoundError):  # somebody removed it
            if self._whole_bytes >= self._older:
                os.truncate(self.path, self._whole_bytes)

    def _open_segment(self) -> None:
        self._sink = _Tail(self._file, header=self.frames == 0)
        options = _FRAGMENTED | {"fragment_index": str(self.frames + 1)}
        self._container = av.open(self._sink, "w", format="mp4", options=options)
        if self._name:
            self._container.metadata["comment"] = f"rivulet-film:{self._name}"
        self._stream = self._container.add_stream(
            "libx264",
            rate=self._fps,
            options={
                "preset": self._preset,
                "tune": "zerolatency",  # no B-frames, no look-ahead: a frame in is a frame out
                "x264-params": "sliced-threads=0",
                "threads": "1",
                "crf": str(self._crf),
            },
        )
        self._stream.width, self._stream.height = self._size
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.time_base = self._tick
        context.gop_size = max(1, round(2 * self._fps))  # a player can seek to every second second
        context.colorspace = Colorspace.ITU709
        context.color_range = ColorRange.MPEG
        context.color_primaries = ColorPrimaries.BT709
        context.color_trc = ColorTrc.BT709
        self._container.start_encoding()  # writes the header
        self._sink.open = True

    def _close_segment(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._whole_bytes = self._file.tell()
