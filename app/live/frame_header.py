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


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """What a frame's header says; `t` is film time, `made` the unix time at which its chunk was finished.

    `epoch` rises with every reset (modulo 2**16), `seq` with every frame of the session, `frame` is the film's.
    """

    seq: int
    frame: int
    t: float
    made: float
    epoch: int = 0
    codec: int = JPEG
    key: bool = True


def pack_frame(header: FrameHeader, payload: bytes) -> bytes:
    """Return the binary message: 32 bytes, little endian, then the payload."""
    return (
        _HEADER.pack(
            MAGIC,
            VERSION,
            header.codec,
            int(header.key),
            0,
            header.epoch & 0xFFFF,
            header.seq,
            header.frame,
            header.t,
            header.made,
        )
        + payload
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
    return FrameHeader(seq, frame, t, made, epoch, codec, bool(flags & 1)), message[HEADER_BYTES:]
