"""Where each prompt of a film begins, and how much of it every chunk shows.

A prompt can change only where a chunk starts, and "frames" means pixel frames to people and latent frames to
models; so every moment is a `Timecode` that says second, frame, latent frame and chunk, and a switch has two of
them: asked for and given.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NoReturn

from app.config.lengths import LONGEST_SECONDS, Length, Rhythm
from app.errors import UsageMistake
from app.script.script import RECACHE, Script, ScriptShot, apply_style, check_script
from pipelines.types import TIME_SCALE, Prompt, Transition

USUAL_LENGTH = Length(20, "s")
"""Of a film of which neither script nor command line says how long it is."""
_FAINT = 1e-9
"""Shares of a blend below this show in no weight and are counted to the text before."""


@dataclass(frozen=True, slots=True)
class Timecode:
    """One moment of a film in every unit people and tools use."""

    second: float
    frame: int
    latent: int
    chunk: int

    def __str__(self) -> str:
        return f"t={self.second:.2f}s  frame {self.frame}  latent {self.latent}  chunk {self.chunk}"


@dataclass(frozen=True, slots=True)
class Shot:
    """A prompt, style included, where it was asked to begin and where it begins.

    `parameters` are those in force during the shot: its own, and what earlier shots set and it leaves alone.
    """

    prompt: Prompt
    requested: Timecode
    actual: Timecode
    transition: Transition = RECACHE
    parameters: tuple[tuple[str, float], ...] = ()


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
        return self.timecode(self.frames - 1).chunk + 1

    def timecode(self, frame: int) -> Timecode:
        """Return the timecode of a pixel frame."""
        latent = (frame + TIME_SCALE - 1) // TIME_SCALE
        return Timecode(round(frame / self.fps, 6), frame, latent, self.rhythm.chunk_of(latent))

    def shot_at(self, chunk: int) -> int:
        """Return the index of the shot that a chunk belongs to."""
        return bisect_right(self.shots, chunk, key=lambda shot: shot.actual.chunk) - 1

    def blend(self, chunk: int) -> tuple[tuple[str, float], ...]:
        """The texts a chunk shows and their shares, which add up to 1, the newest text first.

        A soft transition of n chunks shows 1/(n+1) .. n/(n+1) of its text and then the whole of it, starting from
        whatever the chunk before it showed, which may itself be a blend (pipelines/conditioning.py does the same).
        """
        shares: dict[str, float] = {}
        rest, index = 1.0, self.shot_at(chunk)
        while True:
            first = self._begins(index)
            part = self._arrived(first, chunk) if rest > _FAINT else 1.0
            texts = _texts(self.shots[index].prompt)
            total = sum(weight for _, weight in texts)
            for text, weight in texts:
                shares[text] = shares.get(text, 0.0) + rest * part * weight / total
            rest *= 1 - part
            if not rest:
                return tuple(shares.items())
            index, chunk = first - 1, self.shots[first].actual.chunk - 1

    def blends(self) -> Iterator[tuple[int, range]]:
        """The shots that begin softly, by index, each with the chunks of its blend."""
        for index, (before, shot) in enumerate(pairwise(self.shots), 1):
            if shot.transition.chunks and shot.prompt != before.prompt:  # the same prompt again is no switch
                yield index, range(shot.actual.chunk, shot.actual.chunk + shot.transition.chunks)

    def blending(self, chunk: int) -> bool:
        """Whether a chunk lies within a soft transition."""
        return self._arrived(self._begins(self.shot_at(chunk)), chunk) < 1

    def _begins(self, index: int) -> int:
        """The shot with which the prompt of a shot began: the same prompt again is no switch to the stream."""
        while index and self.shots[index - 1].prompt == self.shots[index].prompt:
            index -= 1
        return index

    def _arrived(self, index: int, chunk: int) -> float:
        """How much of a shot's prompt a chunk shows."""
        shot = self.shots[index]
        done = chunk - shot.actual.chunk + 1
        if index == 0 or done > shot.transition.chunks:
            return 1.0
        return done / (shot.transition.chunks + 1)


def resolve(script: Script, *, length: Length | None, fps: float, rhythm: Rhythm) -> Timeline:
    """Give every shot its timecode: the first chunk that starts no earlier than asked.

    Args:
        script: shots in order; those without a time share what lies between their neighbours equally.
        length: of the film; None takes the script's end, else USUAL_LENGTH.
        fps: frames a second.
        rhythm: of the stream's chunks.

    Raises:
        UsageMistake: what check_script refuses; the film is too long or too short; shots that are out of order, fall
            into one chunk or begin behind the end; a transition longer than its shot.
    """
    check_script(script)
    frames = (length or script.end or USUAL_LENGTH).frames(fps, rhythm)
    if frames < 1:
        raise UsageMistake(f"The film is shorter than one frame at {fps:g} fps. Give a longer duration.")
    if frames > LONGEST_SECONDS * fps:
        raise UsageMistake("That is more than a day of film. Give at most 24h.")
    film = Timeline(fps, rhythm, frames)
    asked = _asked(script, film)
    starts = _starts(script, film, asked)
    shots: list[Shot] = []
    parameters: dict[str, float] = {}
    for shot, frame, start in zip(script.shots, asked, starts, strict=True):
        parameters |= dict(shot.parameters)
        shots.append(
            Shot(
                apply_style(shot.prompt, script.style),
                film.timecode(frame),
                film.timecode(rhythm.start_frame(start)),
                shot.transition or script.transition,
                tuple(parameters.items()),
            )
        )
    _check_transitions(script, shots, [*starts[1:], film.chunks])
    return Timeline(fps, rhythm, frames, tuple(shots))


def _asked(script: Script, film: Timeline) -> list[int]:
    """The pixel frame each shot is asked to begin at."""
    given = [None if shot.at is None else shot.at.frames(film.fps, film.rhythm) for shot in script.shots]
    given[0] = 0
    known = [index for index, frame in enumerate(given) if frame is not None]
    frames: list[int] = []
    for index, following in pairwise([*known, len(given)]):
        begin = given[index] or 0
        end = film.frames if following == len(given) else given[following] or 0
        frames += [begin + round(step * (end - begin) / (following - index)) for step in range(following - index)]
    for index, (before, frame) in enumerate(pairwise(frames), 1):
        shot = script.shots[index]
        if shot.at is not None and frame <= before:
            _fail(
                shot,
                index,
                f"is to begin at {_moment(film, frame)}, which is not after the one above it "
                f"({_moment(film, before)}). Give it a time after {before}f",
            )
        if shot.at is not None and frame >= film.frames:
            _fail(
                shot,
                index,
                f"begins at {_moment(film, frame)}, behind the end of the film ({_moment(film, film.frames)}). "
                f"Let the film last {_later(film, frame)}f or longer, or take the shot out",
            )
    return frames


def _starts(script: Script, film: Timeline, asked: list[int]) -> list[int]:
    """The chunk each shot begins with."""
    rhythm = film.rhythm
    every = range(film.chunks + 1)
    starts = [bisect_left(every, frame, key=rhythm.start_frame) for frame in asked]
    if all(shot.at is None for shot in script.shots):
        if len(set(starts)) < len(starts) or starts[-1] >= film.chunks:
            longest = max(rhythm.start_frame(chunk + 1) - rhythm.start_frame(chunk) for chunk in (0, 1))
            raise UsageMistake(
                f"{film.frames} frames are too few for {len(starts)} prompts: each needs a chunk of {longest} frames. "
                f"Give fewer prompts, or --duration {longest * len(starts)}f or longer."
            )
        return starts
    for index, (before, start) in enumerate(pairwise([-1, *starts])):
        shot = script.shots[index]
        if start >= film.chunks:
            _fail(
                shot,
                index,
                f"begins at {_moment(film, asked[index])}, and no chunk starts between there and the end of the film "
                f"({_moment(film, film.frames)}). Let the film last {_later(film, asked[index])}f or longer",
            )
        if start <= before:
            free = rhythm.start_frame(before + 1)
            _fail(
                shot,
                index,
                f"begins in the same chunk as the one above it: from {_moment(film, asked[index])} the next chunk "
                f"is {start}. Let it begin at {free}f ({free / film.fps:.2f}s) or later",
            )
    return starts


def _check_transitions(script: Script, shots: list[Shot], ends: list[int]) -> None:
    for index, (shot, written, end) in enumerate(zip(shots, script.shots, ends, strict=True)):
        room = end - shot.actual.chunk
        if index and shot.transition.chunks > room:  # the first shot opens the film: nothing to blend from
            own = written.transition is not None
            action = f"Write chunks: {room}" if own else f"Give --transition_chunks {room}"
            where = f"{written.place}: a" if written.place else "A"
            raise UsageMistake(
                f"{where} transition of {shot.transition.chunks} chunks is longer than its shot of {room}. "
                f"{action} or less, or make the shot longer."
            )


def _texts(prompt: Prompt) -> tuple[tuple[str, float], ...]:
    return ((prompt, 1.0),) if isinstance(prompt, str) else prompt


def _later(film: Timeline, frame: int) -> int:
    """Frames of the shortest film in which a shot asked for at `frame` has a whole chunk."""
    chunk = bisect_left(range(frame + 2), frame, key=film.rhythm.start_frame)
    return film.rhythm.start_frame(chunk + 1)


def _moment(film: Timeline, frame: int) -> str:
    return f"{frame / film.fps:.2f}s, frame {frame}"


def _fail(shot: ScriptShot, index: int, sentence: str) -> NoReturn:
    where = f"{shot.place}: this shot" if shot.place else f"Shot {index + 1}"
    raise UsageMistake(f"{where} {sentence}.")
