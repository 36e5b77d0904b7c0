"""Readers: what a setting may be, for values from flags, overrides and files alike (app/config/table.py has them all).

A value comes as text from a command line and typed from a program; both are read here, so that a mistake is told in
the same words wherever it was made, with its place in front.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction
from typing import Any, Literal, NoReturn, TypeVar, cast

from app.config.lengths import FASTEST_FPS, parse_length
from app.errors import UsageMistake, printable, shorten

Name = TypeVar("Name", bound=str)
Reader = Callable[[str, object], Any]
"""(label, value) -> value of the setting; the label says where it was given and its name, for UsageMistake."""

SEED_LIMIT = 2**63
LARGEST_SIDE = 4096
"""Pixels of the engine's picture, either way."""
VIEWING_SIDE = 384
"""Small films are enlarged by the largest whole factor that keeps their short side within this many pixels."""
LARGEST_PICTURE = 8192
"""Pixels of the enlarged picture, either way: what players still decode."""
MOST_THREADS = max(256, 4 * (os.cpu_count() or 1))
"""torch starts every thread that it is given, and the system ends a process that starts too many."""
ENCODER_PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")
"""x264's, from the fastest on; the third is what a film gets."""
DEVICES = ("auto", "cpu", "cuda", "mps")
"""As pipelines.components.DEVICES."""
ATTENTION = ("auto", "native", "math", "cudnn", "flash", "flash3", "sage", "xformers")
"""Attention kernels; which of them work here, and how fast, `rivulet bench attention` measures."""
MOST_RANKS = 64
"""As parallel.MOST_RANKS."""
SEED_MODES = ("fixed", "increment", "random")
FitKind = Literal["crop", "pad", "stretch"]
"""How a video's picture becomes one of the film's shape."""
FITS: tuple[FitKind, ...] = ("crop", "pad", "stretch")
TURNS = (0, 90, 180, 270)
"""Degrees, clockwise."""
LEAST_LATENCY, MOST_LATENCY = 0.05, 30.0
"""Seconds that may be asked for."""

_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_WHOLE = re.compile(r"[-+]?\d{1,25}", re.ASCII)
_NUMBER = re.compile(r"[-+]?(\d{1,30}(\.\d{0,30})?|\.\d{1,30})([eE][-+]?\d{1,3})?", re.ASCII)
_TIME = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)\s*(ms|s)?", re.ASCII)
_MEMORY = re.compile(r"(\d{1,5}(?:\.\d{1,3})?) ?([mg](?:i?b)?)", re.ASCII)
_NTSC = (24, 30, 48, 60, 120)
_LONGEST_TEXT = 4096
_MOST_ITEMS = 10_000
_MOST_LORAS, _MOST_STRENGTH = 16, 10.0


def choose(name: str, choices: Sequence[Name], what: str, label: str = "") -> Name:
    """Return the choice called `name`; if there is none, say which there are and which is nearest."""
    for choice in choices:
        if choice == name:
            return choice
    near = get_close_matches(name.lower()[:80], choices, n=1, cutoff=0.3)
    shown, known = repr(printable(shorten(name, 40))), shorten(", ".join(choices), 300)
    if label:
        hint = f" (nearest: {near[0]})" if near else ""
        raise UsageMistake(f"{label}: there is no {what} {shown}. Choose from {known}{hint}.")
    hint = f"; did you mean {near[0]}?" if near else "."
    raise UsageMistake(f"There is no {what} {shown}: choose from {known}{hint}")


def one_of(choices: Sequence[str], what: str) -> Reader:
    """A reader of one of some names."""

    def read(label: str, value: object) -> str:
        # A flag's name says no more than `what`; the place in a file does.
        return choose(_text(value), choices, what, "" if label.startswith("--") else label)

    return read


@dataclass(frozen=True, slots=True)
class Whole:
    """A reader of whole numbers from `least` to `most`; `give` says for the error what to write instead."""

    least: int
    most: int
    give: str = ""

    def __call__(self, label: str, value: object) -> int:
        known = self.give or f"{self.least} to {self.most}"
        written = value if isinstance(value, int) and not isinstance(value, bool) else None
        if written is None and _WHOLE.fullmatch(_text(value)):
            written = int(_text(value))
        if written is None:
            _wrong(label, value, "is not a whole number", known)
        if not self.least <= written <= self.most:
            _wrong(label, value, "is out of range", known)
        return written


def number(label: str, value: object) -> float:
    """Read a finite number; what it may be is the business of who uses it."""
    if _NUMBER.fullmatch(_text(value)) is None or not abs(float(_text(value))) < 1e100:
        _wrong(label, value, "is not a number", "digits, for example 2.5")
    return float(_text(value))


def strength(label: str, value: object) -> float:
    """Read a share above 0, and at most 1."""
    found = number(label, value)
    if not 0 < found <= 1:
        _wrong(label, value, "is out of range", "more than 0, and at most 1")
    return found


def quarter_turn(label: str, value: object) -> int:
    """Read 0, 90, 180 or 270 degrees."""
    written = _text(value).strip()
    if written not in map(str, TURNS):
        _wrong(label, value, "is no quarter turn", "90, 180 or 270")
    return int(written)


def latency(label: str, value: object) -> str:
    """Read `400ms`, `0.4s` or `0.4`; kept as written."""
    written = _text(value).strip()
    if not LEAST_LATENCY <= latency_seconds(written) <= MOST_LATENCY:
        range_ = f"{1000 * LEAST_LATENCY:g}ms to {MOST_LATENCY:g}s"
        _wrong(label, value, f"is no time from {range_}", "one like 400ms")
    return written


def latency_seconds(written: str) -> float:
    """Seconds of what `latency` read; 0 of anything else."""
    found = _TIME.fullmatch(written)
    return 0.0 if found is None else float(found[1]) / (1000 if found[2] == "ms" else 1)


def truth(label: str, value: object) -> bool:
    """Read true or false, or what else says so."""
    found = value if isinstance(value, bool) else _WORDS.get(_text(value).lower())
    if found is None:
        _wrong(label, value, "is neither true nor false", "true or false")
    return found


def text(what: str) -> Reader:
    """A reader of names and paths."""

    def read(label: str, value: object) -> str:
        written = _text(value)
        if not isinstance(value, str | int | float) or isinstance(value, bool) or not written.strip():
            raise UsageMistake(f"{label} is empty or no text. Give {what}.")
        if "\0" in written or any("\ud800" <= c <= "\udfff" for c in written):
            raise UsageMistake(f"{label} holds a NUL byte or bytes that are not text. Give {what}.")
        if len(written) > _LONGEST_TEXT:
            raise UsageMistake(f"{label} has {len(written)} characters. Give {what}.")
        return written

    return read


def memory(label: str, value: object) -> str:
    """Read auto, or 12GB, 12G, 11.5 GiB, 900MB, or what to trade: text+tiny; kept as written."""
    written = _text(value).strip()
    if written[:1].isalpha() and written.lower() != "auto":
        from pipelines.memory_plan import read_memory_plan  # few commands need it

        try:
            return read_memory_plan(written.lower()).written
        except ValueError as error:
            raise UsageMistake(f"{label}: {error}; or give auto, or for example 12GB.") from None
    if written.lower() != "auto" and _MEMORY.fullmatch(written.lower()) is None:
        _wrong(label, value, "is no amount of memory", "auto, or for example 12GB")
    if written.lower() != "auto" and not 10**8 <= memory_bytes(written) <= 10**13:
        _wrong(label, value, "is out of range", "0.1GB to 10000GB")
    return written


def memory_bytes(written: str) -> int:
    """Bytes of what `memory` read; GB are thousands, GiB are powers of two."""
    number, unit = _MEMORY.fullmatch(written.strip().lower()).groups()  # pyright: ignore[reportOptionalMemberAccess]
    scale = {"m": 10**6, "mb": 10**6, "mib": 2**20, "g": 10**9, "gb": 10**9, "gib": 2**30}
    return int(float(number) * scale[unit])


def plan_of_ranks(label: str, value: object) -> str:
    """Read a plan that spreads a film over ranks: levels=2, layers=2, ulysses=2, clips=2, cascade=2, auto=2, single."""
    from parallel import read_plan  # few commands need it

    written = _text(value).strip()
    try:
        read_plan(written)
    except ValueError as error:
        told = str(error)
        raise UsageMistake(f"{label}: {told}.") from None
    return written


def scope(label: str, value: object) -> str:
    """Read a dual scope, 4+2, or none."""
    from cache import DualScope  # few commands need it

    written = _text(value).strip().lower()
    if written == "none":
        return written
    try:
        return DualScope.read(written).written
    except ValueError as error:
        raise UsageMistake(f"{label}: {error}, or none.") from None


def loras(label: str, value: object) -> tuple[str, ...]:
    """Read FILE or FILE:STRENGTH, one or several; whether a file is a LoRA is found out later."""
    items = _items(value)
    if len(items) > _MOST_LORAS:
        raise UsageMistake(f"{label}: {len(items)} LoRAs are more than {_MOST_LORAS}. Merge some of them before.")
    found = tuple(text("a LoRA's file, for example style.safetensors:0.8")(label, item) for item in items)
    for written in found:
        strength = lora_parts(written)[1]
        if not 0 < abs(strength) <= _MOST_STRENGTH:
            _wrong(label, written, "has a strength out of range", f"FILE:STRENGTH, up to {_MOST_STRENGTH:g} and not 0")
    return found


def lora_parts(written: str) -> tuple[str, float]:
    """The file and the strength of `style.safetensors:0.8`; 1 where none is written."""
    file, colon, strength = written.rpartition(":")
    if colon and file and _NUMBER.fullmatch(strength) is not None:
        return file, float(strength)
    return written, 1.0


def prompts(label: str, value: object) -> tuple[str, ...]:
    """Read one text or several; whether a model could film them is found out later."""
    items = _items(value)
    if any(not isinstance(item, str) for item in items) or not 1 <= len(items) <= _MOST_ITEMS:
        raise UsageMistake(f"{label} has to be a text or a list of texts. Weighted prompts go into a script.")
    return tuple(str(item) for item in items)


def steps(label: str, value: object) -> tuple[float, ...]:
    """Read `1000,750,500,250`, with or without brackets, or a list of numbers."""
    items = _numbers(value)
    if len(items) > _MOST_ITEMS:
        _wrong(label, f"of {len(items)} numbers", "is too long", "1 to 1000")
    return tuple(number(label, item) for item in items)


def places(label: str, value: object) -> tuple[int, ...]:
    """Read `40,80,120`, latent frames that rise."""
    read = Whole(1, 10**8, "latent frames that rise, for example 40,80,120")
    found: list[int] = [read(label, item) for item in _numbers(value)]
    if found != sorted(set(found)):
        _wrong(label, value, "does not rise", "each switch a later latent frame")
    return tuple(found)


def duration(label: str, value: object) -> str:
    """Read a length; kept as written, because what it is in frames the model decides."""
    return _length(label, _text(value))


def count_of(unit: str) -> Reader:
    """A reader of lengths in frames ("f") or latent frames ("l")."""
    read = Whole(-(10**25), 10**25, "digits, for example 320")

    def read_count(label: str, value: object) -> int:
        found = read(label, value)
        _length(label, f"{found}{unit}")
        return found

    return read_count


def frame_rate(label: str, value: object) -> str:
    """Read 16, 23.976 or 30000/1001; kept as an exact fraction."""
    written = _text(value).strip()
    try:
        if re.fullmatch(r"\d{1,6}(\.\d{1,6}|/\d{1,4})?", written, re.ASCII) is None:
            raise ValueError(written)
        rate = Fraction(written).limit_denominator(1001)
        for whole_rate in _NTSC if "." in written else ():
            if abs(rate - Fraction(whole_rate * 1000, 1001)) < Fraction(5, 1000):
                rate = Fraction(whole_rate * 1000, 1001)  # what people mean by 23.976 and 29.97
    except (ValueError, ZeroDivisionError):
        _wrong(label, value, "is not a frame rate", "frames a second, for example 16")
    if not 1 <= rate <= FASTEST_FPS:
        _wrong(label, value, "is out of range", f"1 to {FASTEST_FPS}")
    return str(rate)


def size(label: str, value: object) -> tuple[int, int]:
    """Read WIDTHxHEIGHT; returns (height, width)."""
    found = re.fullmatch(r"(\d{1,5}) ?[x\u00d7] ?(\d{1,5})", _text(value).strip().lower(), re.ASCII)
    if found is None:
        _wrong(label, value, "is not a size", "width x height, for example 96x96")
    read = Whole(8, LARGEST_SIDE)
    return read(label, found[2]), read(label, found[1])


def check_enlarged(label: str, height: int | None, width: int | None, scale: int) -> None:
    """Refuse a picture that is too large once it is enlarged; a side that is None is the model's own.

    Raises:
        UsageMistake: names the largest scale that is not.
    """
    side = max(height or 0, width or 0)
    if side * scale > LARGEST_PICTURE:
        raise UsageMistake(
            f"{label} {scale} makes {side * scale} pixels of {side}, more than {LARGEST_PICTURE}. "
            f"Give a scale of {LARGEST_PICTURE // side} or less."
        )


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else ""


def _items(value: object) -> Sequence[object]:
    return cast("Sequence[object]", value) if isinstance(value, list | tuple) else (value,)


def _numbers(value: object) -> Sequence[object]:
    """The items of a list, or of a text like 40,80 or [40, 80]."""
    if isinstance(value, list | tuple):
        return cast("Sequence[object]", value)
    return _text(value).strip("[]() ").split(",")


def _length(label: str, written: str) -> str:
    try:
        parse_length(written)
    except UsageMistake as mistake:
        raise UsageMistake(f"{label}: {mistake}") from None
    return written


def _wrong(label: str, value: object, why: str, give: str) -> NoReturn:
    shown = printable(shorten(_text(value), 40)) or ("(a list)" if isinstance(value, list | tuple) else "''")
    raise UsageMistake(f"{label} {shown} {why}. Give {give}.")
