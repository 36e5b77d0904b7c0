"""Example prompts to click: scenes that the embedded model can show, and the words from which a surprise is made.

Its world has few words (training/captions.py), and a first click that it cannot follow would be a poor welcome.
"""

from app.loading.engine_request import EngineRequest

Scene = tuple[str, str]

EMBEDDED: tuple[Scene, ...] = (
    ("Sea", "a red ball bounces over the sea"),
    ("Night", "a yellow star moves to the left in the starry night"),
    ("Meadow", "a pink heart floats up over the meadow"),
    ("Snow", "a blue square spins over snow"),
    ("Sunset", "a white ring moves in a circle at sunset"),
    ("City", "a purple triangle moves up over the city at night"),
    ("Desert", "a green ball moves to the right in the desert"),
    ("Sky", "an orange star spins in the sky"),
)
WORDS: tuple[tuple[str, ...], ...] = (
    ("small", "big"),
    ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white"),
    ("ball", "square", "triangle", "star", "ring", "heart"),
    ("moves to the left", "moves to the right", "moves up", "moves in a circle", "bounces", "spins", "stays still"),
    ("in the sky", "in the starry night", "at sunset", "over the meadow", "in the desert", "over the sea", "over snow"),
)
"""A surprise for the embedded model: one of each, in this order."""
PERFORMANCE: tuple[str, ...] = (
    "a big blue ball bounces over the sea",
    "a big blue ball bounces over the snow",
    "a big blue star spins over the snow",
    "a big yellow star spins in the starry night",
    "a big yellow heart floats up in the starry night",
    "a big pink heart floats up over the meadow",
    "a big pink ball bounces over the meadow",
    "a big red ball bounces over the sea",
)
"""What the page shows of its own accord while nobody types: from each to the next one or two things change."""
OPEN: tuple[Scene, ...] = (
    ("Fox", "A red fox walks through fresh snow in a birch forest at dawn, soft light, shallow depth of field."),
    ("Harbour", "Fishing boats rock in a small harbour while gulls circle above, overcast light, handheld camera."),
    ("Rain", "A tram passes through a rainy city street at night, neon signs mirrored on the wet asphalt."),
    ("Reef", "A sea turtle glides over a coral reef, sunbeams move through clear blue water."),
    ("Kitchen", "Hands knead dough on a floured wooden table beside a window, warm morning light."),
    ("Ridge", "A drone flies along a mountain ridge as clouds roll over it, wide shot, golden hour."),
)
"""For models that read whole descriptions."""


def scenes_of(request: EngineRequest) -> tuple[Scene, ...]:
    """The scenes that the model of `request` can show."""
    return EMBEDDED if is_embedded(request) else OPEN


def is_embedded(request: EngineRequest) -> bool:
    """Whether it is the model that comes with Rivulet."""
    return (request.model or request.preset.model) == "embedded"
