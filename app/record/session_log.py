"""Session log of a live film: session.jsonl, a line an event, from which it can be made again bit for bit.

Controls count from a chunk on, never from a moment of wall time, so they are written down like that. A rewind begins
a branch; what was on screen last is the newest branch behind what it grew from, be that the one before or an older one
that somebody went back to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from app.errors import UsageMistake, printable, shorten_path
from app.loading.live import Knobs, LiveModel
from app.record import fields as recorded
from app.record.sidecar import ModelRecord, library_versions, machine
from pipelines.presets.knobs import LARGEST_CHUNK, MOST_STEPS
from pipelines.types import TIME_SCALE, Controls, Prompt, Transition

Format = Literal[1]
FORMAT: Format = 1
LOG = "session.jsonl"
MOST = TIME_SCALE * LARGEST_CHUNK
"""Frames that a chunk may have."""
MOST_GIVEN = 4096
"""Pictures that a film may begin with."""
MadeOf = Literal["camera", "screen", "file", "picture", "clip"]
InputAction = Literal["begin", "open", "pictures", "leave", "forget"]
RecordingEnd = Literal["asked", "unwatched", "size", "disk", "slow", "over"]
"""A driver; nobody watched; it grew too long; it could not be written; not fast enough; the film ended or was left."""


@dataclass(frozen=True, slots=True)
class ChunkControls:
    """All that decides a chunk beside the stream's state; `seed` counts from the film's beginning."""

    prompt: Prompt
    seed: int
    transition: Transition = Transition()  # noqa: RUF009  # frozen
    guidance_scale: float | None = None
    knobs: Knobs = ()

    @property
    def for_stream(self) -> Controls:
        """As the stream reads them."""
        return Controls(self.prompt, self.transition, self.guidance_scale)


class _Line(BaseModel):
    model_config = recorded.STRICT


class Header(_Line):
    """What the film is made with; `lora` to `vram` as they were given, `plan` how the model was held in memory."""

    event: Literal["take"] = "take"
    format: Format = FORMAT
    preset: recorded.Name
    knobs: dict[str, object]
    system: dict[str, object]
    untrained: bool
    model: ModelRecord
    device: recorded.Device
    threads: recorded.Threads
    height: recorded.Height
    width: recorded.Width
    fps: recorded.Fps
    versions: dict[str, str]
    machine: dict[str, str | int]
    lora: recorded.Loras = []
    vae: recorded.VaeName = "auto"
    use_ema: bool | None = None
    vram: recorded.Vram | None = None
    attention: recorded.Attention = "auto"
    plan: recorded.HeldAs | Literal[""] = ""


class Branched(_Line):
    """From `chunk` on the film is another one than that of branch `parent`; chunk 0 is a new film."""

    event: Literal["branch"] = "branch"
    branch: recorded.Count
    parent: recorded.Count
    chunk: recorded.Count


class Steered(_Line):
    """What holds from `chunk` on, whole."""

    event: Literal["controls"] = "controls"
    branch: recorded.Count
    chunk: recorded.Count
    prompt: str | list[tuple[str, float]]
    transition: tuple[Literal["recache", "soft", "cut", "keep"], recorded.Count]
    guidance_scale: Annotated[float, Field(ge=0, le=100)] | None
    knobs: list[tuple[recorded.Name, recorded.Setting]]
    seed: recorded.Seed

    @classmethod
    def of(cls, controls: ChunkControls, branch: int, chunk: int) -> Self:
        """Write controls down."""
        return cls(
            branch=branch,
            chunk=chunk,
            prompt=controls.prompt if isinstance(controls.prompt, str) else list(controls.prompt),
            transition=(controls.transition.kind, controls.transition.chunks),
            guidance_scale=controls.guidance_scale,
            knobs=list(controls.knobs),
            seed=controls.seed,
        )

    @property
    def controls(self) -> ChunkControls:
        """The controls that were written down."""
        return ChunkControls(
            prompt=self.prompt if isinstance(self.prompt, str) else tuple(self.prompt),
            seed=self.seed,
            transition=Transition(*self.transition),
            guidance_scale=self.guidance_scale,
            knobs=tuple((name, int(value) if float(value).is_integer() else value) for name, value in self.knobs),
        )


class Made(_Line):
    """A chunk: `frames` are [first, past the last] of the film, `sha256` as of `pipelines.types.Chunk`.

    `source` is what it was made of beside words, and `kept` whether the pictures that entered it were recorded.
    """

    event: Literal["chunk"] = "chunk"
    branch: recorded.Count
    chunk: recorded.Count
    frames: tuple[recorded.Count, recorded.Count]
    sha256: str
    drift: float | None = None
    seconds: float
    source: MadeOf | None = None
    kept: bool = False


class Entered(_Line):
    """What a chunk was made of beside words, in the order in which the stream was handed it.

    `begin` hands pictures to a film that has not begun, as the chunks of `parts` latent frames; `open` lets a source in
    whose picture of that moment is named; `pictures` are those of a chunk, by their names in the kept input
    (app/record/kept_input.py), with the `strength` and the `steps` they got; `leave` goes on from words, `forget` drops
    what was on its way to the screen.
    """

    event: Literal["input"] = "input"
    branch: recorded.Count
    chunk: recorded.Count
    action: InputAction
    pictures: Annotated[list[Annotated[str, Field(pattern="^[0-9a-f]{32}$")]], Field(max_length=MOST_GIVEN)] = []
    parts: Annotated[list[Annotated[int, Field(ge=1, le=LARGEST_CHUNK)]], Field(max_length=MOST_GIVEN)] = []
    strength: Annotated[float, Field(gt=0, le=1)] | None = None
    steps: Annotated[int, Field(ge=1, le=MOST_STEPS)] | None = None


class Held(_Line):
    """From the next chunk on, which is `chunk`, the model is held under another memory plan, in every branch."""

    event: Literal["held"] = "held"
    chunk: recorded.Count
    plan: recorded.HeldAs


class Shown(_Line):
    """Of this chunk only the first `frames` were shown: a cut or a new branch took the place of the others."""

    event: Literal["shown"] = "shown"
    branch: recorded.Count
    chunk: recorded.Count
    frames: recorded.Count


class Recorded(_Line):
    """A recording of what was shown ended by `chunk`: its file, its frames, and who or what ended it."""

    event: Literal["recorded"] = "recorded"
    branch: recorded.Count
    chunk: recorded.Count
    name: str
    frames: recorded.Count
    ended: RecordingEnd


class Decided(_Line):
    """What a controller decided about a chunk of a source, and from what."""

    event: Literal["decision"] = "decision"
    branch: recorded.Count
    chunk: recorded.Count
    kind: str
    data: dict[str, float | str | bool]


Line = Header | Branched | Steered | Entered | Made | Held | Shown | Recorded | Decided
Event = TypeVar("Event", Made, Steered)
_EVENT: TypeAdapter[Line] = TypeAdapter(Annotated[Line, Field(discriminator="event")])


def header_of(model: LiveModel) -> Header:
    """What the log begins with."""
    asked = None if model.held is None else model.held.request
    parts: dict[str, Any] = {}
    if asked is not None and model.held is not None:
        parts = {
            "lora": list(asked.loras),
            "vae": asked.vae,
            "use_ema": asked.ema,
            "vram": asked.vram,
            "attention": asked.attention,
            "plan": model.held.plan,
        }
    return Header(
        **parts,
        preset=model.preset,
        knobs=dict(model.knobs),
        system=dict(model.system),
        untrained=model.untrained,
        model=ModelRecord(name=model.name, sha256=model.checksum),
        device=model.device,
        threads=model.threads,
        height=model.height,
        width=model.width,
        fps=model.fps,
        versions=library_versions(),
        machine=machine(),
    )


@dataclass(frozen=True, slots=True)
class LoggedChunk:
    """A chunk that is part of the film: what it was made under, its hash, and how many of its `count` frames, of which
    `first` is the first, were shown; `source` is what it was made of beside words, `entered` how, `kept` whether
    that was recorded, and `plan` how the model was held."""

    index: int
    controls: ChunkControls
    sha256: str
    first: int
    count: int
    shown: int
    source: str | None = None
    kept: bool = False
    entered: tuple[Entered, ...] = ()
    plan: str = ""


@dataclass(frozen=True, slots=True)
class SessionLog:
    """What was on screen last."""

    header: Header
    chunks: tuple[LoggedChunk, ...]


def read_log(path: Path) -> SessionLog:
    """Read a log: of every chunk of the film the branch that was on screen last.

    Raises:
        UsageMistake: it is no such log, is damaged, or nothing was ever shown.
        OSError: it cannot be read.
    """
    return parse_log(recorded.record_bytes(path), str(path))


def parse_log(data: bytes, source: str) -> SessionLog:
    """What read_log does with the bytes of a log; `source` is its name, for errors."""
    header, *events = _events(data, source)
    if not isinstance(header, Header):
        raise UsageMistake(f"{source}, line 1: this is no log of a live film. Give the session.jsonl of one.")
    shown: dict[tuple[int, int], int] = {}
    entered: dict[tuple[int, int], list[Entered]] = {}
    plans, plan = dict[tuple[int, int], str](), header.plan
    made: _Chain[Made] | None = None
    steered: _Chain[Steered] | None = None
    now, left = 0, dict[int, tuple[_Chain[Made] | None, _Chain[Steered] | None]]()
    for event in events:
        if isinstance(event, Branched):
            left[now] = (made, steered)
            made, steered = left.get(event.parent, left[now])
            made, steered = _before(made, event.chunk), _before(steered, event.chunk)  # what lay behind is off screen
            now = event.branch
        elif isinstance(event, Made):
            made, plans[event.branch, event.chunk] = _Chain(event, made), plan
        elif isinstance(event, Held):
            plan = event.plan
        elif isinstance(event, Steered):
            steered = _Chain(event, steered)
        elif isinstance(event, Shown):
            shown[event.branch, event.chunk] = event.frames
        elif isinstance(event, Entered):
            entered.setdefault((event.branch, event.chunk), []).append(event)
    return SessionLog(header, _film(_all(made), deque(_all(steered)), shown, entered, plans, source))


@dataclass(frozen=True, slots=True)
class _Chain(Generic[Event]):
    """An event and those before it: branches share what they grew from."""

    event: Event
    before: _Chain[Event] | None


def _before(chain: _Chain[Event] | None, chunk: int) -> _Chain[Event] | None:
    while chain is not None and chain.event.chunk >= chunk:
        chain = chain.before
    return chain


def _all(chain: _Chain[Event] | None) -> list[Event]:
    events: list[Event] = []
    while chain is not None:
        events.append(chain.event)
        chain = chain.before
    return events[::-1]


def _film(
    made: list[Made],
    steered: deque[Steered],
    shown: dict[tuple[int, int], int],
    entered: dict[tuple[int, int], list[Entered]],
    plans: dict[tuple[int, int], str],
    source: str,
) -> tuple[LoggedChunk, ...]:
    chunks: list[LoggedChunk] = []
    controls: ChunkControls | None = None
    for index, each in enumerate(made):
        while steered and steered[0].chunk <= each.chunk:
            controls = _controls(steered.popleft(), source)
        first, end = each.frames
        visible = shown.get((each.branch, each.chunk), end - first)
        begun = made[index - 1].frames[1] if index else 0
        if (
            each.chunk != index
            or controls is None
            or first != begun
            or not 0 < end - first <= MOST
            or visible > end - first
        ):
            raise UsageMistake(f"{source}: chunk {index} of the film is missing, so it cannot be made again.")
        fed = tuple(entered.get((each.branch, each.chunk), ()))
        plan = plans[each.branch, each.chunk]
        chunks.append(
            LoggedChunk(index, controls, each.sha256, first, end - first, visible, each.source, each.kept, fed, plan)
        )
    if not any(chunk.shown for chunk in chunks):
        raise UsageMistake(f"{source}: nothing was shown, so there is no film. Give the log of a film that played.")
    return tuple(chunks)


def shots_of(log: SessionLog) -> Iterator[tuple[int, ChunkControls]]:
    """Where on screen, in frames of the film as it was shown, other controls begin."""
    frames, before = 0, None
    for chunk in log.chunks:
        if chunk.shown and chunk.controls != before:
            yield frames, chunk.controls
            before = chunk.controls
        frames += chunk.shown


def _controls(steered: Steered, source: str) -> ChunkControls:
    try:
        controls = steered.controls
        _ = controls.for_stream  # which refuses an empty prompt
        return controls
    except ValueError as error:
        raise UsageMistake(f"{source}: its chunk {steered.chunk} is damaged ({error}). Give another copy.") from None


def _events(data: bytes, source: str) -> list[Line]:
    lines = data.split(b"\n")[:-1]  # a kill may cut the last line; without a line break it does not count
    events: list[Line] = []
    for number, line in enumerate(lines, 1):
        try:
            events.append(_EVENT.validate_json(line, strict=True))
        except ValidationError as error:
            raise UsageMistake(
                f"{printable(shorten_path(source))}, line {number}: {recorded.told(error)}. It is damaged, or another "
                "version of Rivulet wrote it; give one that this version wrote."
            ) from None
    if not events:
        raise UsageMistake(f"{source} is empty. Give the session.jsonl of a live film.")
    return events
