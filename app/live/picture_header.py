"""Picture header: the 20 bytes before every picture that a page sends up its socket, for a film made of them.

docs/live-api.md is the table for people.
"""

import struct
from dataclasses import dataclass

from app.live.frame_header import JPEG, MAGIC
from app.live.messages import VERSION, WireError

WEBP = 1
FORMATS = {JPEG: "JPEG", WEBP: "WEBP"}
"""What a picture may be compressed as, and what Pillow calls it."""
MAX_PICTURE = 256 * 1024
"""Bytes of a picture with its header."""
_HEADER = struct.Struct("<HBBIId")


@dataclass(frozen=True, slots=True)
class Upload:
    """A picture as it came: `source` is the number of the `session.source` it belongs to, `seq` rises with each.

    `captured` is when it was taken, in seconds of the sender's clock, which comes back with the frames made of it.
    """

    source: int
    seq: int
    captured: float
    codec: int
    payload: bytes


def pack_picture(upload: Upload) -> bytes:
    """The binary message: 20 bytes, little endian, then the picture."""
    header = _HEADER.pack(MAGIC, VERSION, upload.codec, upload.source, upload.seq, upload.captured)
    return header + upload.payload


def read_picture(data: bytes) -> Upload:
    """Split a binary message.

    Raises:
        WireError: it is too short or too long, of another version, or of no format that is read here.
    """
    if len(data) > MAX_PICTURE:
        raise WireError(f"A picture is at most {MAX_PICTURE // 1024} KiB long, this one has {len(data) // 1024}.")
    if len(data) <= _HEADER.size:
        raise WireError(f"A picture begins with {_HEADER.size} bytes, this message has {len(data)}.")
    magic, version, codec, source, seq, captured = _HEADER.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise WireError(f"This is no picture of version {VERSION}.")
    if codec not in FORMATS:
        raise WireError("A picture is a JPEG (codec 0) or a WebP (codec 1).")
    if not abs(captured) < 1e15:  # no NaN either
        raise WireError("A picture's time is a number of seconds.")
    return Upload(source, seq, captured, codec, data[_HEADER.size :])
