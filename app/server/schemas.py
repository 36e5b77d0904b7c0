"""Schemas of JSON answers, as /openapi.json shows them; tests hold real answers against every one.

Answers that may be large are written as JSON elsewhere (app/server/bodies.py) and never pass through these.
"""

from typing import Literal

from pydantic import BaseModel, Field

from app.jobs.job import Job, VideoRequest
from pipelines.types import TransitionKind

Prompt = str | list[tuple[str, float]]
"""A text, or several with their weights."""


class Health(BaseModel):
    """The server answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Whether films can be made."""

    ready: bool


class Detail(BaseModel):
    """Why a picture or a file is not given."""

    detail: str


class JobError(BaseModel):
    """Why a job has failed."""

    code: str
    message: str


class ShownJob(Job):
    """A render job as clients see it; `binned`: its film lies in the gallery's bin."""

    binned: bool = False
    error: JobError | None = None  # type: ignore[assignment]  # told with a code
    rank: float = Field(0.0, exclude=True)
    process: tuple[int, float] | None = Field(None, exclude=True)


class JobList(BaseModel):
    """All jobs, the newest first."""

    object: Literal["list"] = "list"
    data: list[ShownJob]


class DeletedJob(BaseModel):
    """A job that is no more."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


class HowItTakesOver(BaseModel):
    """A transition; `chunks` is the length of a soft one."""

    kind: TransitionKind
    chunks: int


class Shot(BaseModel):
    """A prompt and the second at which it begins."""

    at: float
    prompt: Prompt
    transition: HowItTakesOver


class Restored(BaseModel):
    """What a film was made with; `request` can be sent to POST /v1/videos as it is."""

    object: Literal["film.restored"] = "film.restored"
    kind: str
    seconds: float
    fps: float
    frames: int
    request: VideoRequest
    shots: list[Shot]
    notes: list[str]


class Moment(BaseModel):
    """One moment of a film: its second, pixel frame, latent frame and chunk."""

    second: float
    frame: int
    latent: int
    chunk: int


class RhythmOfChunks(BaseModel):
    """Latent frames of the first chunk and of every later one."""

    first: int
    chunk: int


class PlannedShot(BaseModel):
    """Where a shot was asked to begin, where it does, and for how many chunks it stays."""

    shot: int
    prompt: Prompt
    requested: Moment
    actual: Moment
    chunks: int
    transition: HowItTakesOver
    parameters: dict[str, float]


class Totals(BaseModel):
    """Of a whole film."""

    shots: int
    seconds: float
    frames: int
    latent_frames: int
    chunks: int


class PlannedBlend(BaseModel):
    """A chunk in which one prompt blends into that of a shot."""

    shot: int
    chunk: int


class Plan(BaseModel):
    """What a film would become, without a model; `written_as` names the notation of its script."""

    written_as: str
    fps: float
    rhythm: RhythmOfChunks
    shots: list[PlannedShot]
    blends: list[PlannedBlend]
    totals: Totals
    estimate: None = None
    notes: list[str]


class CheckedBlend(Moment):
    """A chunk in which one prompt blends into that of a shot, with the weights of both."""

    shot: int
    weights: list[tuple[str, float]]


class Cost(BaseModel):
    """What a render takes; `unknown` are words that the model does not know, each with the nearest that it does."""

    seconds: float
    disk_bytes: int
    film_bytes: int
    memory_bytes: int
    basis: str
    unknown: dict[str, list[str]]


class Needs(BaseModel):
    """What of one kind of memory a model needs and what there is, in bytes."""

    kind: str
    needs: int
    has: int


class Fits(BaseModel):
    """What this machine can do with a model; `fps_computed` is computed, not measured."""

    verdict: str
    preset: str
    device: str
    plan: str | None
    traded: list[str]
    rooms: list[Needs]
    fps_computed: float | None


class Check(BaseModel):
    """What a film would become, and what it would cost."""

    fps: float
    rhythm: RhythmOfChunks
    shots: list[PlannedShot]
    blends: list[CheckedBlend]
    totals: Totals
    estimate: Cost | None
    notes: list[str]
    verdict: Fits | None


class ShotOfChunks(BaseModel):
    """A prompt and the chunk with which it begins."""

    chunk: int
    prompt: str


class MadeChunk(BaseModel):
    """A chunk that was made: its first pixel frame, how many it has, how many are in the film (`shown`), seconds in the
    engine, drift, bytes of memory, and the sha256 of its pixels."""

    chunk: int
    frame: int
    frames: int
    shown: int
    seconds: float
    drift: float | None
    memory: int
    sha256: str


class MadeChunks(BaseModel):
    """What a render has made so far; `blends` are chunks."""

    object: Literal["list"] = "list"
    fps: float
    chunks: int
    shots: list[ShotOfChunks]
    blends: list[int]
    data: list[MadeChunk]
