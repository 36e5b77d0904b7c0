"""Nodes of a ComfyUI graph over Rivulet's stream.

ComfyUI keeps what a node returned and hands it to others again, so nothing that is returned ever changes: a film that
stands somewhere is a stream that makes no more chunks, and going on is done with a twin of it. The same graph gives
the same pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

    from pipelines.components import Components
    from pipelines.presets import Preset
    from pipelines.streaming import Stream

CATEGORY = "Rivulet"
TRANSITIONS = ("recache", "soft", "cut", "keep")
"""How new words take over: the picture bends to them, blends over some chunks, is cut, or lets the memory be."""
SEED_LIMIT = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Engine:
    """What streams films: a preset, a loaded model, and the size of its pictures."""

    preset: Preset
    components: Components
    height: int | None
    width: int | None

    def begin(self, seed: int) -> Stream:
        """A film about to begin."""
        from pipelines.build import build_stream

        return build_stream(self.preset, self.components, height=self.height, width=self.width, seed=seed)


@dataclass(frozen=True, slots=True)
class Film:
    """Where a film stands. Its stream is never asked for a chunk: whoever goes on does so with a twin."""

    stream: Stream


class LoadEngine:
    """A preset and the model that it streams."""

    CATEGORY, FUNCTION = CATEGORY, "load"
    RETURN_TYPES: ClassVar = ("RIVULET_ENGINE",)
    RETURN_NAMES: ClassVar = ("engine",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Inputs as ComfyUI asks for them; sizes of 0 are the model's own."""
        from pipelines.presets import PRESETS

        size = ("INT", {"default": 0, "min": 0, "max": 4096, "step": 16})
        return {
            "required": {
                "preset": (list(PRESETS), {"default": "embedded"}),
                "device": (["auto", "cuda", "cpu"],),
            },
            "optional": {
                "model": ("STRING", {"default": "", "tooltip": "Name, folder or file; empty: the preset's."}),
                "height": size,
                "width": size,
            },
        }

    def load(self, preset: str, device: str, model: str = "", height: int = 0, width: int = 0) -> tuple[Engine]:
        """Read the weights; nothing is downloaded (`rivulet models pull` does that)."""
        from pipelines.components import choose_device, load_components
        from pipelines.presets import get_preset

        system, (place, dtype) = get_preset(preset), choose_device(device)
        components = load_components(model.strip() or system.model, device=place, dtype=dtype, offline=True)
        return (Engine(system, components, height or None, width or None),)


class BeginFilm:
    """The first seconds of a film."""

    CATEGORY, FUNCTION = CATEGORY, "begin"
    RETURN_TYPES: ClassVar = ("IMAGE", "RIVULET_FILM", "FLOAT")
    RETURN_NAMES: ClassVar = ("frames", "film", "fps")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Inputs as ComfyUI asks for them."""
        return {
            "required": {
                "engine": ("RIVULET_ENGINE",),
                "prompt": ("STRING", {"multiline": True, "default": "a big red ball bounces over the sea"}),
                "seconds": _SECONDS,
                "seed": ("INT", {"default": 7, "min": 0, "max": SEED_LIMIT}),
            }
        }

    def begin(self, engine: Engine, prompt: str, seconds: float, seed: int) -> tuple[Tensor, Film, float]:
        """Frames [T, H, W, 3] from 0 to 1, where the film stands then, and its frames a second."""
        return _go_on(engine.begin(seed), prompt, seconds, "recache", 1)


class GoOn:
    """A film goes on, under the same or other words."""

    CATEGORY, FUNCTION = CATEGORY, "go_on"
    RETURN_TYPES: ClassVar = ("IMAGE", "RIVULET_FILM", "FLOAT")
    RETURN_NAMES: ClassVar = ("frames", "film", "fps")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Inputs as ComfyUI asks for them."""
        return {
            "required": {
                "film": ("RIVULET_FILM",),
                "prompt": ("STRING", {"multiline": True, "default": "a blue star drifts over the snow"}),
                "seconds": _SECONDS,
                "transition": (list(TRANSITIONS), {"default": TRANSITIONS[0]}),
                "blend_chunks": ("INT", {"default": 2, "min": 1, "max": 16, "tooltip": "Of soft alone."}),
            }
        }

    def go_on(
        self, film: Film, prompt: str, seconds: float, transition: str, blend_chunks: int
    ) -> tuple[Tensor, Film, float]:
        """Frames [T, H, W, 3] from 0 to 1 from there on, where the film stands then, and its frames a second."""
        return _go_on(film.stream.fork(), prompt, seconds, transition, blend_chunks)


_SECONDS: Any = ("FLOAT", {"default": 3.0, "min": 0.1, "max": 600.0, "step": 0.1})


def _go_on(
    stream: Stream, prompt: str, seconds: float, transition: Any, blend_chunks: int
) -> tuple[Tensor, Film, float]:
    """Whole chunks, at least so many seconds of them: a film stands between chunks only."""
    import torch

    from pipelines import Controls, Transition

    change = Transition(transition, chunks=blend_chunks) if transition == "soft" else Transition(transition)
    controls, pieces, made = Controls(prompt, change), list[Any](), 0
    while made < seconds * stream.fps:
        pixels = stream.next_chunk(controls).pixels
        assert pixels is not None  # it was asked to decode
        pieces.append(torch.from_numpy(pixels).float() / 255)
        made += len(pixels)
    return torch.cat(pieces), Film(stream), float(stream.fps)


NODE_CLASS_MAPPINGS: dict[str, type] = {
    "RivuletLoadEngine": LoadEngine,
    "RivuletBeginFilm": BeginFilm,
    "RivuletGoOn": GoOn,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "RivuletLoadEngine": "Rivulet: engine",
    "RivuletBeginFilm": "Rivulet: begin a film",
    "RivuletGoOn": "Rivulet: go on, under other words",
}
