"""What a render says of its chunks, while it grows and afterwards: when each was made, under which shot, how it drifts.

The strip of a job and the plots of a comparison are drawn from it, without a frame of the film being read.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from app.script.timeline import Timeline
from pipelines.types import prompt_text

MOST_ROWS = 20_000
"""Chunks told at a time: four hours of film."""


def chunk_rows(folder: Path, timeline: Timeline, *, since: int = 0) -> dict[str, Any]:
    """The chunks of a job from `since` on, beside the places of its shots and blends, in plain JSON types.

    `seconds` of a chunk is its time in the engine ("model" is a part of other hops), `frame` its first frame,
    `frames` how many it has, `shown` how many of them are in the film, `sha256` of them all before encoding.
    At most MOST_ROWS are told at a time.
    """
    blends = [chunk for _, chunks in timeline.blends() for chunk in chunks]
    rows = (_row(record) for record in _records(folder) if record["index"] >= since)
    return {
        "object": "list",
        "fps": timeline.fps,
        "chunks": timeline.chunks,
        "shots": [{"chunk": shot.actual.chunk, "prompt": prompt_text(shot.prompt)} for shot in timeline.shots],
        "blends": blends,
        "data": list(islice(rows, MOST_ROWS)),
    }


def _row(record: dict[str, Any]) -> dict[str, Any]:
    return {
        "chunk": record["index"],
        "frame": record["frames"][0],
        "frames": record["frames"][1] - record["frames"][0],
        "shown": record["shown"],
        "seconds": round(sum(value for hop, value in record["seconds"].items() if hop != "model"), 4),
        "drift": record["drift"],
        "memory": record["memory"],
        "sha256": record["sha256"],
    }


def _records(folder: Path) -> Iterator[dict[str, Any]]:
    """As sidecar.ChunkRecord, from the journal of a film that grows, else from the record of one that is done."""
    with suppress(OSError):
        for line in (folder / "film.part" / "journal.jsonl").read_bytes().split(b"\n")[:-1]:
            if line.startswith(b'{"chunk"'):
                yield json.loads(line)["chunk"]
        return
    with suppress(OSError, ValueError):
        yield from json.loads((folder / "film.json").read_bytes())["chunks"]
