"""How people say what the painted world shows: every colour, shape, motion, place and hour in many words.

In every list the first phrase is the plain way to say it. Every word the text encoder knows comes from these lists: a
word that training never showed would mean nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    "cross": ("cross", "plus", "plus sign"),
    "diamond": ("diamond", "gem", "rhombus", "kite"),
    "flower": ("flower", "blossom", "daisy"),
}
PATTERNS: dict[str, tuple[str, ...]] = {
    "striped": ("striped", "stripy"),
    "dotted": ("dotted", "spotted", "polka dot"),
}
RELATIONS: dict[str, tuple[str, ...]] = {
    "above": ("above", "on top of", "higher than", "right above"),
    "below": ("below", "under", "beneath", "underneath"),
    "left": ("to the left of", "left of", "on the left of"),
    "right": ("to the right of", "right of", "on the right of"),
}
"""Where an object is, seen from its companion."""
WEATHERS: dict[str, tuple[str, ...]] = {
    "rain": ("in the rain", "while it rains", "on a rainy day", "in heavy rain", "in rainy weather"),
    "fog": ("in the fog", "in thick fog", "in the mist", "on a foggy day", "in misty weather"),
}
NIGHTS = ("at night", "by night", "under the stars", "in the dark", "in the moonlight")
"""The night of a scenery that has a day as well."""
CAMERAS = ("the camera drifts", "the camera moves slowly", "with a drifting camera", "with gentle camera motion")
"""A camera that does not stand still."""
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
PLACES = {
    scene: tuple(phrase for phrase in phrases if not {"sunny", "daylight"} & set(phrase.split()))
    for scene, phrases in SCENES.items()
}
"""Scenes in words that do not say it is day."""
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
