"""The newest frame of a film that is still growing, as a JPEG.

Opening an hour of fragments reads the headers of all of them. The film's first bytes and those from its last segment on
are a film too, and the journal knows where that segment begins.
"""

# pyright: reportUnknownMemberType=false
# (PyAV's stubs leave the parameter of Packet open.)

import json
import threading
from contextlib import suppress
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from PIL.Image import Image

LARGEST_SIDE, QUALITY = 640, 85
_TAIL = 64_000_000
"""Bytes behind the last segment's beginning that are looked at; a segment has two dozen chunks."""
_one_at_a_time = threading.Lock()


def newest_frame(film: Path) -> bytes | None:
    """The last frame that is whole in a film, None if there is none; decoded once for every size of the file."""
    with suppress(OSError), _one_at_a_time:
        return _newest(film, film.stat().st_size, film.stat().st_mtime_ns)
    return None


@lru_cache(maxsize=8)
def _newest(film: Path, size: int, changed: int) -> bytes | None:
    import av
    from av import VideoFrame
    from av.error import FFmpegError

    begin = _last_segment(film.with_suffix("") / "journal.jsonl", size)
    source: BytesIO | str = str(film)
    if begin:
        with film.open("rb") as file:
            header = file.read(_header(film))
            file.seek(begin)
            source = BytesIO(header + file.read(_TAIL))
    picture: VideoFrame | None = None
    with suppress(FFmpegError, IndexError), av.open(source, "r") as container:  # the last fragment may be half there
        video = container.streams.video[0]
        if not begin and video.duration:
            container.seek(max(0, video.duration - 1), stream=video)
        for frame in container.decode(video):
            picture = frame
    if picture is None:
        return None
    image = cast("Image", picture.to_image())
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    content = BytesIO()
    image.save(content, "JPEG", quality=QUALITY)
    return content.getvalue()


def _last_segment(journal: Path, size: int) -> int:
    """Where the last segment begins that has a frame in the film; 0 if that is the film's beginning."""
    begin = 0
    with suppress(OSError, ValueError, KeyError):
        for line in journal.read_bytes().split(b"\n"):
            if line.startswith(b'{"segment"'):
                at = int(json.loads(line)["segment"]["bytes"])
                begin = at if at < size else begin
    return begin


def _header(film: Path) -> int:
    """Bytes of the boxes before the first fragment."""
    at = 0
    with film.open("rb") as file:
        while len(box := file.read(8)) == 8 and box[4:] in (b"ftyp", b"moov", b"free"):
            at += max(8, int.from_bytes(box[:4], "big"))
            file.seek(at)
    return at
