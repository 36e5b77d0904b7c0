"""Render from Python: the same reader and the same timeline as `rivulet render`, frames as arrays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from app.config.lengths import Length
from app.errors import UsageMistake
from app.loading.model import FilmStream, beginnings_of, rhythm_of
from app.record.beginning import read_beginning
from app.render.beginning import begun_film, check_beginning
from app.render.judging import read_prompts
from app.script.importers import load_script
from app.script.timeline import resolve
from pipelines.presets import get_preset
from pipelines.types import Controls

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipelines.streaming import Stream


def film_script(
    path: str | Path,
    *,
    seconds: float | None = None,
    seed: int = 42,
    preset: str = "embedded",
    stream: Stream | None = None,
) -> list[NDArray[np.uint8]]:
    """Film a script, whatever kind it is, as a list of frames, uint8 RGB [H, W, 3], `Stream.fps` of them a second.

    Args:
        path: of the script; any that `rivulet render` reads.
        seconds: length; None takes the script's own, else 20.
        seed: of all its noise.
        preset: how to stream; a name of pipelines.presets.
        stream: a fresh stream of that preset, from `open_stream`, instead of opening one; `seed` is then its.

    Raises:
        UsageMistake: the script cannot be read, holds several films, or has a prompt that the model cannot read.
        ValueError: as pipelines.open_stream.
    """
    scripts = load_script(Path(path))
    if len(scripts) != 1:
        raise UsageMistake(f"{path}: this script holds {len(scripts)} films. Give one film a file.")
    if stream is None:
        from pipelines.api import open_stream

        stream = open_stream(preset, seed=seed)
    timeline = resolve(
        scripts[0],
        length=None if seconds is None else Length(seconds, "s"),
        fps=stream.fps,
        rhythm=rhythm_of(get_preset(preset)),
    )
    read_prompts(scripts[0], stream.engine.conditioner.embed)
    frames: list[NDArray[np.uint8]] = []
    chunk = 0
    beginning = read_beginning({}, scripts[0].pictures)
    film: FilmStream = stream
    if beginning is not None:
        check_beginning(beginning)
        film = begun_film(beginning, stream, timeline.rhythm, beginnings_of(stream))
    while len(frames) < timeline.frames:
        shot = timeline.shots[timeline.shot_at(chunk)]
        guidance = dict(shot.parameters).get("guidance_scale")
        pixels = film.next_chunk(Controls(shot.prompt, shot.transition, guidance)).pixels
        assert pixels is not None  # it was asked to decode
        frames.extend(pixels)
        chunk += 1
    return frames[: timeline.frames]
