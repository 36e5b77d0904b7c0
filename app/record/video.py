"""The video that a film is made of: what is asked of it, and what a record says so that it can be asked again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field

from app.atomic import file_hash
from app.config.readers import FitKind
from app.config.settings import Resolved
from app.config.table import OF_VIDEO, TABLE
from app.errors import UsageMistake, printable, shorten, shorten_path
from app.media.inputs import public_name
from app.record import fields as recorded

STRENGTH: float = TABLE["strength"].default
"""How much of a video is given up to the prompt, where nobody says it (docs/video-to-video.md)."""


@dataclass(frozen=True, slots=True)
class VideoRequest:
    """What a film is to be made of, and how.

    Attributes:
        input: a file, or a live source as `app.media.inputs` names it.
        strength: how much of it is given up to the prompt, above 0 and at most 1.
        fit: how its pictures become the model's size.
        turn: clockwise, in degrees (0, 90, 180, 270).
        rate: pictures a second that are taken of it; None takes every one, at its own time.
        sound: keep its sound.
        side_by_side: a second film that shows it beside the first one; None for none.
        sha256: of the file it has to be; "" for any.
        latency: seconds that a picture of a live source may be old when it is made over; None: as old as it gets.
    """

    input: str
    strength: float = STRENGTH
    fit: FitKind = "crop"
    turn: int = 0
    rate: Fraction | None = None
    sound: bool = True
    side_by_side: Path | None = None
    sha256: str = ""
    latency: float | None = None


class VideoRecord(BaseModel):
    """What a film was made of: `input` without its folder, `sha256` of a file, "" of a live source."""

    model_config = recorded.STRICT

    input: recorded.Name
    sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")]
    strength: Annotated[float, Field(gt=0, le=1)]
    fit: FitKind
    turn: Literal[0, 90, 180, 270]
    rate: recorded.FrameRate | None
    sound: bool

    @classmethod
    def of(cls, video: VideoRequest) -> Self:
        """Write a request down."""
        return cls(
            input=Path(video.input).name if video.sha256 else public_name(video.input),
            sha256=video.sha256,
            strength=video.strength,
            fit=video.fit,
            turn=video.turn,  # pyright: ignore[reportArgumentType]  # one of these, as pydantic sees to
            rate=None if video.rate is None else str(video.rate),
            sound=video.sound,
        )

    def request(self) -> VideoRequest:
        """Ask for the same again, of a file of this name."""
        rate = None if self.rate is None else Fraction(self.rate)
        return VideoRequest(self.input, self.strength, self.fit, self.turn, rate, self.sound, sha256=self.sha256)


def changed(video: VideoRequest, resolved: Resolved) -> VideoRequest:
    """The same with the settings that somebody gave anew, of those that a replay can have otherwise.

    Raises:
        UsageMistake: another setting of a video was given.
    """
    settings, names = resolved.settings, resolved.given & OF_VIDEO
    said = {"strength": settings.strength, "fit": settings.fit, "rotate": settings.rotate, "sound": settings.sound}
    if odd := sorted(names - said.keys()):
        where = "Say --input and the file." if odd[0] == "input" else "Leave it out."
        raise UsageMistake(f"{odd[0]} ({resolved.origin[odd[0]]}) is no setting of a replay. {where}")
    fields = {"rotate": "turn"}
    return replace(video, **{fields.get(name, name): value for name, value in said.items() if name in names})


def find_input(video: VideoRequest, film: Path, given: str | None) -> str:
    """Where the file lies that a film was made of: where the person says, or else beside the film or here.

    Args:
        video: what its record asks for.
        film: the film, or its record.
        given: what the person says.

    Raises:
        UsageMistake: it is not there, is another file, or was a live source, which cannot be shown again.
    """
    shown, name = printable(shorten_path(film)), printable(shorten(video.input, 80))
    if not video.sha256:
        raise UsageMistake(f"{shown} was made from {name}, which shows other pictures now. Replay a film of a file.")
    if given is not None:
        if file_hash(Path(given)) != video.sha256:
            raise UsageMistake(
                f"{printable(shorten_path(given))} is not the {name} that {shown} was made of "
                f"(sha256 {video.sha256[:12]}…). Give that file with --input."
            )
        return given
    plain = Path(video.input).name
    for path in (film.parent / plain, Path(plain)):
        if file_hash(path) == video.sha256:
            return str(path)
    raise UsageMistake(
        f"{shown} was made of a video that is not here ({name}, sha256 {video.sha256[:12]}…). Give it with --input."
    )
