"""Frame header: the 32 bytes before every frame on the socket.

A page reads them with one DataView, so their layout is fixed; docs/live-api.md is the table for people.
"""

import struct
from dataclasses import dataclass

from app.live.messages import VERSION, WireError

MAGIC = 0x5652
"""The bytes "RV" at the head of every binary message."""
JPEG = 0
_HEADER = struct.Struct("<HBBBBHIIdd")
HEADER_BYTES = _HEADER.size
_KEY, _OF_PICTURE = 1, 2
_TRAILER = struct.Struct("<dI")
"""Behind the payload of a frame that was made of a picture: when that was captured, and its number. Who does not know
of it has twelve bytes behind a JPEG, which no reader minds."""


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """What a frame's header says; `t` is film time, `made` the unix time at which its chunk was finished.

    `epoch` rises with every reset (modulo 2**16), `seq` with every frame of the session, `frame` is the film's.
    `source` is the number of the picture that it was made of, and when that was captured by its sender's clock.
    """

    seq: int
    frame: int
    t: float
    made: float
    epoch: int = 0
    codec: int = JPEG
    key: bool = True
    source: tuple[int, float] | None = None


def pack_frame(header: FrameHeader, payload: bytes) -> bytes:
    """Return the binary message: 32 bytes, little endian, the payload, and of a picture's frame 12 bytes more."""
    trailer = b"" if header.source is None else _TRAILER.pack(header.source[1], header.source[0])
    return (
        _HEADER.pack(
            MAGIC,
            VERSION,
            header.codec,
            (_KEY if header.key else 0) | (_OF_PICTURE if trailer else 0),
            0,
            header.epoch & 0xFFFF,
            header.seq,
            header.frame,
            header.t,
            header.made,
        )
        + payload
        + trailer
    )


def unpack_frame(message: bytes) -> tuple[FrameHeader, bytes]:
    """Split a binary message.

    Raises:
        WireError: it is too short, of another version, or no frame of ours.
    """
    if len(message) < HEADER_BYTES:
        raise WireError(f"A frame begins with {HEADER_BYTES} bytes, this message has {len(message)}.")
    magic, version, codec, flags, _, epoch, seq, frame, t, made = _HEADER.unpack_from(message)
    if magic != MAGIC or version != VERSION:
        raise WireError(f"This is no frame of version {VERSION}.")
    payload, source = message[HEADER_BYTES:], None
    if flags & _OF_PICTURE:
        if len(payload) < _TRAILER.size:
            raise WireError("A frame of a picture ends with its number, and this message is cut off.")
        captured, number = _TRAILER.unpack(payload[-_TRAILER.size :])
        payload, source = payload[: -_TRAILER.size], (number, captured)
    return FrameHeader(seq, frame, t, made, epoch, codec, bool(flags & _KEY), source), payload
