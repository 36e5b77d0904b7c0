"""What reaches the live server from anybody: mutated messages of the wire, and mutated files dropped on the page.

The same measure as for scripts: everything is read or refused in one sentence, and soon.
"""

import json
import struct
from collections.abc import Mapping
from typing import Any

from app.errors import UsageMistake
from app.live.message_reader import read_message
from app.live.messages import WireError
from app.server.restore import read_dropped, restored
from benchmarks.robust.mutation import Target
from pipelines.presets import PRESETS
from pipelines.presets.knobs import knob_values
from weights.catalog import MODELS

_MESSAGES: Mapping[str, Mapping[str, Any]] = {
    "start": {"type": "session.start", "prompt": "a red ball", "seed": 7, "transition": {"kind": "keep"}},
    "prompt": {
        "type": "session.prompt_update",
        "id": "p1",
        "prompt": [["a red ball", 0.7], ["a star", 0.3]],
        "transition": {"kind": "soft", "chunks": 4},
        "queue": True,
        "hold": 8.5,
    },
    "queue": {"type": "session.queue", "items": [{"id": "q", "prompt": "x", "transition": {"kind": "cut"}}]},
    "look up": {"type": "session.look_up", "id": "w1", "prompt": "a cat at sun"},
    "set": {"type": "session.set", "guidance_scale": 2.5, "steps": 4, "jpeg_quality": 80, "window": 9, "sink": 3},
    "do": {"type": "session.do", "action": "rewind", "seconds": 5, "seed": -1},
    "source": {"type": "session.source", "kind": "camera", "number": 7, "strength": 0.6, "hold": 0.5, "latency": 0.4},
    "beginning": {"type": "session.beginning", "kind": "clip", "number": 7, "count": 45, "name": "cat.mp4"},
    "ack": {"type": "ack", "seq": 12},
    "stop": {"type": "session.stop"},
}


def read_wire(data: bytes, name: str) -> None:
    """A message as the socket reads it, and what it says to the engine."""
    try:
        message = read_message(data)
    except WireError as error:
        raise UsageMistake(f"{str(error).rstrip('.')}. See docs/live-api.md.") from None
    if read_message(message.model_dump_json()) != message:
        raise AssertionError("a message does not come back from its text as it was")


def read_drop(data: bytes, name: str) -> None:
    """A file as POST /v1/restore reads it, to the answer."""
    json.dumps(restored(read_dropped(data), models=tuple(MODELS)), allow_nan=False)


def a_log() -> bytes:
    """A session.jsonl of four chunks, a blend and a rewind."""
    knobs = knob_values(PRESETS["embedded"])
    head = {"event": "take", "format": 1, "preset": "embedded", "knobs": knobs, "system": {}, "untrained": False}
    head |= {"model": {"name": "embedded", "sha256": ""}, "device": "cpu", "threads": 1, "height": 96, "width": 96}
    lines: list[dict[str, Any]] = [head | {"fps": 16.0, "versions": {}, "machine": {}}]
    for chunk, branch in enumerate((0, 0, 1, 1)):
        if chunk == 2:
            lines.append({"event": "branch", "branch": 1, "parent": 0, "chunk": 2})
        if not chunk % 2:
            mix: Any = "a red ball" if not chunk else [["a star", 1.0], ["a cube", 0.5]]
            said = {"event": "controls", "branch": branch, "chunk": chunk, "prompt": mix, "transition": ["soft", 2]}
            lines.append(said | {"guidance_scale": None, "knobs": [["num_inference_steps", 4]], "seed": 7})
        frames = [9 + (chunk - 1) * 12 if chunk else 0, 9 + chunk * 12]
        made = {"event": "chunk", "branch": branch, "chunk": chunk, "frames": frames, "sha256": "ab", "seconds": 0.2}
        lines.append(made)
    entered = {"event": "input", "branch": 1, "chunk": 3, "action": "pictures", "pictures": ["0" * 32]}
    lines[-1:] = [entered | {"strength": 0.7}, lines[-1] | {"source": "camera", "kept": True}]
    lines.append({"event": "shown", "branch": 1, "chunk": 3, "frames": 5})
    return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines).encode()


def a_film() -> bytes:
    """The boxes of an MP4 around what a film of that log carries, without a picture."""
    from app.record.provenance import record_of_log
    from app.record.session_log import parse_log
    from app.record.sidecar import carried

    def box(kind: bytes, *parts: bytes) -> bytes:
        return struct.pack(">I", 8 + sum(map(len, parts))) + kind + b"".join(parts)

    told = carried(record_of_log(parse_log(a_log(), "a log"), "a log")).encode()
    keys = box(b"keys", bytes(4), struct.pack(">I", 1), box(b"mdta", b"rivulet"))
    value = box(b"ilst", box(struct.pack(">I", 1), box(b"data", struct.pack(">II", 1, 0), told)))
    meta = box(b"meta", bytes(4), box(b"hdlr", bytes(4), b"mdta", bytes(17)), keys, value)
    return box(b"ftyp", b"isom") + box(b"moov", box(b"mvhd", bytes(100)), box(b"udta", meta)) + box(b"mdat", bytes(64))


WIRE: dict[str, tuple[bytes, Target]] = {
    f"wire {name}": (json.dumps(message).encode(), read_wire) for name, message in _MESSAGES.items()
}
"""Good messages of every kind, and what reads them."""


def drops() -> dict[str, tuple[bytes, Target]]:
    """Good files that may be dropped on the page, and what reads them."""
    return {"dropped film.mp4": (a_film(), read_drop), "dropped session.jsonl": (a_log(), read_drop)}
