"""Records of films and live takes from anybody: values that cannot be, entries that are missing, and damaged bytes.

The measure goes as far as a replay does before the engine is opened, in the same process, and looks at what the engine
would have been asked for: nothing that only a record asks for may be outside the bounds of a flag, be downloaded, or
lie anywhere but in this package.
"""

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import numpy as np
from rich.console import Console

from app.config.lengths import Rhythm
from app.config.readers import DEVICES, LARGEST_SIDE, MOST_THREADS
from app.config.settings import given_by_flags
from app.errors import UsageMistake
from app.loading.engine_request import EngineRequest
from app.media.join import join, read_metadata
from app.media.mp4 import FilmWriter
from app.record import sidecar
from app.record.pictures import picture_record
from app.record.provenance import record_of_log
from app.record.session_log import parse_log
from app.render.replay import replay
from app.render.replay_log import replay_log
from app.script.timeline import Timeline
from benchmarks.robust.fuzz_live import a_log
from benchmarks.robust.mutation import Target, mutate

_RHYTHM = Rhythm(3, 3)
ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 3, 41, 10**5, 10**9, 2**63, 10**400, -(10**18), 0.5, -0.0, 1e308, 1e-320),
    *(float("nan"), float("inf"), float("-inf"), "", "x" * 5000, "1e400", "-1", "1/0", "100000", "\0", "\u202e", "~"),
    *("../../etc/passwd", "/dev/zero", "https://127.0.0.1:9/model", "wan-1.3b", "longlive", "cuda", "live", "whole"),
    *([], {}, [[]], [0, -5], [["a", 1e999]], {"a": {}}, ["x"] * 2000),
)
"""What is put in the place of a value."""


def alter(data: bytes, rng: random.Random) -> bytes:
    """Change one to three values of a JSON document, or of documents a line; sometimes its bytes."""
    lines = data.split(b"\n") if data.startswith(b'{"event"') else [data]
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(lines))
        match rng.randrange(8):
            case 0:
                lines[at] = mutate(lines[at], rng)
            case 1 if len(lines) > 1:
                lines[at], lines[at - 1] = lines[at - 1], lines[at]
            case 2:
                lines[at] = _deepen(lines[at], rng)
            case _:
                lines[at] = _change(lines[at], rng)
    return b"\n".join(lines)


def _change(data: bytes, rng: random.Random) -> bytes:
    """One value replaced, left out, doubled, or given another name."""
    try:
        tree = json.loads(data)
        holder, key = rng.choice(list(_places(tree)))
    except (ValueError, IndexError, RecursionError):
        return data
    match rng.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[rng.choice(("x", "model", "loras", "script", ""))] = holder.pop(key)
        case 2 if isinstance(holder, list):
            holder.insert(key, holder[key])
        case 3 if isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
            holder[key] += rng.choice((1, -1, 0.5, 1000))
        case _:
            alike = [odd for odd in ODD if type(odd) is type(holder[key])]
            holder[key] = rng.choice(alike if alike and rng.random() < 0.7 else ODD)
    return json.dumps(tree).encode("utf-8", "surrogatepass")


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every value as what holds it and its key."""
    for key, value in (
        list(tree.items()) if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    ):
        yield tree, key
        yield from _places(value)


def _deepen(data: bytes, rng: random.Random) -> bytes:
    """A value many levels deep."""
    depth = rng.choice((20, 300, 50_000))
    return data.replace(b": {", b": " + b'{"a": ' * depth + b"{", 1) if rng.random() < 0.5 else data + b"[" * depth


class Opened(UsageMistake):
    """The engine would be opened now."""


def open_nothing(request: EngineRequest, seed: int = 0) -> NoReturn:
    """Look at what the engine is asked for, in its place.

    Raises:
        AssertionError: what no record may ask for.
        Opened: all is well.
    """
    assert request.model == "embedded", f"a record opened the model {request.model!r}"
    assert request.offline, "a record may start a download"
    assert request.threads is None or 1 <= request.threads <= MOST_THREADS, f"{request.threads} threads"
    assert request.device in DEVICES, f"device {request.device!r}"
    for side in (request.height, request.width):
        assert side is None or 8 <= side <= LARGEST_SIDE, f"{side} pixels"
    assert 0 <= seed < 2**63, f"seed {seed}"
    raise Opened("All is well so far, and the engine would be opened now. Do so.")


def a_sidecar(film: Path) -> bytes:
    """The .json of a film of the log in fuzz_live.py, whole and consistent; its picture goes to `film`."""
    taken = record_of_log(parse_log(a_log(), "a log"), "a log")
    config = taken.config.model_copy(update={"scale": 1})
    timeline = Timeline(16, _RHYTHM, config.frames)
    starts = [_RHYTHM.start_frame(chunk) for chunk in range(timeline.chunks + 1)]
    begins = [shot.actual.chunk for shot in taken.shots]
    chunks = [
        sidecar.ChunkRecord(
            index=chunk,
            epoch=0,
            latent=(_RHYTHM.start(chunk), _RHYTHM.start(chunk + 1)),
            frames=(starts[chunk], starts[chunk + 1]),
            shown=min(starts[chunk + 1], config.frames) - starts[chunk],
            prompt=[shot.prompt for shot, begin in zip(taken.shots, begins, strict=True) if begin <= chunk][-1],
            sha256=f"{chunk:064x}",
            drift=None,
            memory=1,
            seconds={},
        )
        for chunk in range(timeline.chunks)
    ]
    writer = FilmWriter(film.with_suffix(".part.mp4"), height=96, width=96, fps=Fraction(16))
    writer.write(np.zeros((config.frames, 96, 96, 3), np.uint8))
    writer.close()
    about = taken.film.model_copy(update={"file": film.name, "scale": 1, "sha256": sidecar.film_hash(chunks)})
    record = sidecar.Sidecar(
        **{name: getattr(taken, name) for name in ("format", "seed", "model", "versions", "machine", "shots")},
        status="whole",
        config=config,
        film=about,
        pictures=picture_record(film.with_suffix(".part.mp4"), [chunk.shown for chunk in chunks]),
        chunks=chunks,
        timing=sidecar.Timing(load=1, first_frame=1, render=1, fps=1),
    )
    join([film.with_suffix(".part.mp4")], film, metadata={"rivulet": sidecar.carried(record)})
    return record.model_dump_json().encode()


@contextmanager
def records() -> Iterator[dict[str, tuple[bytes, Target]]]:
    """Good records of every kind and what reads them, in a folder that is there meanwhile."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        film, alone = folder / "film.mp4", folder / "alone"
        alone.mkdir()
        beside = a_sidecar(film)
        told = read_metadata(film)["rivulet"].encode()
        yield {
            "sidecar": (beside, partial(_read, lambda data: _written(alone / "other.json", data))),
            "sidecar beside its film": (beside, partial(_read, lambda data: _beside(film, data))),
            "sidecar, changed settings": (beside, partial(_read_changed, alone / "other.json")),
            "metadata": (told, partial(_read, lambda data: _carrying(film, alone / "tags.mp4", data))),
            "session.jsonl": (a_log(), partial(_replay_log, alone / "session.jsonl")),
        }


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _beside(film: Path, data: bytes) -> Path:
    film.with_suffix(".json").write_bytes(data)
    return film


def _carrying(film: Path, path: Path, data: bytes) -> Path:
    join([film.with_suffix(".part.mp4")], path, metadata={"rivulet": data.decode("utf-8", "replace")})
    return path


def _read(place: Callable[[bytes], Path], data: bytes, name: str) -> None:
    """As `rivulet replay FILE --check` does, up to the engine."""
    path = place(data)
    with suppress(Opened):
        replay(path, path.with_name("new.mp4"), check=True, overwrite=True, console=_silent(), opener=open_nothing)


def _read_changed(path: Path, data: bytes, name: str) -> None:
    """As `rivulet replay FILE crf=30` does."""
    path.write_bytes(data)
    layers = [given_by_flags({"crf": 30})]
    new = path.with_name("new.mp4")
    with suppress(Opened):
        replay(path, new, check=False, overwrite=True, console=_silent(), changes=layers, opener=open_nothing)


def _replay_log(path: Path, data: bytes, name: str) -> None:
    """As `rivulet replay session.jsonl --check` does."""
    path.write_bytes(data)
    with suppress(Opened):
        replay_log(path, path.with_name("new.mp4"), check=True, overwrite=True, console=_silent(), opener=open_nothing)


def _silent() -> Console:
    return Console(file=StringIO(), width=200)
