"""A film in a few lines of Python, for notebooks and scripts: everything else is a call on the stream it returns.

The command line opens its streams itself, because it also has to tell people about licences, threads and checksums.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pipelines.build import build_stream
from pipelines.components import choose_device, load_components
from pipelines.file_names import is_script_name
from pipelines.presets import get_preset
from pipelines.streaming import Stream
from pipelines.types import Controls, Prompt

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def open_stream(
    preset: str = "embedded",
    *,
    model: str | None = None,
    seed: int = 42,
    device: str = "auto",
    height: int | None = None,
    width: int | None = None,
    untrained: bool = False,
    video: bool = False,
    models_dir: str | Path | None = None,
    offline: bool = False,
    licence_accepted: bool | Collection[str] = False,
) -> Stream:
    """A film about to begin: `stream.next_chunk(Controls("a prompt"))` makes its next piece.

    Args:
        preset: how to stream; a name of pipelines.presets.
        model: name or folder of the model; None = the preset's.
        seed: of all its noise.
        device: auto (CUDA where there is one), cpu, cuda or mps. Networks are float32 on a CPU, else bfloat16.
        height: of the picture in pixels; the model's own if None.
        width: of the picture in pixels; the model's own if None.
        untrained: allow a preset, or a size, that the model was not trained for.
        video: it is made of a video: `VideoInput(stream)` of pipelines/video.py takes the pictures.
        models_dir: folder for downloads; None = the Hugging Face cache.
        offline: never download.
        licence_accepted: whether you have accepted the licences of the model's weights, or the names of those you have.

    Raises:
        ValueError: an unknown name, a device that is not there, or a combination the model cannot work in.
        FileNotFoundError: weights are missing and could not be, or were not to be, fetched.
        PermissionError: a licence has to be accepted first.

    Words of a prompt that a small model does not know are named in an `UnknownWords` warning when it begins.
    """
    system = get_preset(preset)
    place, dtype = choose_device(device)
    components = load_components(
        model or system.model,
        device=place,
        dtype=dtype,
        models_dir=models_dir,
        offline=offline,
        licence_accepted=licence_accepted,
    )
    stream = build_stream(system, components, height=height, width=width, seed=seed, untrained=untrained, video=video)
    unknown = getattr(components.text_encoder, "unknown_words", None)  # an encoder of all words has none to name
    if unknown is not None:
        stream.on_prompt = lambda prompt: _warn(prompt, unknown)
    return stream


class UnknownWords(UserWarning):
    """A prompt has words that the model does not know, and shows without."""


def _warn(prompt: Prompt, unknown: Callable[[str], Mapping[str, Collection[str]]]) -> None:
    texts = [prompt] if isinstance(prompt, str) else [text for text, _ in prompt]
    for word, near in {word: near for text in texts for word, near in unknown(text).items()}.items():
        instead = f"; it knows {', '.join(near)}" if near else ""
        warnings.warn(f"the model does not know {word!r}{instead}", UnknownWords, stacklevel=6)


def film(
    *prompts: str, seconds: float = 5.0, seed: int = 42, preset: str = "embedded", stream: Stream | None = None
) -> list[NDArray[np.uint8]]:
    """A whole film as a list of frames, uint8 RGB [H, W, 3], `Stream.fps` of them a second.

    Args:
        prompts: what to show; several share the film equally, each beginning with the first chunk of its share. Words,
            not the name of a script: `app.render.filming.film_script` films those.
        seconds: length, rounded to whole frames.
        seed: of all its noise.
        preset: how to stream; a name of pipelines.presets.
        stream: go on with this stream, from `open_stream`, instead of opening one; `seed` and `preset` are then its.

    Raises:
        ValueError: no prompt, an empty one, a list of them, the name of a file, or no length; else as `open_stream`.
    """
    if not prompts:
        raise ValueError("a film needs a prompt: say in a few words what it should show")
    for prompt in prompts:
        if _is_list_of_texts(prompt):
            raise ValueError('film takes its prompts one by one: write film("a red ball", "a star") or film(*prompts)')
        if isinstance(prompt, os.PathLike) or is_script_name(prompt):
            raise ValueError(
                f"{str(prompt)[:80]!r} names a script: give it to film_script of app.render.filming, or say words"
            )
    controls = [Controls(prompt) for prompt in prompts]  # an empty one is refused before a model is loaded
    if not 0 < seconds < float("inf"):
        raise ValueError(f"a film of {seconds} seconds cannot be made: give it a length above 0")
    stream = stream or open_stream(preset, seed=seed)
    wanted = max(1, round(seconds * stream.fps))
    frames: list[NDArray[np.uint8]] = []
    while len(frames) < wanted:
        pixels = stream.next_chunk(controls[len(frames) * len(controls) // wanted]).pixels
        assert pixels is not None  # it was asked to decode
        frames.extend(pixels)
    return frames[:wanted]


def _is_list_of_texts(prompt: object) -> bool:
    return isinstance(prompt, list | tuple) and all(isinstance(one, str) for one in cast("Sequence[object]", prompt))
