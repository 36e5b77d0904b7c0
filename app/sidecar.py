"""The JSON file beside a film: everything needed to make the same film again and to prove that it is the
same.

A strict schema rather than a loose dict, because programs will read it back: unknown or missing entries of a
file from another version are an error there, not a surprise later.
"""

import os
import platform
from dataclasses import fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from app.timeline import Place, Timeline

FORMAT = 1
_LIBRARIES = ("rivulet", "torch", "diffusers", "numpy", "av")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PlaceRecord(_Record):
    """One moment in seconds, pixel frame, latent frame and chunk."""

    second: float
    frame: int
    latent: int
    chunk: int


class ShotRecord(_Record):
    """One prompt, where it was asked to begin and where it began."""

    prompt: str
    requested: PlaceRecord
    actual: PlaceRecord


class ChunkRecord(_Record):
    """One chunk: `latent` and `frames` are [first, past the last] of the whole film, `shown` how many are in
    it.

    `sha256` is of the chunk's uint8 RGB frames as the engine gave them, before trimming, scaling and
    encoding.
    """

    index: int
    epoch: int
    latent: tuple[int, int]
    frames: tuple[int, int]
    shown: int
    prompt: str
    sha256: str
    drift: float | None
    seconds: dict[str, float]


class FilmRecord(_Record):
    """The film: `sha256` is of all shown uint8 RGB frames in order, `height` and `width` are the engine's."""

    file: str
    frames: int
    seconds: float
    fps: float
    height: int
    width: int
    scale: int
    crf: int
    sha256: str


class ModelRecord(_Record):
    """The model's name or folder, and the checksum over its weight files."""

    name: str
    sha256: str
    untrained: bool


class Config(_Record):
    """Every setting that decides the frames, resolved: no `auto`, no -1; `system` is the preset spelled out."""

    prompts: list[str]
    duration: str
    preset: str
    transition: str
    transition_chunks: int
    device: str
    threads: int
    system: dict[str, Any]


class Timing(_Record):
    """How long it took, in seconds of wall time; the only part that differs between two equal runs."""

    load: float
    first_frame: float
    render: float
    fps: float


class Sidecar(_Record):
    """The whole file."""

    format: int
    status: str
    seed: int
    config: Config
    model: ModelRecord
    versions: dict[str, str]
    machine: dict[str, str | int]
    film: FilmRecord
    shots: list[ShotRecord]
    chunks: list[ChunkRecord]
    timing: Timing


def sidecar_path(film: Path) -> Path:
    """Return where the sidecar of a film lies: out.mp4 has out.json."""
    return film.with_suffix(".json")


def shot_records(timeline: Timeline) -> list[ShotRecord]:
    """Turn the timeline's shots into records."""
    return [
        ShotRecord(prompt=shot.prompt, requested=_place(shot.requested), actual=_place(shot.actual))
        for shot in timeline.shots
    ]


def as_data(value: Any) -> Any:
    """Spell out a preset or a policy: its fields, and the class where that is what decides."""
    if is_dataclass(value) and not isinstance(value, type):
        return {"kind": type(value).__name__} | {
            field.name: as_data(getattr(value, field.name)) for field in fields(value)
        }
    return list(value) if isinstance(value, tuple) else value  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def library_versions() -> dict[str, str]:
    """Return the versions that can change a pixel; `rivulet` run from an uninstalled checkout says so."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def machine() -> dict[str, str | int]:
    """Return what of the machine decides bits and speed."""
    return {"system": platform.system(), "cpu": _cpu_name(), "cores": os.cpu_count() or 0}


def write(sidecar: Sidecar, path: Path) -> None:
    """Write the file whole or not at all."""
    half = path.with_name(f".{path.name}.tmp")
    try:
        with half.open("w", encoding="utf-8") as file:
            file.write(sidecar.model_dump_json(indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)


def read(path: Path) -> Sidecar:
    """Read a sidecar back; pydantic's ValidationError names every entry that does not fit."""
    return Sidecar.model_validate_json(path.read_text(encoding="utf-8"))


def _place(place: Place) -> PlaceRecord:
    return PlaceRecord(second=place.second, frame=place.frame, latent=place.latent, chunk=place.chunk)


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        if names:
            return names[0]
    return platform.processor() or platform.machine()
