"""Puts a clip of the painted world into words, in so many ways that a person's own is among them.

In every list of phrases the first one is the plain way to say it and is used half of the time. Every word the
text encoder knows comes from these lists: a word that training never showed would mean nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.text import words_of
from training.world import ClipSpec, sample_spec

COLORS: dict[str, tuple[str, ...]] = {
    "red": ("red", "crimson", "scarlet", "ruby", "cherry red", "bright red"),
    "orange": ("orange", "tangerine", "bright orange", "pumpkin orange"),
    "yellow": ("yellow", "golden", "lemon yellow", "bright yellow", "gold"),
    "green": ("green", "emerald", "bright green", "emerald green"),
    "blue": ("blue", "azure", "cobalt", "sapphire", "bright blue", "deep blue"),
    "purple": ("purple", "violet", "deep purple"),
    "pink": ("pink", "rosy", "light pink", "rose colored", "bright pink"),
    "white": ("white", "ivory", "pearl white", "pure white"),
}
SHAPES: dict[str, tuple[str, ...]] = {
    "ball": ("ball", "sphere", "orb", "circle"),
    "square": ("square", "cube", "box", "block"),
    "triangle": ("triangle", "pyramid"),
    "star": ("star",),
    "ring": ("ring", "hoop", "donut"),
    "heart": ("heart",),
}
SIZES: dict[str, tuple[str, ...]] = {
    "small": ("small", "little", "tiny", "very small"),
    "big": ("big", "large", "huge", "giant", "very big"),
}
_SIDEWAYS = (
    ("moves", "moving"),
    ("drifts", "drifting"),
    ("glides", "gliding"),
    ("floats", "floating"),
    ("slides", "sliding"),
    ("flies", "flying"),
    ("sails", "sailing"),
    ("travels", "traveling"),
    ("goes", "going"),
)
_UPRIGHT = (
    ("moves", "moving"),
    ("floats", "floating"),
    ("drifts", "drifting"),
    ("goes", "going"),
    ("flies", "flying"),
    ("glides", "gliding"),
)
Verb = tuple[str, str]
MOTIONS: dict[str, tuple[tuple[Sequence[Verb], tuple[str, ...]], ...]] = {
    "left": (
        (
            _SIDEWAYS,
            (
                "to the left",
                "left",
                "leftwards",
                "leftward",
                "towards the left",
                "toward the left",
                "from right to left",
                "to the left side",
            ),
        ),
    ),
    "right": (
        (
            _SIDEWAYS,
            (
                "to the right",
                "right",
                "rightwards",
                "rightward",
                "towards the right",
                "toward the right",
                "from left to right",
                "to the right side",
            ),
        ),
    ),
    "up": (
        (_UPRIGHT, ("up", "upwards", "upward", "to the top")),
        ((("rises", "rising"), ("climbs", "climbing"), ("ascends", "ascending")), ("",)),
        ((("rises", "rising"), ("soars", "soaring")), ("up", "upwards")),
    ),
    "down": (
        (_UPRIGHT, ("down", "downwards", "downward", "to the bottom")),
        (
            (("falls", "falling"), ("sinks", "sinking"), ("descends", "descending"), ("drops", "dropping")),
            ("",),
        ),
        ((("falls", "falling"), ("sinks", "sinking")), ("down", "downwards")),
    ),
    "bounce": (
        ((("bounces", "bouncing"),), ("", "up and down")),
        ((("jumps", "jumping"), ("hops", "hopping")), ("", "up and down")),
    ),
    "orbit": (
        (
            _SIDEWAYS,
            ("in a circle", "in circles", "around in a circle", "around in circles", "round and round"),
        ),
        ((("circles", "circling"), ("orbits", "orbiting")), ("", "around", "around the center")),
    ),
    "still": (
        ((("stays", "staying"), ("stands", "standing"), ("sits", "sitting")), ("still", "in place")),
        ((("rests", "resting"), ("waits", "waiting"), ("hovers", "hovering")), ("",)),
        ((("hangs", "hanging"), ("hovers", "hovering"), ("floats", "floating")), ("in place", "motionless")),
        ((("is still", "not moving"), ("does not move", "without moving")), ("",)),
    ),
    "spin": (
        ((("spins", "spinning"),), ("", "around", "in place")),
        ((("turns", "turning"), ("rotates", "rotating"), ("twirls", "twirling")), ("", "around", "in place")),
    ),
}
"""Motion -> families of (verbs as finite form and participle, what may follow the verb)."""
SCENES: dict[str, tuple[str, ...]] = {
    "day": (
        "in the sky",
        "in the blue sky",
        "in a cloudy sky",
        "under a blue sky",
        "among the clouds",
        "in front of white clouds",
        "on a sunny day",
        "high in the sky",
        "in the clouds",
        "in daylight",
        "in the day sky",
        "in a sky with clouds",
    ),
    "night": (
        "in the starry night",
        "at night",
        "in the night sky",
        "under the stars",
        "under a starry sky",
        "on a starry night",
        "in the moonlight",
        "among the stars",
        "under the moon",
        "in a dark sky with stars",
    ),
    "sunset": (
        "at sunset",
        "over the sea at sunset",
        "over the water at sunset",
        "in the sunset",
        "at dusk",
        "in the evening",
        "in front of the setting sun",
        "in an orange evening sky",
        "over the ocean at sunset",
        "against the sunset",
        "while the sun sets",
        "over calm water in the evening",
    ),
    "meadow": (
        "over the meadow",
        "over a meadow",
        "in a meadow",
        "over green hills",
        "above the flowers",
        "on the grass",
        "over the green grass",
        "in a field of flowers",
        "over a green field",
        "on a meadow with flowers",
    ),
    "desert": (
        "in the desert",
        "over the desert",
        "over the sand",
        "over desert sand",
        "over the dunes",
        "above the sand dunes",
        "in a sandy desert",
        "over golden sand",
        "in a desert with a cactus",
        "on the sand",
    ),
    "sea": (
        "over the sea",
        "over the ocean",
        "above the waves",
        "over the blue sea",
        "over the waves",
        "above the sea",
        "on the water",
        "over the water",
        "on the sea",
        "over blue waves",
        "at sea",
    ),
    "snow": (
        "over snow",
        "over the snow",
        "in the snow",
        "on a snowy field",
        "over a snowy field",
        "in winter",
        "in falling snow",
        "while it snows",
        "over snowy hills",
        "above the snow",
        "in a snowy forest",
        "over white snow",
    ),
    "city": (
        "over the city at night",
        "over the city",
        "in the city at night",
        "in a city at night",
        "above the skyline",
        "over the rooftops",
        "in the city",
        "above the city",
        "in front of city lights",
        "over the town at night",
        "above the houses at night",
    ),
}
LOOKS = ("shiny", "glossy", "beautiful", "pretty", "cute", "lovely", "bright", "smooth")
MANNERS = ("slowly", "gently", "smoothly", "happily", "quietly", "calmly", "softly")
OPENINGS = (
    "a video of",
    "a film of",
    "a clip of",
    "a movie of",
    "an animation of",
    "a cartoon of",
    "a picture of",
    "a scene with",
    "a view of",
    "there is",
    "we see",
    "i see",
    "show me",
    "make",
    "imagine",
    "watch",
    "look at",
    "here is",
    "this is",
    "now",
)
ENDINGS = (
    "in a cartoon style",
    "in bright colors",
    "in soft light",
    "in a calm mood",
    "as a cartoon",
    "please",
)
_LINKS = ("a", "an", "the", "one", "in", "that", "is")
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
        Lower-case words with a comma now and then, at most 32 words.
    """
    if say_motion is None:
        say_motion = rng.random() >= (STILL_UNSAID if spec.motion == "still" else MOTION_UNSAID)
    thing, scene = _thing(spec, rng, leave_open), _pick(rng, SCENES[spec.scene])
    if leave_open and rng.random() < leave_open:
        scene = ""
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
    if rng.random() < 0.04:
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
    for table in (COLORS, SHAPES, SIZES, SCENES):
        for options in table.values():
            phrases.update(options)
    for families in MOTIONS.values():
        for verbs, tails in families:
            phrases.update(form for verb in verbs for form in verb)
            phrases.update(tails)
    return sorted({word for phrase in phrases for word in words_of(phrase)})


def held_out_prompts(count: int, seed: int) -> list[tuple[str, ClipSpec]]:
    """Captions of combinations that training never shows, motion always said, with their clips."""
    rng = np.random.default_rng((7411, seed))
    specs = [sample_spec(rng, held_out=True) for _ in range(count)]
    return [(caption(spec, rng, say_motion=True), spec) for spec in specs]
