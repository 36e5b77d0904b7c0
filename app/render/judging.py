"""Whether a model can film a script: every text is read and every shot placed before the first frame is made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

from app.errors import UsageMistake
from app.loading.model import Opened
from app.media.stills import check_stills
from app.record.request import RenderRequest
from app.script.script import Script
from app.script.timeline import Timeline, resolve

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Judged:
    """A film that can be made: its timeline, its frame rate, and for every text the words unknown to the model, each
    with known words near it."""

    timeline: Timeline
    fps: Fraction
    unknown: Mapping[str, Mapping[str, tuple[str, ...]]]


def judge(request: RenderRequest, opened: Opened) -> Judged:
    """Read all texts of a film with the model and place its shots.

    Raises:
        UsageMistake: a text that the model cannot read, with its file, line and shot; shots that have no place;
            pictures that cannot hold the film.
    """
    unknown = read_prompts(request.script, opened.read_prompt)
    fps = request.fps or Fraction(opened.fps)
    timeline = resolve(request.script, length=request.length, fps=float(fps), rhythm=opened.rhythm)
    check_stills(request.output, timeline.frames, fps=fps)
    return Judged(timeline, fps, unknown)


def read_prompts(script: Script, read: Callable[[str], Answer]) -> dict[str, Answer]:
    """What `read` of a model answers to every text of a script, style included.

    Raises:
        UsageMistake: a text that the model cannot read, too long as a rule, with its file, line and shot.
    """
    answers: dict[str, Answer] = {}
    for number, (shot, prompt) in enumerate(zip(script.shots, script.prompts, strict=True), 1):
        for text in [prompt] if isinstance(prompt, str) else [words for words, _ in prompt]:
            if text in answers:
                continue
            try:
                answers[text] = read(text)
            except ValueError as error:
                told = str(error).rstrip(".")
                place = f"{shot.place}: in shot {number} " if shot.place else f"Shot {number}: "
                styled = ", its style included" if script.style.strip() else ""
                raise UsageMistake(f"{place}{told[:1].lower()}{told[1:]}{styled}.") from error
    return answers
