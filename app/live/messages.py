"""Messages between browser and server in JSON, checked on the way in; frames are in app/live/frame_header.py.

The socket is open to programs as well as to the page, so every text and number has a bound here and everything
else is refused in one sentence; docs/live-api.md is the table for people.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from app.live.wired import by_name, by_wire, changes, in_force
from pipelines.types import Prompt, Transition, TransitionKind

VERSION = 1
MAX_MESSAGE = 64 * 1024
"""Bytes of a client's message; the longest that passes, a full queue, is well below."""
MAX_SEED = 2**53 - 1
"""The largest integer that JavaScript holds exactly."""
QUEUE_LIMIT = 32

Text = Annotated[str, Field(min_length=1, max_length=1000)]
Weight = Annotated[float, Field(ge=0, le=100)]
Mix = Annotated[list[tuple[Text, Weight]], Field(min_length=1, max_length=4)]
PromptText = Text | Mix
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]
Hold = Annotated[float, Field(ge=0.1, le=86_400)]

Action = Literal[
    "pause",
    "resume",
    "stop",
    "reset",
    "snapshot",
    "record",
    "record_stop",
    "save_last",
    "rewind",
    "return",  # to a branch that was left
    "audition",
    "takes",  # the prompt in force under four other seeds, a clip each
    "take_over",  # a viewer asks for the controls; they change hands when the driver lets go or does not answer
    "hand_over",  # the driver's answers
    "keep",
]
Role = Literal["driver", "viewer"]
State = Literal["playing", "paused", "parked", "stopped"]


class WireError(ValueError):
    """A message that is refused; the text says what is wrong with it in one sentence."""


class FromClient(BaseModel):
    """A message to the server: exact types, no unknown fields, no infinities."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class FromServer(BaseModel):
    """A message to a viewer."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class WireTransition(FromClient):
    """How a prompt takes over; `chunks` is the length of a soft one, 0 for the others."""

    kind: TransitionKind = "recache"
    chunks: Annotated[int, Field(ge=0, le=64)] = 0

    @model_validator(mode="after")
    def _length_fits(self) -> Self:
        self.of_engine()
        return self

    def of_engine(self) -> Transition:
        """Return it as the engine names it."""
        return Transition(self.kind, self.chunks)


class Prompted(FromClient):
    """Anything that carries a prompt: a text, or up to four with weights."""

    prompt: PromptText

    @field_validator("prompt")
    @classmethod
    def _says_something(cls, prompt: str | list[tuple[str, float]]) -> str | list[tuple[str, float]]:
        mix = [(prompt, 1.0)] if isinstance(prompt, str) else prompt
        if any(not text.strip() for text, _ in mix):
            raise ValueError("the prompt is empty")
        if sum(weight for _, weight in mix) <= 0:
            raise ValueError("the weights of a mixed prompt must add up to more than 0")
        return prompt

    def of_engine(self) -> Prompt:
        """Return the prompt as the engine names it."""
        return self.prompt if isinstance(self.prompt, str) else tuple(self.prompt)


class SessionStart(Prompted):
    """Begin the film anew with this prompt; seed -1 draws one."""

    type: Literal["session.start"] = "session.start"
    seed: Annotated[int, Field(ge=-1, le=MAX_SEED)] = -1
    transition: WireTransition | None = None


class PromptUpdate(Prompted):
    """A new prompt, at the next chunk or behind the queue; `hold` is how long it stays (None: until the next)."""

    type: Literal["session.prompt_update"] = "session.prompt_update"
    id: Name
    transition: WireTransition = WireTransition()
    queue: bool = False
    hold: Hold | None = None


class QueueItem(Prompted):
    """A prompt that waits; it is shown for `hold` seconds, or until another takes over."""

    id: Name
    hold: Hold | None = None
    transition: WireTransition = WireTransition()


class QueueEdit(FromClient):
    """The whole queue as it shall be now."""

    type: Literal["session.queue"] = "session.queue"
    items: Annotated[list[QueueItem], Field(max_length=QUEUE_LIMIT)]

    @field_validator("items")
    @classmethod
    def _ids_differ(cls, items: list[QueueItem]) -> list[QueueItem]:
        if len({item.id for item in items}) < len(items):
            raise ValueError("two items of the queue have the same id")
        return items


_Changes = changes(FromClient)


class Set(_Changes):
    """Settings that change while the film plays, those of app/config/table.py; what is left out stays."""

    type: Literal["session.set"] = "session.set"

    def given(self) -> dict[str, Any]:
        """What changes, by the names of the table."""
        return by_name(self)


class Do(FromClient):
    """A button: `seconds` for save_last and rewind, `seed` for reset (-1 draws one; None keeps it).

    `id` for audition: which item of the queue; None is its first. `branch` for return: which of those in `track`.
    """

    type: Literal["session.do"] = "session.do"
    action: Action
    id: Name | None = None
    seconds: Annotated[float, Field(ge=0.1, le=3600)] | None = None
    seed: Annotated[int, Field(ge=-1, le=MAX_SEED)] | None = None
    branch: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None


class LookUp(FromClient):
    """Tell the words of a text that the model does not know; nothing is changed."""

    type: Literal["session.look_up"] = "session.look_up"
    id: Name
    prompt: Text


class Ack(FromClient):
    """This frame has been drawn, and with it all before."""

    type: Literal["ack"] = "ack"
    seq: Annotated[int, Field(ge=0, le=2**32 - 1)]


class Stop(FromClient):
    """The film is over; the session ends for every viewer."""

    type: Literal["session.stop"] = "session.stop"


ClientMessage = SessionStart | PromptUpdate | QueueEdit | Set | Do | LookUp | Ack | Stop
_InForce = in_force(FromServer)


class Settings(_InForce):
    """What is in force; None: this preset knows no such thing, or it is off."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From values by the names of the table."""
        return cls.model_validate(by_wire(values))


class Hello(FromServer):
    """The first message: what plays, and the token that takes this session up again.

    `view_token` opens the session for watching only: /live.mjpg, /frame.jpg and further sockets. `knows` is what a
    small model knows: its shapes, colours, scenes and all `words`; {} for a model that reads any text.
    `beginning_frames` is how many pictures of a clip a film can begin with.
    """

    type: Literal["hello"] = "hello"
    version: int = VERSION
    session: str
    token: str = ""
    view_token: str = ""
    role: Role
    fps: float
    width: int
    height: int
    prompt: str | list[tuple[str, float]]
    seed: int
    preset: str
    model: str
    chunk_frames: int
    beginning_frames: int = 1
    paused: bool
    queue: list[QueueItem] = []
    settings: Settings | None = None
    knows: dict[str, list[str]] = {}


class VideoStart(FromServer):
    """Binary frames follow."""

    type: Literal["video.start"] = "video.start"


class Accepted(FromServer):
    """The prompt is in: it begins with chunk `chunk`, about visible `at` (unix time), in `seconds` if the film plays.

    `unknown` are words that the model does not know, each with known ones that mean the same, if there are any;
    `instead` is the prompt in words that it knows.
    """

    type: Literal["session.prompt_update.accepted"] = "session.prompt_update.accepted"
    id: str
    chunk: int
    at: float
    seconds: float = 0.0
    unknown: dict[str, list[str]] = {}
    instead: str | None = None


class Words(FromServer):
    """What a text that is being written says to the model: its `unknown` words, as `accepted` tells them."""

    type: Literal["session.words"] = "session.words"
    id: str
    unknown: dict[str, list[str]]


class Applied(FromServer):
    """The first frame of the prompt is made: `frame` of the film, `t` its time, `ms` since it was received.

    `parts` says where those milliseconds went, in the order in which they passed.
    """

    type: Literal["session.prompt_update.applied"] = "session.prompt_update.applied"
    id: str
    chunk: int
    frame: int
    t: float
    ms: float
    parts: dict[str, float] = {}


class Overtaken(FromServer):
    """The prompt will not be seen: `by` (its id) took its place before, or, with "", the film went another way."""

    type: Literal["session.prompt_update.overtaken"] = "session.prompt_update.overtaken"
    id: str
    by: str = ""


class SavingState(FromServer):
    """Whether the film is being saved, told when that changes; `message` says why not, or that it is again."""

    type: Literal["session.saving"] = "session.saving"
    on: bool
    message: str


class Metrics(FromServer):
    """About twice a second; the newest replaces one not yet sent. `memory` is in bytes, `position` a wait's place.

    `rate` is how many times real time the film can be made; below 1 it is shown with pauses. `reused` is the share of
    the newest chunk's layers that a feature cache spared, None where there is no cache.
    """

    type: Literal["metrics"] = "metrics"
    fps: float
    prompt_ms: float | None = None
    chunk_ms: float | None = None
    rate: float | None = None
    drift: float | None = None
    reused: float | None = None
    memory: int = 0
    dropped: int = 0
    frame: int = 0
    t: float = 0.0
    viewers: int = 0
    position: int = 0
    state: State = "playing"
    recording: bool = False


class QueueState(FromServer):
    """What waits, after every change of it."""

    type: Literal["session.queue"] = "session.queue"
    items: list[QueueItem]


class RoleState(FromServer):
    """Who holds the controls; `asked`: a viewer asks the driver for them, and gets them after `seconds`."""

    type: Literal["session.role"] = "session.role"
    role: Role
    asked: bool = False
    seconds: float | None = None


class Saved(FromServer):
    """A file is ready; the server fills in `url`, relative to its root, with the token that opens it.

    `id` is the queue's item that an audition shows, or the seed of a take.
    """

    type: Literal["session.saved"] = "session.saved"
    kind: Literal["snapshot", "recording", "last", "audition", "take", "log"]
    name: str
    url: str = ""
    id: str = ""


class Span(FromServer):
    """A span of the track: pixel frames from `begin` to before `end` (None: open).

    `refresh` is a chunk before which the memory was made anew under the same prompt, because the film had drifted.
    """

    kind: Literal["past", "now", "transition", "refresh", "queued"]
    prompt: str
    begin: int
    end: int | None = None


class Branch(FromServer):
    """A branch that was left at second `t` under `prompt`, and can be gone back to."""

    branch: int
    prompt: str
    t: float


class Track(FromServer):
    """What was, is and will be shown, after every change of it; `branches` that were left, the newest first."""

    type: Literal["track"] = "track"
    branch: int = 0
    spans: list[Span]
    branches: list[Branch] = []


class Problem(FromServer):
    """What went wrong, in a sentence, and what to do about it; `position` with code `busy`, 1 is next.

    `id` is the prompt that was refused after it had been accepted, because the model cannot read it.
    """

    type: Literal["error"] = "error"
    message: str
    action: str = ""
    code: str
    position: int | None = None
    id: str = ""


class Done(FromServer):
    """The session is over; the server closes the socket."""

    type: Literal["session.done"] = "session.done"
    reason: str
