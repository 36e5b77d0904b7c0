"""What a kill left of a film of 13 chunks, to look at and to change."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from app.record.request import RenderRequest
from app.script.script import Script
from tests.render.test_render import film_request


def alone(folder: Path) -> RenderRequest:
    """`rivulet render --resume -o out.mp4`: the journal knows the rest."""
    return replace(film_request(folder, resume=True), script=Script(()), length=None, seed=42)


def lines_of(folder: Path) -> list[bytes]:
    return (folder / "out.part" / "journal.jsonl").read_bytes().splitlines(keepends=True)


def set_lines(folder: Path, lines: list[bytes]) -> None:
    (folder / "out.part" / "journal.jsonl").write_bytes(b"".join(lines))


def contents(folder: Path) -> dict[str, str]:
    """Everything below a folder, but for the lock."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }


def as_before(folder: Path) -> None:
    """Write the journal as the version before did: no hashes of lines and segments, and no name."""
    bodies = [json.loads(line) for line in lines_of(folder)]
    for body in bodies:
        body.pop("chain")
        for gone in ("film", "left_out") if "begun" in body else ("film_sha256",) if "segment" in body else ():
            body[next(iter(body))].pop(gone)
        if "begun" in body:
            body["begun"]["format"] = 2
    set_lines(folder, [json.dumps(body, separators=(",", ":")).encode() + b"\n" for body in bodies])


def flip(data: bytes, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(len(data)))
    return data[:place] + bytes([data[place] ^ 1 << int(rng.integers(8))]) + data[place + 1 :]


def zero(data: bytes, rng: np.random.Generator) -> bytes:
    place, length = int(rng.integers(len(data))), int(rng.integers(1, 3000))
    return data[:place] + b"\0" * len(data[place : place + length]) + data[place + length :]


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(len(data)))]


def cut_out(data: bytes, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(len(data)))
    return data[:place] + data[place + int(rng.integers(1, 500)) :]


def append(data: bytes, rng: np.random.Generator) -> bytes:
    return data + rng.bytes(int(rng.integers(1, 5000)))


def double(data: bytes, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(len(data)))
    return data[:place] + data[place // 2 :]


DAMAGES = (flip, zero, cut, cut_out, append, double)
