"""A render job as it lies on the disk: what was asked, how far it is, and the command line that renders it.

Whoever asks may be anybody who reaches the port, so a request names nothing on this machine: prompts travel in a file
of the job's folder, models are names of the catalogue, and settings that are paths do not exist here.
"""

import json
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.config.nodes import LARGEST_FILE
from app.config.readers import check_enlarged, choose
from app.config.settings import Resolved, given_by_flags, resolve
from app.config.table import TABLE
from app.errors import UsageMistake, shorten
from app.loading.model import rhythm_of
from app.script.importers import parse_script
from app.script.script import SOFT_CHUNKS, Script
from app.script.timeline import Timeline
from app.script.timeline import resolve as place_shots
from pipelines.types import TRANSITIONS, Transition

BEGINNING = "beginning"
"""The file, in a job's folder, that its film begins with."""
FILM = "--output=film.mp4"
"""By which a render in a job's folder is known, too."""
Status = Literal["queued", "in_progress", "paused", "completed", "failed", "cancelled"]
SETTINGS = tuple(entry.name for entry in TABLE.values() if entry.job == "settings")
"""What `settings` of a request may hold: everything that decides pictures, nothing that is a path or of the machine."""

ScriptKind = Literal["yaml", "txt", "jsonl", "json", "csv", "tsv", "srt", "vtt"]
"""Endings of the scripts that app/script/importers.py reads; txt covers all that can be told from its content."""

Setting = bool | int | float | str | list[float]


class VideoRequest(BaseModel):
    """What to render: `prompt` (several share the film) or a `script`, and how.

    The names are those of OpenAI's video API where it has one; `settings` are flags of `rivulet render`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str | list[str] | None = Field(None, description="What to show; several share the film equally.")
    script: str | None = Field(None, description="A whole script instead, as text.")
    script_kind: ScriptKind = Field("yaml", description="What the script is written in.")
    seconds: float | None = Field(None, description="Length; the script's own, or 20 s.")
    size: str | None = Field(None, max_length=20, description="WIDTHxHEIGHT; the model's own where it is left out.")
    seed: int | None = Field(None, description="-1 draws one; 42 where it is left out.")
    preset: str | None = Field(None, max_length=80, description="Streaming system, as `rivulet presets` lists them.")
    model: str | None = Field(None, max_length=200, description="A model of the catalogue; the preset's own.")
    transition: str | None = Field(None, max_length=20, description="How a prompt takes over.")
    transition_chunks: int | None = Field(None, description="Length of a soft transition.")
    beginning: str | None = Field(
        None,
        pattern="^(image|extend)-[0-9a-f]{64}$",
        description="What the film begins with: the `id` that POST /v1/beginnings answered with.",
    )
    name: str | None = Field(None, max_length=200, description="For lists; the first prompt where it is left out.")
    settings: dict[str, Setting] = Field(
        default_factory=dict, max_length=len(SETTINGS), description=f"Further flags: {', '.join(SETTINGS)}."
    )


class Job(BaseModel):
    """A render job; what the disk keeps, and what a client sees.

    Moments are unix seconds, `progress` is percent, `position` counts the queue from 0 (None: not in it), `bytes` is
    what its folder takes, `error` one sentence. `rank` orders the queue, `process` is (pid, its start) of the render.
    """

    model_config = ConfigDict(extra="ignore")

    id: str
    object: Literal["video"] = "video"
    name: str
    status: Status = "queued"
    request: VideoRequest
    created_at: float
    started_at: float | None = None
    completed_at: float | None = None
    seconds: float
    size: str
    seed: int
    preset: str
    model: str
    shots: int
    frames: int
    chunks: int
    frames_done: int = 0
    chunk: int = 0
    progress: float = 0.0
    fps: float | None = None
    eta_seconds: float | None = None
    drift: float | None = None
    bytes: int = 0
    position: int | None = None
    error: str | None = None
    rank: float = 0.0
    process: tuple[int, float] | None = None


def new_name() -> str:
    """A name for a job."""
    return f"video_{secrets.token_hex(12)}"


def new_job(job_id: str, request: VideoRequest, *, models: Sequence[str]) -> Job:
    """The job that a request asks for, judged as `rivulet render --dry_run` does before it loads the model.

    Raises:
        UsageMistake: it cannot be rendered; one sentence and one action.
    """
    resolved, _, timeline = place(request, models=models)
    settings = resolved.settings
    first = timeline.shots[0].prompt
    shown = request.name or (first if isinstance(first, str) else first[0][0])
    return Job(
        id=job_id,
        name=shorten(" ".join("".join(c if c.isprintable() else " " for c in shown).split()), 80),
        request=request,
        created_at=time.time(),
        seconds=round(timeline.frames / timeline.fps, 3),
        size=f"{settings.width}x{settings.height}",
        seed=settings.seed,
        preset=settings.preset,
        model=settings.model or resolved.preset.model,
        shots=len(timeline.shots),
        frames=timeline.frames,
        chunks=timeline.chunks,
        rank=time.time(),
    )


def place(request: VideoRequest, *, models: Sequence[str]) -> tuple[Resolved, Script, Timeline]:
    """The settings that hold, the script as it was read, and where its shots come to stand; loads no model.

    Raises:
        UsageMistake: see new_job.
    """
    if request.model is not None:
        choose(request.model, models, "model")  # a name, never a folder of this machine
    resolved = resolve([given_by_flags(_flags(request))])
    settings = resolved.settings
    check_enlarged("scale", settings.height, settings.width, settings.scale)
    script = _script(request, resolved)
    timeline = place_shots(
        script,
        length=settings.length,
        fps=float(Fraction(settings.fps or 16)),
        rhythm=rhythm_of(resolved.preset),
    )
    return resolved, script, timeline


def load(folder: Path) -> Job | None:
    """The job in a folder; one that was half made or half deleted is removed, a damaged one is shown as failed."""
    file = folder / "job.json"
    if not file.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        return None
    try:
        job = Job.model_validate_json(file.read_bytes())
    except (ValidationError, OSError):
        return Job(
            id=folder.name,
            name="damaged job",
            status="cancelled",
            request=VideoRequest.model_validate({}),
            created_at=file.stat().st_mtime,
            seconds=0,
            size="",
            seed=0,
            preset="",
            model="",
            shots=0,
            frames=0,
            chunks=0,
            error="Its job.json cannot be read. Delete the job.",
        )
    return job.model_copy(update={"id": folder.name})


def script_file(request: VideoRequest) -> tuple[str, str]:
    """Name and text of the script that the render reads."""
    if request.script is not None:
        return f"script.{request.script_kind}", request.script
    prompts = [request.prompt] if isinstance(request.prompt, str) else request.prompt
    return "script.jsonl", json.dumps({"prompts": prompts}, ensure_ascii=False) + "\n"


def render_words(request: VideoRequest) -> list[str]:
    """The arguments of `rivulet` that render a request in its folder; no word of them is a person's own text."""
    words = ["render", f"--script={script_file(request)[0]}", FILM, "--offline"]
    if request.beginning is not None:
        words.append(f"--{request.beginning.partition('-')[0]}={BEGINNING}")
    flags = {name: value for name, value in _flags(request).items() if name != "prompt"}
    for name, given in given_by_flags(flags).items():
        value = given.value  # as app/config/readers.py read it: a number, a word or a list of numbers
        if value is False and not TABLE[name].denied:
            continue  # there is no such flag, and nothing else is meant where it is left out
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no_{name}")
        elif isinstance(value, tuple):
            words.append(f"--{name}={','.join(map(str, cast('tuple[float, ...]', value)))}")
        else:
            words.append(f"--{name}={value}")
    return words


def _flags(request: VideoRequest) -> dict[str, Any]:
    """The flags of `rivulet render` that say the same as a request."""
    for name in request.settings:
        choose(name, SETTINGS, "setting")
    if (request.prompt is None) == (request.script is None):
        raise UsageMistake("Say what to show, once: give either a prompt or a script.")
    flags: dict[str, Any] = {
        "prompt": request.prompt,
        "size": request.size,
        "seed": request.seed,
        "preset": request.preset,
        "model": request.model,
        "transition": request.transition,
        "transition_chunks": request.transition_chunks,
        # A length is plain digits to the command line, which has no word for 1e-07.
        "duration": None if request.seconds is None else f"{request.seconds:.6f}s",
    }
    return flags | request.settings


def _script(request: VideoRequest, resolved: Resolved) -> Script:
    name, text = script_file(request)
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise UsageMistake("The prompt or script holds bytes that are not text. Type it again as UTF-8.") from None
    if size > LARGEST_FILE:
        raise UsageMistake(f"{size} bytes are too many for prompts or a script. Give at most {LARGEST_FILE}.")
    scripts = parse_script(text, name)
    if len(scripts) != 1:
        raise UsageMistake(f"This script holds {len(scripts)} films. Make a job of each.")
    if (pictures := scripts[0].pictures) is not None:
        raise UsageMistake(
            f"{pictures.place}: a job opens no file of this machine. Take {pictures.kind} out, or render it with "
            "rivulet render."
        )
    if "transition" not in resolved.given:
        return scripts[0]
    kind, chunks = resolved.settings.transition, resolved.settings.transition_chunks
    length = (SOFT_CHUNKS if chunks is None else chunks) if kind == "soft" else 0
    return replace(scripts[0], transition=Transition(choose(kind, TRANSITIONS, "transition"), length))
