"""Sidecar, the JSON file beside a film: everything needed to make the same film again and to prove that it is the
same.

A strict schema rather than a loose dict, because programs will read it back: unknown or missing entries of a
file from another version are an error there, not a surprise later; and whoever made a file may be anybody, so its
values pass the readers of the flags (app/record/fields.py).
"""

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from app.atomic import write_text
from app.errors import UsageMistake, printable, shorten_path
from app.record import fields as recorded
from app.record.beginning import BeginningRecord
from app.record.held import MOST_PLANS, PlanRecord
from app.record.video import VideoRecord
from app.script.timeline import Timecode, Timeline
from pipelines.types import prompt_text

Format = Literal[3, 4]
FORMAT: Format = 4
"""What is written; 3, which knew nothing of the pictures in the file, is still read."""
_LIBRARIES = ("rivulet", "torch", "diffusers", "numpy", "av")


_HASH_BYTES = 64
_ONLY_BESIDE: Any = {"chunks": True, "timing": True, "film": {"file", "file_sha256"}, "pictures": {"chunks"}}
"""What the .json has and the film itself does not: what grows with its length, or is known when it is finished."""

Kind = TypeVar("Kind", bound="Carried")


class _Record(BaseModel):
    model_config = recorded.STRICT


class TimecodeRecord(_Record):
    """One moment in seconds, pixel frame, latent frame and chunk."""

    second: recorded.Seconds
    frame: recorded.Count
    latent: recorded.Count
    chunk: recorded.Count


class ShotRecord(_Record):
    """One prompt, where it was asked to begin and where it began."""

    prompt: str
    requested: TimecodeRecord
    actual: TimecodeRecord


class ReusedRecord(_Record):
    """What a feature cache did for a chunk: of so many layers and passes, how many used features again."""

    layers: recorded.Count
    of_layers: recorded.Count
    passes: recorded.Count
    of_passes: recorded.Count


class ChunkRecord(_Record):
    """One chunk: `latent` and `frames` are [first, past the last] of the whole film, `shown` how many are in
    it.

    `sha256` is of the chunk's uint8 RGB frames as the engine gave them, before trimming, scaling and
    encoding. `memory` is the bytes in use when it was done, of the device that computes. `said` is what a controller
    decided with it, `reused` what a feature cache did, where there is one.
    """

    index: recorded.Count
    epoch: recorded.Count
    latent: tuple[recorded.Count, recorded.Count]
    frames: tuple[recorded.Count, recorded.Count]
    shown: recorded.Count
    prompt: str
    sha256: str
    drift: float | None
    memory: int
    seconds: dict[str, float]
    said: str = ""
    reused: ReusedRecord | None = None


class FilmRecord(_Record):
    """The film; `sha256` is as of `film_hash`, height and width are the engine's.

    It does not carry its own name, nor `file_sha256`, which is of every byte of its file ("" for a folder of pictures).
    """

    file: str = ""
    file_sha256: str = ""
    frames: recorded.Frames
    seconds: recorded.Seconds
    fps: recorded.Fps
    height: recorded.Height
    width: recorded.Width
    scale: recorded.Enlarged
    crf: recorded.Crf
    sha256: str


class PictureRecord(_Record):
    """The pictures of the finished file as a decoder shows them (app/record/pictures.py): all that a person sees.

    `chunks` are the sha256 of every chunk's decoded frames, `sha256` is over these and how many frames each has; both
    are empty where the film was not decoded, because it ended early or is a recording. `packets` is of an MP4's coded
    pictures, their times and the decoder's headers: H.264 says exactly what a decoder makes of these, so another
    version of the decoder can still vouch for them. `layout` is size and pixel format, `decoder` its library.
    """

    frames: recorded.Count
    sha256: str = ""
    chunks: list[str] = []
    packets: str = ""
    layout: recorded.Name
    decoder: recorded.Name


class ModelRecord(_Record):
    """The model's name or folder, and the checksum over its weight files."""

    name: recorded.ModelName
    sha256: str


class Config(_Record):
    """Every setting that decides the frames and the file, resolved: no `auto`, no -1.

    `script` is the native shot list, `knobs` and `system` are the preset as it was used: by name, and spelled out.
    `fps` is a fraction, `scale` the enlargement that was asked for (0 = as is pleasant), `segment_chunks` how many
    chunks an encoder lasts, `video` what the film was made of, `beginning` what it began with. `lora`, `vae`,
    `use_ema`, `vram` and `attention` are as they were given, `parallel` is the plan that spread it over ranks, if one
    did, `plans` how it was held in memory and from which chunk on, where `vram` or a lack of memory decided that.
    `encoder_preset` is x264's.
    """

    script: str
    frames: recorded.Frames
    preset: recorded.Name
    knobs: dict[str, Any]
    system: dict[str, Any]
    untrained: bool
    device: recorded.Device
    threads: recorded.Threads
    height: recorded.Height | None
    width: recorded.Width | None
    fps: recorded.FrameRate
    scale: recorded.Scale
    crf: recorded.Crf
    segment_chunks: recorded.SegmentChunks
    video: VideoRecord | None = None
    lora: recorded.Loras = []
    vae: recorded.VaeName = "auto"
    use_ema: bool | None = None
    beginning: BeginningRecord | None = None
    vram: recorded.Vram | None = None
    parallel: recorded.ParallelPlan = ""
    attention: recorded.Attention = "auto"
    plans: Annotated[list[PlanRecord], Field(max_length=MOST_PLANS)] = []
    encoder_preset: recorded.EncoderPreset = "veryfast"


class Timing(_Record):
    """How long it took, in seconds of wall time; the only part that differs between two equal runs.

    `pictures` is what reading the finished pictures back cost, after `render`.
    """

    load: float
    first_frame: float
    render: float
    fps: float
    pictures: float = 0.0


class Carried(_Record):
    """What the film itself carries: all that makes it again, the same for two equal renders."""

    format: Format
    status: recorded.Name
    seed: recorded.Seed
    config: Config
    model: ModelRecord
    versions: dict[str, str]
    machine: dict[str, str | int]
    film: FilmRecord
    pictures: PictureRecord | None = None
    shots: list[ShotRecord]


class Sidecar(Carried):
    """The whole file."""

    chunks: list[ChunkRecord]
    timing: Timing


def sidecar_path(film: Path) -> Path:
    """Return where the sidecar of a film lies: out.mp4 has out.json."""
    return beside(film, ".json")


def beside(film: Path, ending: str) -> Path:
    """A file beside a film that belongs to no other: out.mp4 has out.json, out.gif and out_%06d.png their whole name.

    So has an .mp4 that would otherwise share with one of these, as out.gif.mp4 would with out.gif.
    """
    short = film.suffix == ".mp4" and Path(film.stem).suffix.lower() not in (".mp4", ".gif", ".webp", ".png")
    return film.with_name(f"{film.stem if short else film.name}{ending}")


def film_hash(chunks: Iterable[ChunkRecord]) -> str:
    """sha256 over every chunk's hash and how many of its frames are shown: equal for equal films, and for no others."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(f"{chunk.sha256} {chunk.shown}\n".encode())
    return digest.hexdigest()


def shot_records(timeline: Timeline) -> list[ShotRecord]:
    """Turn the timeline's shots into records."""
    return [
        ShotRecord(prompt=prompt_text(shot.prompt), requested=_timecode(shot.requested), actual=_timecode(shot.actual))
        for shot in timeline.shots
    ]


def library_versions() -> dict[str, str]:
    """Return the versions that can change a pixel; `rivulet` run from an uninstalled checkout says so."""
    return {"python": platform.python_version()} | {name: _version(name) for name in _LIBRARIES}


@cache  # a fifth of a short render is else spent on reading what the libraries say of themselves
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def machine() -> dict[str, str | int]:
    """Return what of the machine decides bits and speed."""
    return {"system": platform.system(), "cpu": _cpu_name(), "cores": os.cpu_count() or 0}


def one_line(data: Mapping[str, Any]) -> str:
    """One line of JSON for programs."""
    return json.dumps(data, separators=(",", ":"))


def write(sidecar: Sidecar, path: Path) -> None:
    """Write the file whole or not at all."""
    write_text(path, sidecar.model_dump_json(indent=2) + "\n")


def written_bytes(chunk: ChunkRecord) -> int:
    """What a chunk takes in the file that `write` makes, and the hash of its pictures."""
    text = chunk.model_dump_json(indent=2)
    return len(text.encode()) + 4 * text.count("\n") + len("    ,\n") + len('      "",\n') + _HASH_BYTES


def read(path: Path) -> Sidecar:
    """Read a sidecar back.

    Raises:
        UsageMistake: another version wrote it, or it is damaged.
        OSError: it cannot be read.
    """
    return read_sidecar(recorded.record_bytes(path), str(path))


def read_sidecar(data: bytes, source: str) -> Sidecar:
    """What `read` does with the bytes of the file; `source` says where they came from, for errors."""
    return _parse(Sidecar, data, source)


def read_carried(text: str, source: str) -> Carried:
    """Read what a film carries; `source` says where it came from, for errors.

    Raises:
        UsageMistake: another version wrote it, or it is damaged.
    """
    return _parse(Carried, text, source)


def carried(record: Carried) -> str:
    """What goes into the film itself."""
    return record.model_dump_json(exclude=_ONLY_BESIDE)


def same_as_carried(record: Carried) -> dict[str, Any]:
    """What a film and the .json beside it both say, to hold one against the other."""
    return json.loads(carried(record))


def _parse(kind: type[Kind], data: str | bytes, source: str) -> Kind:
    try:
        return kind.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise UsageMistake(
            f"{printable(shorten_path(source))}: {recorded.told(error)}. It is damaged or from another version of "
            f"Rivulet (this one reads format 3 and {FORMAT}); render the film again from its prompts."
        ) from None


def _timecode(timecode: Timecode) -> TimecodeRecord:
    return TimecodeRecord(second=timecode.second, frame=timecode.frame, latent=timecode.latent, chunk=timecode.chunk)


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        if names:
            return names[0]
    return platform.processor() or platform.machine()
