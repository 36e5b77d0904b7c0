"""Messages about a film's source, the camera, screen or file of a page; its pictures are in app/live/picture_header.py.

docs/live-api.md is the table for people, beside those of app/live/messages.py.
"""

from typing import Annotated, Literal

from pydantic import Field

from app.live.messages import FromClient, FromServer

Shows = Literal["camera", "screen", "file"]
SourceKind = Literal["none"] | Shows
FitChoice = Literal["crop", "pad", "stretch"]
BeginningKind = Literal["image", "clip"]


class SourceSet(FromClient):
    """What the film is made of from now on: `none` is words alone.

    `number` is of the source: another one begins another, whose pictures bear it; the same one changes what is said
    here. `strength` is how much of the pictures is given up to the words, `hold` how much of their detail enters,
    `latency` the seconds that a picture may be old when it is made over (None: the steps stay as they are). `record`
    keeps what enters beside the film's log, so that the film can be made again.
    """

    type: Literal["session.source"] = "session.source"
    kind: SourceKind
    number: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    strength: Annotated[float, Field(gt=0, le=1)] = 0.7
    hold: Annotated[float, Field(ge=0, le=1)] = 1.0
    latency: Annotated[float, Field(ge=0.05, le=10)] | None = None
    fit: FitChoice = "crop"
    record: bool = False


class BeginningSet(FromClient):
    """The film begins anew, with the `count` pictures that come next under this `number`, in order.

    An `image` is one picture, which is held for the first chunk; a `clip` are its last ones, at the film's rate.
    They are kept beside the film's log.
    """

    type: Literal["session.beginning"] = "session.beginning"
    kind: BeginningKind
    number: Annotated[int, Field(ge=0, le=2**32 - 1)]
    count: Annotated[int, Field(ge=1, le=4096)] = 1
    name: Annotated[str, Field(max_length=200)] = ""
    fit: FitChoice = "crop"


class BeginningState(FromServer):
    """What became of it: it `begun`, or it did not, and `message` says why."""

    type: Literal["session.beginning"] = "session.beginning"
    number: int
    name: str = ""
    begun: bool
    message: str = ""


class SourceState(FromServer):
    """What the film is made of; `message` says why, where nobody asked for it."""

    type: Literal["session.source"] = "session.source"
    kind: SourceKind
    number: int = 0
    strength: float = 0.7
    hold: float = 1.0
    latency: float | None = None
    record: bool = False
    message: str = ""


class PictureTaken(FromServer):
    """Picture `seq` of a source, and with it all before, is decoded or was replaced: another may be sent."""

    type: Literal["session.picture"] = "session.picture"
    source: int
    seq: int


class SourceFigures(FromServer):
    """Of the newest chunk of a source: what its filter and controllers decided.

    `share` is the noise that it entered with (0..1), `motion` what moved (0..1), `steps` the passes it was given.
    `skipped` is whether it showed nothing new, so that the last picture stands for it, and `skips` the share of such
    chunks lately. `replaced` counts pictures that a newer one came before. `said` is what the latency that was asked
    for costs, in a sentence, and `reached` whether it is kept (None: none was asked for).
    """

    type: Literal["session.source_figures"] = "session.source_figures"
    share: float | None = None
    motion: float | None = None
    steps: int | None = None
    skipped: bool = False
    skips: float = 0.0
    replaced: int = 0
    said: str = ""
    reached: bool | None = None
