"""Subtitles of a film, its prompts as WebVTT: what was asked for, shown while the film plays.

A file of its own beside the film, because burnt-in text spoils pictures and few players show text tracks of an
MP4; VLC and mpv load out.vtt with out.mp4 unasked, and a web page takes it as a <track>.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from app.atomic import write_text

_MEANT = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\0": "�"}


@dataclass(frozen=True, slots=True)
class Chapter:
    """A stretch of a film under one title; `start` and `end` in seconds."""

    start: float
    end: float
    title: str


def chapters_of(shots: Sequence[tuple[float, str]], seconds: float) -> tuple[Chapter, ...]:
    """Turn shots (begin in seconds, prompt) into chapters; a shot that begins past the film's end has none."""
    begun = [shot for shot in shots if shot[0] < seconds]
    ends = [start for start, _ in [*begun[1:], (seconds, "")]]
    return tuple(Chapter(start, end, title) for (start, title), end in zip(begun, ends, strict=False))


def numbered(chapters: Sequence[Chapter]) -> tuple[Chapter, ...]:
    """The same chapters under titles that tell nothing of what was asked for."""
    return tuple(replace(chapter, title=f"Shot {number}") for number, chapter in enumerate(chapters, 1))


def write_vtt(chapters: Sequence[Chapter], path: Path) -> None:
    """Write a cue a chapter, whole or not at all.

    Any text is legal: markup and "-->" are escaped, lines kept, empty lines (which end a cue) dropped. A chapter
    shorter than a millisecond, or of white space only, has no cue.
    """
    cues: list[str] = []
    for chapter in chapters:
        start, end = round(chapter.start * 1000), round(chapter.end * 1000)
        text = cue_text(chapter.title)
        if end > start and text:
            cues.append(f"{_clock(start)} --> {_clock(end)}\n{text}\n")
    write_text(path, "\n".join(["WEBVTT\n", *cues]))


def cue_text(text: str) -> str:
    """Escape a text for the payload of a WebVTT cue."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", text)]
    return "".join(_MEANT.get(letter, letter) for letter in "\n".join(line for line in lines if line))


def _clock(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}.{rest:03d}"
