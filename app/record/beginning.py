"""The pictures that a film begins with: what is asked of them, and what a record says so that it can be asked again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, Field

from app.atomic import file_hash
from app.errors import UsageMistake, printable, shorten, shorten_path
from app.record import fields as recorded
from app.script.script import PictureKind, ScriptPictures

BeginningKind = PictureKind


@dataclass(frozen=True, slots=True)
class BeginningRequest:
    """What a film is to begin with.

    Attributes:
        kind: `image`, a picture that it goes on from; `extend`, a clip whose last pictures it goes on from; or
            `reference`, a picture that it does not show.
        input: the file.
        sha256: it has to have.
        place: where a script names it, for errors; "" where the command line does.
    """

    kind: BeginningKind
    input: str
    sha256: str
    place: str = ""

    @property
    def named(self) -> str:
        """The beginning of what is said of it: its place and a colon."""
        return f"{self.place}: " if self.place else ""


class BeginningRecord(BaseModel):
    """What a film began with: `input` without its folder."""

    model_config = recorded.STRICT

    kind: BeginningKind
    input: recorded.Name
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

    @classmethod
    def of(cls, beginning: BeginningRequest) -> Self:
        """Write a request down."""
        return cls(kind=beginning.kind, input=Path(beginning.input).name, sha256=beginning.sha256)

    def request(self) -> BeginningRequest:
        """Ask for the same again, of a file of this name."""
        return BeginningRequest(self.kind, Path(self.input).name, self.sha256)


def read_beginning(
    named: Mapping[BeginningKind, str | None], pictures: ScriptPictures | None = None
) -> BeginningRequest | None:
    """What the settings of these names ask for, or else the script; None: the film begins with words alone.

    Raises:
        UsageMistake: there is no such file, or several are asked for.
    """
    asked: list[tuple[BeginningKind, str]] = [(kind, file) for kind, file in named.items() if file is not None]
    if len(asked) > 1:
        raise UsageMistake("A film begins with one picture or clip. Give --image, --extend or --reference.")
    kind: BeginningKind = asked[0][0] if asked else "image"
    given, place = asked[0][1] if asked else None, ""
    if given is None and pictures is not None:
        given, kind, place = pictures.file, pictures.kind, pictures.place
    if given is None:
        return None
    try:
        sha256 = file_hash(Path(given))
    except (OSError, ValueError):  # a name that no file can have
        sha256 = ""
    if not sha256:
        shown = printable(shorten_path(Path(given)))
        where = f"{place}: there" if place else "There"
        raise UsageMistake(
            f"{where} is no file {shown} to begin with. Give {'' if place else '--'}{kind} the name of one."
        )
    return BeginningRequest(kind, given, sha256, place)


def find_beginning(beginning: BeginningRequest, film: Path, given: str | None) -> BeginningRequest:
    """The same, where the file lies now: where the person says, or else beside the film or here.

    Args:
        beginning: what its record asks for.
        film: the film, or its record.
        given: what the person says.

    Raises:
        UsageMistake: it is not there, or is another file.
    """
    plain = Path(beginning.input).name
    places = [Path(given)] if given is not None else [Path(beginning.input), film.parent / plain]
    for path in places:
        if file_hash(path) == beginning.sha256:
            return replace(beginning, input=str(path))
    shown, name = printable(shorten_path(film)), printable(shorten(plain, 80))
    raise UsageMistake(
        f"{shown} begins with pictures that are not {'here' if given is None else 'those'} ({name}, sha256 "
        f"{beginning.sha256[:12]}…). Give that file with --input."
    )
