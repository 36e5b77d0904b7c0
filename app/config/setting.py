"""One setting: what a person writes of it in app/config/table.py, and what follows from that.

The command line, config files, jobs, messages of live films, the page and docs/settings.md ask these objects and know
no setting by themselves.
"""

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, Union, get_args, get_origin

from app.config.readers import Reader, Whole

Group = Literal[
    "What to show",
    "Video",
    "The film",
    "Picture",
    "Model",
    "Denoising",
    "Memory",
    "Files",
    "This machine",
    "This run",
    "Live",
]
"""What a setting is for, in the order of help and docs."""
Place = Literal["command line", "v2v", "file", "job", "wire", "page"]
"""The command line is that of `rivulet render`; `v2v` has what is of a video, too."""
Tab = Literal["live", "render", "compare"]
Replay = Literal["film", "script", "file", "machine", "place", "run"]
Kind = Literal["film", "video", "spelling", "run", "live"]

Arguments = ParamSpec("Arguments")

REPLAY: Mapping[Replay, str] = {
    "film": "decides the pictures and is written down; with another value a replay makes another film, uncompared",
    "script": "what became of it is written down: the shot list, its length in frames, the seed that was drawn",
    "file": "is written down; changes the file, and none of the pictures that the model makes",
    "machine": "is written down; on another machine the last bits may differ",
    "place": "is not written down and changes no picture; says where weights are, for a replay too",
    "run": "is not written down: it concerns one run, or what is shown of it",
}
"""What a setting means for `rivulet replay`."""


@dataclass(frozen=True, slots=True, eq=False)
class Wire:
    """A setting that a live film takes while it plays: its name in `session.set` and bounds that keep up.

    `anew` if the film has to begin again under it.
    """

    name: str
    least: float
    most: float
    anew: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Control:
    """A control of the page: its label, what it means to who turns it, and the tabs that show it.

    On the live tab it is a slider of (least, most, step), `slider`, in the card `card`; elsewhere a field whose bounds
    are the setting's.
    """

    label: str
    means: str
    tabs: tuple[Tab, ...] = ("render", "compare")
    slider: tuple[float, float, float] | None = None
    card: Literal["speed", "memory"] = "speed"


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """An entry of the table. A person writes everything but the last three, which are the field's that holds it.

    Attributes:
        default: its value where nobody says.
        help: a line for the command line and the docs.
        reader: makes the value of what somebody wrote; None: the command line's own parser is enough.
        group: what it is for.
        written: how its value is written, in capitals; empty: as the type says.
        unit: of its value.
        range: least and most, where the reader does not know them because another place refuses what is beyond.
        above: whether the least itself is refused.
        usual: what holds where nobody says, if the default does not tell.
        aliases: names that other projects have for exactly this.
        section: the heading that a config file may put it under; behind a dot its name there.
        short: another flag, of one letter.
        first: whether it belongs to the first screen of help.
        parser_bounds: whether the command line's parser refuses what is out of bounds, in its own words.
        replay: what it means for a replay.
        job: where a request of a render job has it: under its `settings`, or in a field of its own. Never a path, and
            nothing of this machine.
        wire: how a live film takes it while it plays.
        control: how the page shows it.
        name, type: of its field.
        kind: what the class of the field holds: settings of a film, those of a film that is made of a video, other
            spellings of some, flags of one run, or settings of live films alone.
    """

    default: Any
    help: str
    reader: Reader | None = None
    _: KW_ONLY
    group: Group
    written: str = ""
    unit: str = ""
    range: tuple[float, float] | None = None
    above: bool = False
    usual: str = ""
    aliases: tuple[str, ...] = ()
    section: str = ""
    short: str = ""
    first: bool = False
    parser_bounds: bool = False
    replay: Replay = "run"
    job: str = ""
    wire: Wire | None = None
    control: Control | None = None
    name: str = ""
    type: Any = None
    kind: Kind = "film"

    @property
    def places(self) -> tuple[Place, ...]:
        """Where it can be set."""
        places: list[Place] = []
        if self.kind != "live":
            places.append("v2v" if self.kind == "video" else "command line")
        if self.kind in ("film", "video", "spelling"):
            places.append("file")
        if self.job:
            places.append("job")
        if self.wire is not None:
            places.append("wire")
        if self.control is not None:
            places.append("page")
        return tuple(places)

    @property
    def one(self) -> Any:
        """The type of a value that is given: without None."""
        if get_origin(self.type) not in (UnionType, Union):
            return self.type
        return next(kind for kind in get_args(self.type) if kind is not NoneType)

    @property
    def flag_type(self) -> Any:
        """The type that the command line's parser makes of it; lists of numbers stay text for the reader."""
        if self.one in (bool, int, float, str, Path):
            return self.one
        return list[str] if self.one == tuple[str, ...] else str

    @property
    def denied(self) -> bool:
        """Whether there is a --no_ of it: a switch that is on, or that the preset decides."""
        return self.one is bool and self.default is not False

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Least and most of its value; None: it is no number, or any."""
        if self.range is not None:
            return self.range
        return (self.reader.least, self.reader.most) if isinstance(self.reader, Whole) else None

    @property
    def metavar(self) -> str:
        """How its value is written, in capitals; empty for a switch."""
        if self.written or self.one is bool:
            return self.written
        return {int: "N", float: "X"}.get(self.one, "TEXT")

    @property
    def says(self) -> str:
        """What holds where nobody says; empty: nothing."""
        if self.usual or self.default is None or self.default is False or self.default == ():
            return self.usual
        return "yes" if self.default is True else str(self.default)

    @property
    def values(self) -> str:
        """Range and unit, as people say them: `0 to 4096 latent frames`; empty: the help says it."""
        if self.bounds is None:
            return "" if self.unit in self.help.lower() else f"in {self.unit}"
        least, most = map(_in_digits, self.bounds)
        return f"{f'above {least}' if self.above else least} to {most} {self.unit}".rstrip()


def entries_of(holder: type[Any], kind: Kind) -> dict[str, Setting]:
    """The entries that a class has as values of its fields, by name; it keeps their plain defaults in their place."""
    found: dict[str, Setting] = {}
    for name, type_ in holder.__annotations__.items():
        found[name] = replace(getattr(holder, name), name=name, type=type_, kind=kind)
        setattr(holder, name, found[name].default)
    return found


def _in_digits(bound: float) -> str:
    """A bound as it is read at a glance: 1000, 100 000, 2^63 - 1."""
    if bound >= 2**53:
        return f"2^{int(bound).bit_length()} - 1"
    return f"{bound:,}".replace(",", " ") if bound > 99_999 else f"{bound:g}"


def _as_value(make: Callable[Arguments, Setting]) -> Callable[Arguments, Any]:
    """As the value of a field of any type."""
    return make


setting = _as_value(Setting)
