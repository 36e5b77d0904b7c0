"""Shots that say when they begin and perhaps when they end, as cues and tables do, put together into a script."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from app.config.lengths import LONGEST_SECONDS, Length, parse_moment
from app.config.nodes import quote
from app.errors import UsageMistake
from app.script.foreign_words import NEGATIVE_NOTE, refuse_foreign_words, without_negative
from app.script.script import Script, ScriptShot, check_script
from pipelines.types import Prompt, Transition

_EXACT = 1e-3
"""Seconds, or parts of a frame, by which two times may miss each other."""
_WITH_FRAMES = re.compile(r"\d+:\d\d:\d\d[:;]\d\d", re.ASCII)
_SUM = re.compile(r"[a-z]_[a-z]|[*/+()]|\d\s*-|[a-z]\s*-\s*\d")
_COMMA = re.compile(r"(\d),(\d{1,3})$", re.ASCII)
_UNIT = re.compile(r"(\d)\s*(hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s|frames?|f)\b", re.ASCII)
_BARE = re.compile(r"-?\d*\.?\d+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Span:
    """A text from `start` to `end`; None leaves them open. `place` is where it stands, for errors; `transition` None
    takes the script's."""

    start: Length | None
    end: Length | None
    text: Prompt
    place: str
    transition: Transition | None = None


def script_of_spans(
    spans: Sequence[Span],
    file: str,
    *,
    end: Length | None = None,
    notes: Sequence[str] = (),
    exact: bool = False,
    head: str = "",
    tail: str = "",
    style: str = "",
) -> Script:
    """A script of spans in the order of the film; a gap keeps the prompt before it, and a note says so.

    Args:
        spans: with times, or all of them without.
        file: name, for errors.
        end: of the film; the last span's own where it has one and this is None.
        notes: of the file.
        exact: the texts mean what they say; otherwise those of other tools are refused.
        head: stands before every text.
        tail: stands behind every text.
        style: of the script.

    Raises:
        UsageMistake: spans that end before they begin, overlap or lack a time; what check_script refuses.
    """
    told = list(notes)
    shots: list[ScriptShot] = []
    for span in spans:
        text = span.text
        if isinstance(text, str) and not exact:
            text, cut = without_negative(text)
            if cut and NEGATIVE_NOTE not in told:
                told.append(NEGATIVE_NOTE)
            refuse_foreign_words(text, span.place)
            text = ", ".join(part for part in (head, text, tail) if part.strip()) if text.strip() else text
        shots.append(ScriptShot(span.start, text, span.transition, place=span.place))
        if span.start is None and (span.end is not None or spans[0].start is not None):
            raise UsageMistake(f"{span.place}: this shot does not say when it begins. Give it a time, as the others.")
        if span.start is not None and span.end is not None and not _before(span.start, span.end):
            raise UsageMistake(
                f"{span.place}: this shot ends at {span.end}, before it begins. Give an end after {span.start}."
            )
    last = spans[-1].end if spans else None
    if not exact:
        refuse_foreign_words(style, file)
    script = Script(tuple(shots), end=end or last, style=style, place=file)
    check_script(script)
    for before, span in pairwise(spans):
        if before.end is None or span.start is None or before.end.unit != span.start.unit:
            continue
        if span.start.amount < before.end.amount - _EXACT:
            raise UsageMistake(
                f"{span.place}: this shot begins at {span.start}, while the one before it lasts until {before.end}. "
                f"Let it begin at {before.end} or end the other one earlier."
            )
        if span.start.amount > before.end.amount + _EXACT and len(told) < 20:
            told.append(f"From {before.end} to {span.start} nothing is asked for: the prompt before it goes on.")
    return replace(script, notes=tuple(told))


def read_moment(written: str, place: str, *, bare: str, fps: float | None = None) -> Length:
    """A moment as other tools write it: `0:04`, `00:00:04,500`, `4s`, `4 sec`, `30f`, or digits alone.

    Args:
        written: the moment.
        place: where it stands.
        bare: what digits alone count: "s" or "f".
        fps: frames become seconds at this rate; None leaves them frames.

    Raises:
        UsageMistake: none of these, before the film, later than a day, a part of a frame, or a sum or a share that
            another tool would work out.
    """
    text = written.strip().lower()
    if _WITH_FRAMES.fullmatch(text):
        raise UsageMistake(f"{place}: {quote(written)} counts frames behind the seconds. Write 0:00:04.5 or 4.5s.")
    if text.endswith("%"):
        raise UsageMistake(f"{place}: {quote(written)} is a share of a film. Write a frame (30) or seconds (4s).")
    if _SUM.search(text):
        raise UsageMistake(f"{place}: {quote(written)} is a sum that another tool works out. Write the number itself.")
    text = _UNIT.sub(lambda found: f"{found[1]}{found[2][0]}", _COMMA.sub(r"\1.\2", text))
    if _BARE.fullmatch(text):
        text = _count(text, written, place) if bare == "f" else f"{text}s"
    try:
        moment = parse_moment(text.replace(" ", ""))
    except UsageMistake as mistake:
        raise UsageMistake(f"{place}: {mistake}") from mistake
    if fps is None or moment.unit != "f":
        return moment
    second = round(moment.amount / fps, 6)
    if second > LONGEST_SECONDS:
        raise UsageMistake(f"{place}: frame {moment.amount:g} is later than a day of film. Write at most 24h.")
    return Length(second, "s")


def _count(text: str, written: str, place: str) -> str:
    """Digits that count frames, with their unit."""
    whole, _, part = text.partition(".")
    if part.strip("0"):
        raise UsageMistake(f"{place}: {quote(written)} is a part of a frame. Write a whole number, or {text}s.")
    if len(whole.lstrip("-0")) > 9:
        raise UsageMistake(f"{place}: frame {quote(written)} is later than a day of film. Write at most 24h.")
    return f"{int(whole or 0)}f"


def _before(start: Length, end: Length) -> bool:
    return start.unit != end.unit or start.amount < end.amount
