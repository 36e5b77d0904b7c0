"""Lengths and moments as people write them, in seconds, frames, latent frames or chunks.

"frames" means pixel frames to people and latent frames to models, so a length keeps the unit it was written in until
the rhythm of a stream says what it is in frames.
"""

import re
from dataclasses import dataclass
from decimal import Decimal

from app.errors import UsageMistake
from pipelines.types import pixel_range

LONGEST_SECONDS = 24 * 3600
"""A day of film. Streams have no end of their own; this catches `--duration 20000000s`."""
FASTEST_FPS = 240
"""The highest frame rate players and displays know."""

_CLOCK = re.compile(r"(?:(\d{1,9}):)?(\d{1,9}):([0-5]?\d(?:\.\d{1,30})?)")
_NUMBER = r"(\d{1,9}(?:\.\d{1,30})?)"  # 30: what writing a float out in full can take
_UNITS = re.compile(rf"(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s?)?")
_COUNT = re.compile(r"(\d{1,9})([flcb])")
_NEGATIVE = re.compile(r"-[\d.:]+[hmsflcb]?")
_FORMS = "Write it like 20s, 0:20, 1m30s, 320f (frames), 32l (latent frames) or 11c (chunks)."


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How a stream divides latent frames into chunks: `first` in chunk 0, `chunk` in every later one."""

    first: int
    chunk: int

    def start(self, chunk: int) -> int:
        """Return the first latent frame of a chunk."""
        return 0 if chunk == 0 else self.first + (chunk - 1) * self.chunk

    def start_frame(self, chunk: int) -> int:
        """Return the first pixel frame of a chunk."""
        return pixel_range(self.start(chunk)).start

    def chunk_of(self, latent: int) -> int:
        """Return the chunk that a latent frame belongs to."""
        return 0 if latent < self.first else 1 + (latent - self.first) // self.chunk

    def within(self, most: int) -> list[int]:
        """Latent frames of each of the first chunks, as many as a memory of `most` frames holds; one at least."""
        parts = [self.first]
        while sum(parts) + self.chunk <= most:
            parts.append(self.chunk)
        return parts


@dataclass(frozen=True, slots=True)
class Length:
    """A length as written: `amount` of seconds ("s"), pixel frames ("f"), latent frames ("l") or chunks ("c")."""

    amount: float
    unit: str

    def __str__(self) -> str:
        """As people write it; reading it back gives the same length."""
        digits = format(Decimal(repr(self.amount)), "f")
        return f"{digits.rstrip('0').rstrip('.') if '.' in digits else digits}{self.unit}"

    def frames(self, fps: float, rhythm: Rhythm) -> int:
        """Return how many pixel frames that is."""
        if self.unit == "s":
            return round(self.amount * fps)
        if self.unit == "f":
            return int(self.amount)
        count = int(self.amount)
        return pixel_range(count if self.unit == "l" else rhythm.start(count)).start


def parse_length(text: str) -> Length:
    """Read `20s`, `20`, `0:20`, `1:02:03`, `1m30s`, `2.5h`, `320f`, `32l` or `11c` (`11b` too).

    Raises:
        UsageMistake: not one of these forms, zero, or longer than a day.
    """
    length = _read(text)
    if length is None and _NEGATIVE.fullmatch(text.strip().lower()):
        raise UsageMistake(f"A film cannot be {_shown(text)} long. Give a length above zero, for example 20s.")
    if length is None:
        raise UsageMistake(f"This is not a duration: {_shown(text)}. {_FORMS}")
    if length.amount <= 0:
        raise UsageMistake(f"A film of {_shown(text)} has no frames. Give a length above zero, for example 20s.")
    if _past_a_day(length):
        raise UsageMistake(f"{_shown(text)} is longer than a day of film. Give at most 24h.")
    return length


def parse_moment(text: str) -> Length:
    """Read where in a film something begins: the forms of parse_length, and zero.

    Raises:
        UsageMistake: not one of these forms, before the film, or later than a day.
    """
    moment = _read(text)
    if moment is None and _NEGATIVE.fullmatch(text.strip().lower()):
        raise UsageMistake(f"{_shown(text)} is before the film begins. Write 0s or later.")
    if moment is None:
        raise UsageMistake(f"{_shown(text)} is not a time. {_FORMS}")
    if _past_a_day(moment):
        raise UsageMistake(f"{_shown(text)} is later than a day of film. Write at most 24h.")
    return moment


def _read(text: str) -> Length | None:
    written = text.strip().lower()
    if count := _COUNT.fullmatch(written):
        return Length(float(count[1]), "c" if count[2] == "b" else count[2])
    if parts := _CLOCK.fullmatch(written):
        return Length(int(parts[1] or 0) * 3600 + int(parts[2]) * 60 + float(parts[3]), "s")
    if written and (parts := _UNITS.fullmatch(written)):
        return Length(float(parts[1] or 0) * 3600 + float(parts[2] or 0) * 60 + float(parts[3] or 0), "s")
    return None


def _past_a_day(length: Length) -> bool:
    return length.amount > LONGEST_SECONDS * (1 if length.unit == "s" else FASTEST_FPS)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 32 else text[:32] + "...")
