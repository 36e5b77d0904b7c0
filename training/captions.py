"""Puts a clip of the painted world into words, in so many ways that a person's own is among them.

Of every list of phrases the first one, the plain way to say it, is used half of the time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.text import words_of
from training.clip import ClipSpec, Companion
from training.phrases import (
    CAMERAS,
    COLORS,
    ENDINGS,
    LOOKS,
    MANNERS,
    MOTIONS,
    NIGHTS,
    OPENINGS,
    PATTERNS,
    PLACES,
    RELATIONS,
    SCENES,
    SHAPES,
    SIZES,
    WEATHERS,
)
from training.world import sample_spec

_LINKS = ("a", "an", "the", "one", "in", "that", "is", "both", "together", "and")
LONGEST = 31
"""Words in a caption; the text encoder reads 32 tokens."""
MOTION_UNSAID, STILL_UNSAID, SIZE_SAID = 0.04, 0.2, 0.55


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    """The first option half of the time, any of the others otherwise."""
    if len(options) == 1 or rng.random() < 0.5:
        return options[0]
    return options[1 + int(rng.integers(len(options) - 1))]


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _thing(spec: ClipSpec, rng: np.random.Generator, leave_open: float) -> str:
    """The object with its article."""
    color, shape = _pick(rng, COLORS[spec.color]), _pick(rng, SHAPES[spec.shape])
    if leave_open and rng.random() < leave_open:
        color = ""
    size = _pick(rng, SIZES[spec.size]) if rng.random() < SIZE_SAID else ""
    look = LOOKS[int(rng.integers(len(LOOKS)))] if rng.random() < 0.08 else ""
    pattern = _pick(rng, PATTERNS[spec.pattern]) if spec.pattern in PATTERNS else ""
    look = pattern or look
    way = rng.random()
    if way < 0.86 or not color:
        before = (size, look, color) if rng.random() < 0.85 else (color, look, size)
        words = " ".join(word for word in (*before, shape) if word)
    else:
        words = " ".join(word for word in (size, look, shape) if word)
        words += f" in {color}" if way < 0.93 else f" that is {color}"
    article = rng.random()
    if article < 0.78:
        return _with_article(words)
    return words if article < 0.88 else f"the {words}" if article < 0.97 else f"one {words}"


def _companion(companion: Companion, rng: np.random.Generator) -> str:
    """The second object with its article."""
    words = f"{_pick(rng, COLORS[companion.color])} {_pick(rng, SHAPES[companion.shape])}"
    return _with_article(words) if rng.random() < 0.8 else f"the {words}" if rng.random() < 0.7 else words


def _place(spec: ClipSpec, rng: np.random.Generator) -> str:
    """Scene, hour and weather."""
    night = _pick(rng, NIGHTS) if spec.hour == "night" else ""
    scene = _pick(rng, PLACES[spec.scene] if night else SCENES[spec.scene])
    weather = _pick(rng, WEATHERS[spec.weather]) if spec.weather in WEATHERS else ""
    if weather and rng.random() < 0.25:
        return " ".join(f"{weather} {scene} {night}".split())
    return " ".join(f"{scene} {night} {weather}".split())


def _verb(spec: ClipSpec, rng: np.random.Generator, participle: bool) -> str:
    families = MOTIONS[spec.motion]
    verbs, tails = families[0] if rng.random() < 0.5 else families[int(rng.integers(len(families)))]
    verb = verbs[0] if rng.random() < 0.4 else verbs[int(rng.integers(len(verbs)))]
    words = f"{verb[participle]} {_pick(rng, tails)}".strip()
    if rng.random() < 0.10 and spec.motion != "still":
        manner = MANNERS[int(rng.integers(len(MANNERS)))]
        words = f"{manner} {words}" if rng.random() < 0.5 else f"{words} {manner}"
    return words


def caption(
    spec: ClipSpec, rng: np.random.Generator, *, say_motion: bool | None = None, leave_open: float = 0.0
) -> str:
    """One of many ways to say what a clip shows: colour, shape, scene; mostly size and motion too.

    Args:
        spec: the clip.
        rng: the only source of chance.
        say_motion: whether the motion is said; drawn when None. What is unsaid is mostly at rest, so that
            a prompt without a verb gives a calm picture.
        leave_open: how often the colour, and how often the scene, is not said, so that such a prompt keeps what
            the film shows.

    Returns:
        Lower-case words with a comma now and then, at most `LONGEST` words.
    """
    while True:
        text = _caption(spec, rng, say_motion, leave_open)
        if len(words_of(text)) <= LONGEST:
            return text


def _caption(spec: ClipSpec, rng: np.random.Generator, say_motion: bool | None, leave_open: float) -> str:
    if say_motion is None:
        say_motion = rng.random() >= (STILL_UNSAID if spec.motion == "still" else MOTION_UNSAID)
    thing, scene = _thing(spec, rng, leave_open), _place(spec, rng)
    if leave_open and rng.random() < leave_open:
        scene = ""
    if spec.companion:
        thing = f"{thing} {_pick(rng, RELATIONS[spec.companion.relation])} {_companion(spec.companion, rng)}"
    opening = f"{OPENINGS[int(rng.integers(len(OPENINGS)))]} " if rng.random() < 0.2 else ""
    way = rng.random()
    if not say_motion:
        text = f"{opening}{thing} {scene}" if way < 0.8 else f"{scene}, {opening}{thing}"
    elif opening:
        text = f"{opening}{thing} {_verb(spec, rng, True)} {scene}"
        if way < 0.15:
            text = f"{opening}{thing} that {_verb(spec, rng, False)} {scene}"
        elif way < 0.3:
            text = f"{scene}, {opening}{thing} {_verb(spec, rng, True)}"
    elif way < 0.5:
        text = f"{thing} {_verb(spec, rng, False)} {scene}"
    elif way < 0.72:
        text = f"{thing} {_verb(spec, rng, True)} {scene}"
    elif way < 0.82:
        text = f"{scene}, {thing} {_verb(spec, rng, False)}"
    elif way < 0.88:
        text = f"{thing} is {_verb(spec, rng, True)} {scene}"
    elif way < 0.94:
        text = f"{thing} {scene}, {_verb(spec, rng, True)}"
    else:
        text = f"{scene}, {thing} is {_verb(spec, rng, True)}"
    if spec.camera == "drifting":
        text += f", {_pick(rng, CAMERAS)}"
    elif rng.random() < 0.04:
        text += f", {ENDINGS[int(rng.integers(len(ENDINGS)))]}"
    text = " ".join(text.split()).replace(" ,", ",").strip(", ")  # where no scene is said
    return text.replace("is not moving", "is not moving at all").replace("is without moving", "rests without moving")


def plain(spec: ClipSpec, *, size: bool = False) -> str:
    """The plainest caption, such as "a red ball bounces over the sea"; with its size on demand."""
    words = f"{COLORS[spec.color][0]} {SHAPES[spec.shape][0]}"
    verbs, tails = MOTIONS[spec.motion][0]
    return " ".join(
        part
        for part in (
            _with_article(f"{SIZES[spec.size][0]} {words}" if size else words),
            verbs[0][0],
            tails[0],
            SCENES[spec.scene][0],
        )
        if part
    )


def vocabulary() -> list[str]:
    """Every word a caption can hold, lower-case and sorted."""
    phrases: set[str] = {*LOOKS, *MANNERS, *OPENINGS, *ENDINGS, *_LINKS, "at all"}
    phrases.update((*NIGHTS, *CAMERAS))
    for table in (COLORS, SHAPES, SIZES, SCENES, PATTERNS, RELATIONS, WEATHERS):
        for options in table.values():
            phrases.update(options)
    for families in MOTIONS.values():
        for verbs, tails in families:
            phrases.update(form for verb in verbs for form in verb)
            phrases.update(tails)
    return sorted({word for phrase in phrases for word in words_of(phrase)})


def held_out_prompts(count: int, seed: int, *, simple: bool = True) -> list[tuple[str, ClipSpec]]:
    """Captions of combinations that training never shows, motion always said, with their clips.

    `simple` clips show one plain object in clear weather at its scene's usual hour; the others show everything.
    """
    rng = np.random.default_rng((7411, seed))
    specs = [sample_spec(rng, held_out=True, simple=simple) for _ in range(count)]
    return [(caption(spec, rng, say_motion=True), spec) for spec in specs]
