"""Write uint8 RGB frames as an H.264 MP4 that plays whatever happens to the process.

The file grows as fragments (a fragment a frame), so what a killed render leaves still plays; only a finished
film is copied, without re-encoding, into an ordinary MP4 under its real name, in one atomic rename. One
encoder thread and no B-frames make the bytes a function of the frames and the settings alone.
"""

# pyright: reportUnknownMemberType=false
# (PyAV's stubs leave the parameter of Packet open, in every call that takes or gives one.)

import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter
from numpy.typing import NDArray

VIEWING_SIDE = 384
"""Small films are enlarged by the largest whole factor that keeps their short side within this many pixels."""

_SWSCALE = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.BITEXACT
_FRAGMENTED = {"movflags": "+frag_every_frame+empty_moov+default_base_moof", "flush_packets": "1"}


def viewing_scale(height: int, width: int) -> int:
    """Return the enlargement at which a small film is pleasant to watch: 4 for 96x96, 1 from 193 pixels up."""
    return max(1, VIEWING_SIDE // min(height, width))


class FilmWriter:
    """An MP4 that grows at `path`, playable up to the last `write` at any moment.

    Args:
        path: where the fragments go; an existing file is replaced.
        height: of the frames that will be written, even after scaling (yuv420p halves the colour planes).
        width: likewise.
        fps: frames a second of the file.
        scale: whole factor by which frames are enlarged (bicubic) before encoding; 1 keeps the engine's own
        pixels. crf: x264's constant rate factor, 0 (lossless) to 51.

    Raises:
        ValueError: the scaled size is odd.
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, *, height: int, width: int, fps: Fraction, scale: int = 1, crf: int = 18) -> None:
        if height * scale % 2 or width * scale % 2:
            raise ValueError(
                f"H.264 needs even sizes and {width * scale}x{height * scale} is not. Choose an even scale or size."
            )
        self.path = path
        self.frames = 0
        self._shape = (height, width, 3)
        self._size = (width * scale, height * scale)
        self._tick = 1 / fps
        self._whole_bytes = 0
        self._reformatter = VideoReformatter()  # one for all frames: its tables cost more than a frame
        self._file = path.open("wb")
        self._container = av.open(self._file, "w", format="mp4", options=_FRAGMENTED)
        options = {
            "preset": "veryfast",
            "tune": "zerolatency",  # no B-frames, no look-ahead: a frame in is a frame out
            "x264-params": "sliced-threads=0",
            "threads": "1",
            "crf": str(crf),
        }
        self._stream = self._container.add_stream("libx264", rate=fps, options=options)
        self._stream.width, self._stream.height = self._size
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.time_base = self._tick
        context.gop_size = max(1, round(2 * fps))  # a player can seek to every second second
        context.colorspace = Colorspace.ITU709
        context.color_range = ColorRange.MPEG
        context.color_primaries = ColorPrimaries.BT709
        context.color_trc = ColorTrc.BT709

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
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        """Close the file at the last whole `write`: after a full disk the bytes behind it are half a frame."""
        if self._file.closed:
            return
        with suppress(OSError):  # what is still buffered finds no room either
            self._file.close()
        os.truncate(self.path, self._whole_bytes)


def finalise(fragmented: Path, output: Path) -> None:
    """Copy a closed fragmented film into an ordinary MP4 (index first, so that it streams) at `output`.

    No re-encoding; the film appears under its name complete or not at all, and `fragmented` is removed.
    """
    whole = output.with_name(f".{output.name}.tmp")
    try:
        with av.open(str(fragmented.absolute()), "r") as source, whole.open("w+b") as file:
            stream = source.streams.video[0]
            with av.open(file, "w", format="mp4", options={"movflags": "+faststart"}) as target:
                copy = target.add_stream_from_template(stream)
                for packet in source.demux(stream):
                    if packet.dts is not None:  # the empty packet that ends every demux
                        packet.stream = copy
                        target.mux(packet)
            file.flush()
            os.fsync(file.fileno())
        whole.replace(output)
    finally:
        whole.unlink(missing_ok=True)
    fragmented.unlink()
