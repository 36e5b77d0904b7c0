"""Fields of records: the values of a sidecar, of a film's tags and of a session log, read as flags are.

Whoever made a file may be anybody, so nothing in it is believed: every value passes the reader of the flag of the same
name (app/config/readers.py), and what has no flag has its bounds here.
"""

import stat
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, ValidationError

from app.config.lengths import FASTEST_FPS, LONGEST_SECONDS
from app.config.readers import SEED_LIMIT, VIEWING_SIDE
from app.config.table import READERS
from app.errors import UsageMistake, printable, shorten, shorten_path
from pipelines.memory_plan import read_memory_plan

LARGEST_RECORD = 256 * 2**20
"""Bytes of a sidecar or a log; those of a day of film are a third of this."""
STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
"""Of every model that is read from a file: nothing unknown, nothing infinite."""


def _as_flag(name: str) -> AfterValidator:
    """Whatever the flag `name` refuses is refused in its words."""

    def check(value: Any) -> Any:
        try:
            READERS[name](name, value)
        except UsageMistake as mistake:
            raise ValueError(str(mistake)) from None
        return value

    return AfterValidator(check)


def _check_plan(value: str) -> str:
    """Read as the flag; empty: none."""
    if value:
        READERS["parallel"]("parallel", value)
    return value


_as_plan = AfterValidator(_check_plan)


def _check_held(value: str) -> str:
    """Read as a plan's words."""
    if read_memory_plan(value).written != value:
        raise ValueError(f"{shorten(printable(value), 40)} is no memory plan")
    return value


HeldAs = Annotated[str, AfterValidator(_check_held)]
Threads = Annotated[int, _as_flag("threads")]
Height = Annotated[int, _as_flag("height")]
Width = Annotated[int, _as_flag("width")]
Scale = Annotated[int, _as_flag("scale")]
Enlarged = Annotated[int, Field(ge=1, le=VIEWING_SIDE // 8)]
"""What became of `scale` 0: the smallest pictures are enlarged most."""
Crf = Annotated[int, _as_flag("crf")]
EncoderPreset = Annotated[str, _as_flag("encoder_preset")]
SegmentChunks = Annotated[int, _as_flag("segment_chunks")]
FrameRate = Annotated[str, _as_flag("fps")]
Device = Annotated[str, _as_flag("device")]
ModelName = Annotated[str, _as_flag("model")]
LoraName = Annotated[str, _as_flag("lora")]
Loras = Annotated[list[LoraName], Field(max_length=16)]
Vram = Annotated[str, _as_flag("vram")]
Attention = Annotated[str, _as_flag("attention")]
VaeName = Annotated[str, _as_flag("vae")]
ParallelPlan = Annotated[str, _as_plan]
Name = Annotated[str, Field(max_length=200)]
Seed = Annotated[int, Field(ge=0, lt=SEED_LIMIT)]
Fps = Annotated[float, Field(ge=1, le=FASTEST_FPS)]
Count = Annotated[int, Field(ge=0, le=LONGEST_SECONDS * FASTEST_FPS + 1024)]
"""Of frames, latent frames or chunks: a day of film, and the rest of its last chunk."""
Frames = Annotated[int, Field(ge=1, le=LONGEST_SECONDS * FASTEST_FPS)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]
Setting = Annotated[int | float, Field(ge=-1e6, le=1e6)]


def record_bytes(path: Path) -> bytes:
    """The bytes of a file that ought to be a record.

    Raises:
        UsageMistake: it is no ordinary file, or larger than any record.
        OSError: it cannot be read.
    """
    shown = printable(shorten_path(path))
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe or a device may never end
        raise UsageMistake(f"{shown} is not an ordinary file. Give a film, its .json, or a session.jsonl.")
    with path.open("rb") as file:
        data = file.read(LARGEST_RECORD + 1)
    if len(data) > LARGEST_RECORD:
        raise UsageMistake(f"{shown} is larger than any record. Give a film, its .json, or a session.jsonl.")
    return data


def told(error: ValidationError) -> str:
    """The first thing wrong, as `config.crf: crf -5 is out of range`, on one line."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the whole"
    reason = first["msg"]
    if first["type"] == "value_error":  # a reader's sentence and its action, which was meant for a flag
        reason, _, give = str(first.get("ctx", {}).get("error", reason)).partition(". Give ")
        reason = f"{reason} ({give.rstrip('.')})" if give else reason
    else:
        reason = reason[:1].lower() + reason[1:80]
    return shorten(printable(" ".join(f"{where}: {reason}".split())), 200)
