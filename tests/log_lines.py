"""A session.jsonl as a live film leaves it, written line by line, for tests that need no film."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.loading.system import as_data, system_of
from pipelines.presets import PRESETS
from pipelines.presets.knobs import knob_values

CHUNK = 12
"""Frames of a chunk but the first, which has 9."""


def header(**changes: Any) -> dict[str, Any]:
    """The first line."""
    preset = PRESETS["embedded"]
    return {
        "event": "take",
        "format": 1,
        "preset": "embedded",
        "knobs": {name: as_data(value) for name, value in knob_values(preset).items()},
        "system": system_of(preset),
        "untrained": False,
        "model": {"name": "embedded", "sha256": "0" * 64},
        "device": "cpu",
        "threads": 1,
        "height": 96,
        "width": 96,
        "fps": 16.0,
        "versions": {},
        "machine": {},
    } | changes


def steered(chunk: int, prompt: Any, kind: str = "recache", chunks: int = 0, **changes: Any) -> dict[str, Any]:
    """From this chunk on that prompt."""
    return {
        "event": "controls",
        "branch": 0,
        "chunk": chunk,
        "prompt": prompt,
        "transition": [kind, chunks],
        "guidance_scale": None,
        "knobs": [],
        "seed": 7,
    } | changes


def made(chunk: int, branch: int = 0) -> dict[str, Any]:
    """A chunk."""
    first = 0 if chunk == 0 else 9 + (chunk - 1) * CHUNK
    frames = [first, 9 + chunk * CHUNK]
    return {"event": "chunk", "branch": branch, "chunk": chunk, "frames": frames, "sha256": "ab", "seconds": 0.2}


def shown(chunk: int, frames: int, branch: int = 0) -> dict[str, Any]:
    """Of that chunk only so many frames."""
    return {"event": "shown", "branch": branch, "chunk": chunk, "frames": frames}


def as_bytes(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """The file."""
    return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines).encode()


def a_log(**changes: Any) -> bytes:
    """Eight chunks: a re-cache, a blend, a cut that drops most of a chunk, a mix, and another guidance."""
    lines = [header(**changes), steered(0, "a red ball"), made(0), made(1)]
    lines += [steered(2, "a blue star", "soft", 2), made(2), made(3), shown(3, 2)]
    lines += [steered(4, "a green cube", "cut"), made(4), made(5)]
    mix = [["a red ball", 0.75], ["a blue star", 0.25]]
    lines += [steered(6, mix, "keep", guidance_scale=3.0, knobs=[["num_inference_steps", 3.0]]), made(6), made(7)]
    return as_bytes(lines)


def save(folder: Path, log: bytes) -> Path:
    """Write it where a session has it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "session.jsonl"
    path.write_bytes(log)
    return path
