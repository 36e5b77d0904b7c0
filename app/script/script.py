"""A script: what a film shows from when on, as its author wrote it, whatever file it came from.

Times are kept in the units they were written in, because what they mean in frames is known only with the model; what
can be judged without it is judged here, once for every format.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NoReturn

from app.config.lengths import Length
from app.config.nodes import did_you_mean
from app.errors import UsageMistake, printable, shorten
from pipelines.types import Prompt, Transition

RECACHE = Transition("recache")
"""The transition where none is named."""
PARAMETERS = ("guidance_scale",)
"""Parameters that a shot may change while the film runs."""
RANGES = {"guidance_scale": (0.0, 100.0)}
"""The least and the largest value of each."""

PictureKind = Literal["image", "extend", "reference"]

MAX_SHOTS = 10_000
MAX_TEXTS = 16
"""Texts in one weighted prompt."""
MAX_CHARACTERS = 10_000
"""Of one text, style included; the longest text encoder here reads 512 tokens, a fifth of that."""
MAX_SOFT_CHUNKS = 10_000
SOFT_CHUNKS = 4
"""Length of a soft transition when none is given: about three seconds with chunks of three latent frames."""


@dataclass(frozen=True, slots=True)
class ScriptShot:
    """One prompt and when it is asked to begin.

    `at` None shares what lies between its neighbours equally. `prompt` is without the script's style. `transition`
    None takes the script's. `parameters` stay in force until another shot changes them. `place` says where in which
    file it stands, for errors.
    """

    at: Length | None
    prompt: Prompt
    transition: Transition | None = None
    parameters: tuple[tuple[str, float], ...] = ()
    place: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class ScriptPictures:
    """What a script says its film begins with: `file` as it is written there, `place` where."""

    kind: PictureKind
    file: str
    place: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Script:
    """Shots in order; `style` is appended to every text, `notes` tell what of an imported file was left out.

    `written_as` names the notation it was read from, for people; `pictures` are what the film begins with.
    """

    shots: tuple[ScriptShot, ...]
    end: Length | None = None
    style: str = ""
    transition: Transition = RECACHE
    place: str = field(default="", compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
    written_as: str = field(default="", compare=False)
    pictures: ScriptPictures | None = None

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """What the model will be told, style included."""
        return tuple(apply_style(shot.prompt, self.style) for shot in self.shots)


def script_of(prompts: Sequence[str], *, style: str = "", transition: Transition = RECACHE, place: str = "") -> Script:
    """A script of prompts that share a film equally, as the command line gives them.

    Raises:
        UsageMistake: see check_script.
    """
    script = Script(tuple(ScriptShot(None, prompt, place=place) for prompt in prompts), None, style, transition, place)
    check_script(script)
    return script


def apply_style(prompt: Prompt, style: str) -> Prompt:
    """Append a style to every text of a prompt: `a fox` and `film grain` give `a fox, film grain`."""
    if not style.strip():
        return prompt
    if isinstance(prompt, str):
        return f"{prompt.rstrip()}, {style.strip()}"
    return tuple((f"{text.rstrip()}, {style.strip()}", weight) for text, weight in prompt)


def check_script(script: Script) -> None:
    """Refuse what no model could film.

    Raises:
        UsageMistake: no or too many shots; empty, overlong or garbled texts; weights that are not above 0; times that
            are negative, fractions of a frame or out of order; unknown parameters or values out of their range.
    """
    if not script.shots:
        _fail(script.place, "there is no prompt", 'Say what to show, for example: rivulet render "a red ball at sea"')
    if len(script.shots) > MAX_SHOTS:
        _fail(script.place, f"{len(script.shots)} shots are too many", f"Give at most {MAX_SHOTS}.")
    _check_text(script.style, "the style", script.place, may_be_empty=True)
    if script.end is not None:
        _check_time(script.end, script.place)
        if not script.end.amount:
            _fail(script.place, "the film ends where it begins", "Write an end above zero, for example 20s.")
    _check_soft(script.transition, script.place)
    for shot in script.shots:
        _check_shot(shot, script.style)
    first, timed = script.shots[0], [shot for shot in script.shots if shot.at is not None]
    if first.at is not None and first.at.amount:
        _fail(first.place, f"the first shot begins at {first.at}, and before it there is none", "Let it begin at 0.")
    for before, shot in pairwise(timed):
        assert before.at is not None
        assert shot.at is not None
        if before.at.unit == shot.at.unit and shot.at.amount <= before.at.amount:
            order = "together with" if shot.at == before.at else "before"
            _fail(
                shot.place,
                f"this shot is to begin at {shot.at}, {order} the one above it at {before.at}",
                f"Give it a time after {before.at}.",
            )


def _check_shot(shot: ScriptShot, style: str) -> None:
    if isinstance(shot.prompt, str):
        _check_text(shot.prompt, "a prompt", shot.place, room=len(style))
    else:
        if not 1 <= len(shot.prompt) <= MAX_TEXTS:
            _fail(shot.place, f"a weighted prompt of {len(shot.prompt)} texts", f"Give 1 to {MAX_TEXTS}.")
        for text, weight in shot.prompt:
            _check_text(text, "a prompt", shot.place, room=len(style))
            if not (math.isfinite(weight) and 1e-6 <= weight <= 1e6):
                _fail(shot.place, f"the weight {weight:g} is not above 0", "Give shares such as 0.7 and 0.3.")
    if shot.at is not None:
        _check_time(shot.at, shot.place)
    if shot.transition is not None:
        _check_soft(shot.transition, shot.place)
    names = [name for name, _ in shot.parameters]
    for name, value in shot.parameters:
        if name not in PARAMETERS:
            hint = did_you_mean(name, PARAMETERS).rstrip(".?")
            _fail(shot.place, f"a shot cannot change {_shown(name)}{hint}", f"Use {', '.join(PARAMETERS)}.")
        low, high = RANGES[name]
        if not (math.isfinite(value) and low <= value <= high):
            _fail(shot.place, f"{name} cannot be {value:g}", f"Give {low:g} to {high:g}.")
        if names.count(name) > 1:
            _fail(shot.place, f"{name} is given twice", "Keep one of them.")


def _check_text(text: str, what: str, place: str, *, room: int = 0, may_be_empty: bool = False) -> None:
    if not text.strip() and not may_be_empty:
        _fail(place, f"{what} is empty", "Say in a few words what the film should show.")
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        _fail(place, f"{what} ({_shown(text)}) holds bytes that are not text", "Type it again as UTF-8.")
    if len(text) + room > MAX_CHARACTERS:
        _fail(place, f"{what} has {len(text) + room} characters, style included", f"Give at most {MAX_CHARACTERS}.")


def _check_time(time: Length, place: str) -> None:
    if time.unit not in ("s", "f", "l", "c"):
        _fail(place, f"{_shown(time.unit)} is no unit of time", "Use s, f, l or c.")
    if not math.isfinite(time.amount) or time.amount < 0:
        _fail(place, f"a time of {time.amount:g}{time.unit} is not in the film", "Give one from 0 on.")
    if time.unit != "s" and time.amount != int(time.amount):
        _fail(place, f"{time.amount:g}{time.unit} is a fraction of a frame", "Give a whole number.")
    if 0 < time.amount < 1e-6:
        _fail(place, "a time is closer to 0 than a microsecond", "Write 0s.")


def _check_soft(transition: Transition, place: str) -> None:
    if transition.chunks > MAX_SOFT_CHUNKS:
        _fail(place, f"a transition of {transition.chunks} chunks is too long", f"Give 1 to {MAX_SOFT_CHUNKS}.")


def _shown(text: str) -> str:
    return f'"{shorten(printable(text[:200]), 40)}"'


def _fail(place: str, wrong: str, action: str) -> NoReturn:
    raise UsageMistake(f"{place}: {wrong}. {action}" if place else f"{wrong[:1].upper()}{wrong[1:]}. {action}")
