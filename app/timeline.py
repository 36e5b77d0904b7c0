"""Lengths people write, and where each prompt of a film begins.

A prompt can change only where a chunk starts, and "frames" means pixel frames to people and latent frames to
models; so every place is a `Place` that says second, frame, latent frame and chunk, and a switch has two of
them: asked for and given.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from app.errors import UsageMistake
from pipelines.types import Transition, pixel_range

LONGEST_SECONDS = 24 * 3600
"""A day of film. Streams have no end of their own; this catches `--duration 20000000s`."""
FASTEST_FPS = 240
"""The highest frame rate players and displays know."""

_CLOCK = re.compile(r"(?:(\d{1,9}):)?(\d{1,9}):([0-5]?\d(?:\.\d{1,9})?)")
_NUMBER = r"(\d{1,9}(?:\.\d{1,9})?)"
_UNITS = re.compile(rf"(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s?)?")
_COUNT = re.compile(r"(\d{1,9})([flcb])")
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


@dataclass(frozen=True, slots=True)
class Length:
    """A length as written: `amount` of seconds ("s"), pixel frames ("f"), latent frames ("l") or chunks ("c")."""

    amount: float
    unit: str

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
    written = text.strip().lower()
    shown = repr(text if len(text) <= 32 else text[:32] + "...")
    if count := _COUNT.fullmatch(written):
        length = Length(float(count[1]), "c" if count[2] == "b" else count[2])
    elif parts := _CLOCK.fullmatch(written):
        length = Length(int(parts[1] or 0) * 3600 + int(parts[2]) * 60 + float(parts[3]), "s")
    elif written and (parts := _UNITS.fullmatch(written)):
        length = Length(float(parts[1] or 0) * 3600 + float(parts[2] or 0) * 60 + float(parts[3] or 0), "s")
    elif re.fullmatch(r"-[\d.:]+[hmsflcb]?", written):
        raise UsageMistake(f"A film cannot be {shown} long. Give a length above zero, for example 20s.")
    else:
        raise UsageMistake(f"This is not a duration: {shown}. {_FORMS}")
    if length.amount <= 0:
        raise UsageMistake(f"A film of {shown} has no frames. Give a length above zero, for example 20s.")
    if length.amount > LONGEST_SECONDS * (1 if length.unit == "s" else FASTEST_FPS):
        raise UsageMistake(f"{shown} is longer than a day of film. Give at most 24h.")
    return length


@dataclass(frozen=True, slots=True)
class Place:
    """One moment of a film in every unit people and tools use."""

    second: float
    frame: int
    latent: int
    chunk: int

    def __str__(self) -> str:
        return f"t={self.second:.2f}s  frame {self.frame}  latent {self.latent}  chunk {self.chunk}"


@dataclass(frozen=True, slots=True)
class Shot:
    """A prompt, where it was asked to begin and where it begins."""

    prompt: str
    requested: Place
    actual: Place


@dataclass(frozen=True, slots=True)
class Timeline:
    """What to show when, over `frames` pixel frames."""

    fps: float
    rhythm: Rhythm
    frames: int
    shots: tuple[Shot, ...] = ()

    @property
    def chunks(self) -> int:
        """How many chunks the film needs; the last one may be shown in part."""
        return self.place(self.frames - 1).chunk + 1

    def place(self, frame: int) -> Place:
        """Return the place of a pixel frame."""
        latent = bisect_right(range(frame + 1), frame, key=lambda latent: pixel_range(latent).start) - 1
        return Place(round(frame / self.fps, 6), frame, latent, self.rhythm.chunk_of(latent))

    def shot_at(self, chunk: int) -> int:
        """Return the index of the shot that a chunk belongs to."""
        return bisect_right(self.shots, chunk, key=lambda shot: shot.actual.chunk) - 1


def share_equally(
    prompts: Sequence[str], length: Length, *, fps: float, rhythm: Rhythm, transition: Transition
) -> Timeline:
    """Give every prompt the same share of the film; each begins at the first chunk that starts no earlier
    than asked.

    Raises:
        UsageMistake: the film is too long, too short for its prompts, or too short for the transition between
        them.
    """
    frames = length.frames(fps, rhythm)
    if frames < 1:
        raise UsageMistake(f"The film is shorter than one frame at {fps:g} fps. Give a longer duration.")
    if frames > LONGEST_SECONDS * fps:
        raise UsageMistake("That is more than a day of film. Give at most 24h.")
    film = Timeline(fps, rhythm, frames)
    shots: list[Shot] = []
    for index, prompt in enumerate(prompts):
        asked = round(index * frames / len(prompts))
        chunk = bisect_left(range(film.chunks + 1), asked, key=rhythm.start_frame)
        shots.append(Shot(prompt, film.place(asked), film.place(rhythm.start_frame(chunk))))
    starts = [shot.actual.chunk for shot in shots]
    lengths = [end - start for start, end in zip(starts, [*starts[1:], film.chunks], strict=True)]
    if min(lengths) < 1:
        longest = max(rhythm.start_frame(chunk + 1) - rhythm.start_frame(chunk) for chunk in (0, 1))
        raise UsageMistake(
            f"{frames} frames are too few for {len(prompts)} prompts: each needs a chunk of {longest} frames. "
            f"Give fewer prompts, or --duration {longest * len(prompts)}f or longer."
        )
    later = lengths[1:]  # the first shot opens the film: nothing to blend from
    if later and min(later) < transition.chunks:
        raise UsageMistake(
            f"A transition of {transition.chunks} chunks is longer than a shot of {min(later)}. "
            f"Give --transition_chunks {min(later)} or less, or a longer film."
        )
    return Timeline(fps, rhythm, frames, tuple(shots))
