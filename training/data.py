"""Renders films of the painted world and keeps their latents, so that training the transformer never waits for pixels.

A shard is a function of (seed, shard number) alone: workers make them in any order, a killed run goes on with the
missing ones. Captions are not kept but drawn anew each time a film is used.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.taehv import AutoencoderTAEHV
from training import world
from training.run import autocast, step_seed
from training.shapes import DISTANCE, PATTERNS

FRAMES, FIRST, PICTURE, TURN = 21, 3, 1, 9
"""Latent frames of a film in the training set (81 pixel frames, 5 seconds), of a beginning (9), of a picture (1) and of
a turn (33), a short film that mostly switches before its last chunk."""
FOLDERS = {FRAMES: "data", FIRST: "beginnings", PICTURE: "pictures", TURN: "turns"}
SHARDS = {FRAMES: 96, FIRST: 864, PICTURE: 864, TURN: 192}
"""How many of them a shard holds."""
TOGETHER = {FRAMES: 16, FIRST: 144, PICTURE: 96, TURN: 16}
"""So many films, beginnings, scenes and histories are painted and encoded at once on a card, some 4 GB of them; on a
processor one at a time, which stays in its cache."""
PLAIN_PICTURES = 0.6
"""Share of one plain object in clear weather among the pictures that differ in its shape."""
ALIKE = 9
"""Pictures of one scene that differ in what DIFFERENCES says."""
DIFFERENCES = {"shape": 0.4, "pattern": 0.25, "company": 0.35}
"""In what pictures of one scene differ, and how often."""
CORNERS = 4
"""Turns of one history: with the old or the new object's LOOK, and with all else old or new."""
LOOK = {"shape": 0.7, "color": 0.15, "size": 0.15}
"""What an object may keep or change in turns, and how often: a new shape is what is heard least."""
FADES = (0, 4, 8)
"""Pixel frames over which a turn dissolves, drawn alike."""
SWITCH_SHARE = 0.5
ALIGNED = 3  # most switches fall on the borders of chunks of three


@dataclass(frozen=True, slots=True)
class Film:
    """Labels of one film of `frames` latent frames: one clip, or two and the latent frame where the second begins."""

    first: world.ClipSpec
    second: world.ClipSpec | None = None
    switch: int | None = None
    fade: int = 0
    frames: int = FRAMES

    @property
    def pixel_frames(self) -> int:
        return 4 * self.frames - 3


def draw_film(rng: np.random.Generator, *, switching: bool, frames: int = FRAMES) -> Film:
    """Draw a film; a switch falls on the first pixel frame of a latent frame, mostly of a chunk of three."""
    if not switching:
        return Film(world.sample_spec(rng), frames=frames)
    while True:
        drawn = world.sample_switch(rng, 4 * frames - 3)
        latent, rest = divmod(drawn.frame + 3, 4)
        if rest == 0 and (latent % ALIGNED == 0 or rng.random() < 0.1):
            return Film(drawn.first, drawn.second, latent, drawn.fade, frames)


def draw_alike(rng: np.random.Generator) -> list[Film]:
    """Draw ALIKE pictures that differ in nothing but the object's shape, or in three shapes and one thing more.

    That is its pattern, or its company: none, and two others beside it. None of them is held out, so that any of them
    may stand in for another.
    """
    kind = rng.choice(list(DIFFERENCES), p=list(DIFFERENCES.values()))
    while True:
        spec = world.sample_spec(rng, simple=kind == "shape" and bool(rng.random() < PLAIN_PICTURES))
        if kind == "company" and spec.companion is None:
            continue
        few = [str(shape) for shape in rng.choice(world.SHAPES, 3, replace=False)]
        if kind == "shape":
            specs = [replace(spec, shape=shape) for shape in world.SHAPES]
        elif kind == "pattern":
            specs = [replace(spec, shape=shape, pattern=pattern) for shape in few for pattern in PATTERNS]
        else:
            color, shape = str(rng.choice(list(world.COLORS))), str(rng.choice(world.SHAPES))
            others = None, spec.companion, replace(spec.companion, color=color, shape=shape)
            specs = [replace(spec, shape=shape, companion=other) for shape in few for other in others]
        held_out = any(world.is_held_out(one.color, one.shape, one.motion, one.scene) for one in specs)
        if not held_out and len(set(specs)) == ALIKE:
            return [Film(one, frames=PICTURE) for one in specs]


def draw_turns(rng: np.random.Generator) -> list[Film]:
    """Draw CORNERS turns of one history: it goes on; with another look; all else new but the look; everything new.

    None is held out. The first and second differ in the look alone, and so do the third and the fourth.
    """
    switch = TURN - ALIGNED
    begin = 4 * switch - 3
    look, fade = str(rng.choice(list(LOOK), p=list(LOOK.values()))), int(rng.choice(FADES))
    while True:
        old = world.sample_spec(rng)
        x, y = world.positions(old, 1, begin)[0]
        new = world.sample_spec(rng, at=(float(x), float(y)), begin=begin)
        changed = replace(old, **{look: getattr(new, look)})
        kept = replace(new, **{look: getattr(old, look)})
        other_floor = look == "size" and "bounce" in (old.motion, new.motion)
        held_out = any(world.is_held_out(one.color, one.shape, one.motion, one.scene) for one in (changed, kept))
        if changed != old and old.scene != new.scene and not other_floor and not held_out:
            switched = [Film(old, second, switch, fade, TURN) for second in (changed, kept, new)]
            return [Film(old, frames=TURN), *switched]


def _draw_films(rng: np.random.Generator, films: int, frames: int) -> list[Film]:
    if frames == PICTURE:
        return [film for _ in range(films // ALIKE) for film in draw_alike(rng)]
    if frames == TURN:
        return [film for _ in range(films // CORNERS) for film in draw_turns(rng)]
    return [
        draw_film(rng, switching=frames == FRAMES and bool(rng.random() < SWITCH_SHARE), frames=frames)
        for _ in range(films)
    ]


def render_film(film: Film, size: int = world.SIZE, start: int = 0) -> Tensor:
    """Pixels [T, 3, size, size] in 0..1 of a film, from pixel frame `start` on."""
    return render_films([film], size, start)[0]


def render_films(
    films: Sequence[Film], size: int = world.SIZE, start: int = 0, device: str | torch.device = "cpu"
) -> Tensor:
    """Pixels [N, T, 3, size, size] in 0..1 of films of one length, from pixel frame `start` on, painted together."""
    frames = films[0].pixel_frames - start
    pixels = torch.empty(len(films), frames, 3, size, size, device=device)
    switches: dict[int, world.Switch] = {}
    plain: dict[int, world.ClipSpec] = {}
    for row, film in enumerate(films):
        if film.second is None or film.switch is None:
            plain[row] = film.first
        else:
            switches[row] = world.Switch(film.first, film.second, 4 * film.switch - 3, film.fade)
    how = {"start": start, "size": size, "device": device}
    if plain:
        pixels[list(plain)] = world.render(list(plain.values()), frames, **how)
    if switches:
        pixels[list(switches)] = world.render_switch(list(switches.values()), frames, **how)
    return pixels


def _encode(films: list[Film], autoencoder: AutoencoderTAEHV) -> Tensor:
    """Latents [N, F, C, h, w] of films; the history that CORNERS turns share is painted and encoded once."""
    size = world.SIZE // autoencoder.encoder_shrink  # painted as the encoder looks at it: five times faster
    device = autoencoder.device
    if films[0].frames != TURN:
        return autoencoder.encode(render_films(films, size, device=device), pad="start", shrunk=True)
    begin, side = 4 * (TURN - ALIGNED) - 3, world.SIZE // autoencoder.spatial_scale
    before = world.render([film.first for film in films[::CORNERS]], begin, size=size, device=device)
    state = autoencoder.init_encode_state(len(before), side, side, device)
    history, state = autoencoder.encode_stream(before, state, shrunk=True)
    state = [state[0], *(memory.repeat_interleave(CORNERS, dim=0) for memory in state[1:])]
    latents, _ = autoencoder.encode_stream(render_films(films, size, begin, device), state, shrunk=True)
    return torch.cat([history.repeat_interleave(CORNERS, dim=0), latents], dim=1)


def make_shard(
    path: Path, autoencoder: AutoencoderTAEHV, seed: int, number: int, films: int = SHARDS[FRAMES], frames: int = FRAMES
) -> None:
    """Render and encode one shard: `path` (fp16 latents, normalised) and its labels in a .json beside it."""
    rng = step_seed(seed, number, "films" if frames == FRAMES else FOLDERS[frames])
    latents: list[Tensor] = []
    drawn = _draw_films(rng, films, frames)
    device = autoencoder.device.type
    together = {PICTURE: ALIKE, TURN: CORNERS}.get(frames, 1) * (1 if device == "cpu" else TOGETHER[frames])
    for start in range(0, len(drawn), together):
        with torch.no_grad(), autocast(device):  # as the autoencoder was trained
            latents.append(_encode(drawn[start : start + together], autoencoder).half().cpu())
    labels = [asdict(film) for film in drawn]
    path.with_suffix(".json").write_text(json.dumps(labels), encoding="utf-8")
    part = path.with_suffix(".part")
    save_file({"latents": torch.cat(latents)}, part)
    part.replace(path)  # a shard counts as made once its latents are there


def _work(
    folder: str,
    autoencoder: str,
    seed: int,
    numbers: Sequence[int],
    films: int,
    frames: int,
    device: str = "cpu",
    over: Callable[[], bool] = lambda: False,
) -> None:
    model = AutoencoderTAEHV.from_pretrained(autoencoder).eval().to(device)
    for number in numbers:
        if not over():
            make_shard(Path(folder) / f"{number:05d}.safetensors", model, seed, number, films, frames)


def _work_alone(*job: Any) -> None:
    torch.set_num_threads(1)
    _work(*job)


def make_data(
    out: Path,
    *,
    seed: int = 0,
    shards: int = 96,
    films: int = SHARDS[FRAMES],
    frames: int = FRAMES,
    workers: int = 2,
    autoencoder: Path | None = None,
    device: str = "cpu",
    over: Callable[[], bool] = lambda: False,
) -> bool:
    """Make `shards` shards of `films` films with the frozen autoencoder of out/autoencoder.

    Films go to out/data. Beginnings (`frames` = FIRST) go to out/beginnings: they cost a ninth of a film, and what a
    picture shows is learned from many different pictures. Pictures (`frames` = PICTURE) go to out/pictures, ALIKE of
    every scene; turns (`frames` = TURN) to out/turns, CORNERS of every history. Each worker is a process with one
    thread: rendering and small convolutions gain little from more. On a card (`device` = "cuda") many films are painted
    at once, in this process, until `over` says that it is time to stop.

    Returns:
        Whether all of them are made.
    """
    folder = out / FOLDERS[frames]
    folder.mkdir(parents=True, exist_ok=True)
    model = str(autoencoder or out / "autoencoder")
    missing = [number for number in range(shards) if not (folder / f"{number:05d}.safetensors").exists()]
    if not missing:
        return True
    if device != "cpu":
        _work(str(folder), model, seed, missing, films, frames, device, over)
        return (folder / f"{missing[-1]:05d}.safetensors").exists()
    context = multiprocessing.get_context("spawn")
    jobs = [
        context.Process(target=_work_alone, args=(str(folder), model, seed, missing[worker::workers], films, frames))
        for worker in range(workers)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    failed = [job.exitcode for job in jobs if job.exitcode]
    if failed:
        raise RuntimeError(f"{len(failed)} of {workers} data workers failed; run again to make the missing shards.")
    return True


def _film(label: dict[str, Any]) -> Film:
    second = label["second"]
    return Film(
        world.ClipSpec.of(label["first"]),
        None if second is None else world.ClipSpec.of(second),
        label["switch"],
        label["fade"],
        label["frames"],
    )


@dataclass(frozen=True, slots=True)
class Shelf:
    """Films of one length, ready to train on.

    Attributes:
        latents: normalised, [N, F, C, h, w] fp16.
        films: their labels.
        outlines: where the object is, as of `outlines`, [N, F, 2h, 2w] uint8.
        courses: where the object goes, as of `courses`, [N, F, 4].
    """

    latents: Tensor
    films: list[Film]
    outlines: Tensor
    courses: Tensor

    def numbers(self, switches: Sequence[bool]) -> np.ndarray:
        """Of the films that keep their prompt (False), that change it (True), or of both."""
        return np.array([number for number, film in enumerate(self.films) if (film.switch is not None) in switches])


def load_shelf(folder: Path) -> Shelf:
    """All films of one of the FOLDERS made so far."""
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise FileNotFoundError(f"No shards in {folder}; run `python -m training data` first.")
    films = [_film(label) for path in paths for label in json.loads(path.with_suffix(".json").read_text("utf-8"))]
    latents = torch.cat([load_file(path)["latents"] for path in paths])
    return Shelf(latents, films, outlines(films, 2 * latents.shape[-1]), courses(films))


Shelves = tuple[Shelf, Shelf, Shelf, Shelf]
"""Films, beginnings, pictures and turns."""


def load_shelves(out: Path) -> Shelves:
    """What a run in `out` learns from."""
    films, beginnings, pictures, turns = (load_shelf(out / folder) for folder in FOLDERS.values())
    return films, beginnings, pictures, turns


def _clips(film: Film) -> Iterator[tuple[world.ClipSpec, slice]]:
    """A film's clips and the latent frames that show them."""
    border = film.frames if film.switch is None else film.switch
    yield film.first, slice(0, border)
    if film.second is not None:
        yield film.second, slice(border, film.frames)


def courses(films: Sequence[Film]) -> Tensor:
    """What happens to the object from the end of a latent frame to the end of the next one, under its own prompt.

    Returns:
        The way of its centre (x, y) in tenths of the picture and the growth of its stretch (x, y) in thirds, about 1
        where there is any, [N, F, 4].
    """
    course = np.empty((len(films), films[0].frames, 4), dtype=np.float32)
    for row, film in enumerate(films):
        for spec, part in _clips(film):
            way, growth = (
                np.diff(path(spec, film.pixel_frames + 4)[::4], axis=0)
                for path in (world.positions, world.object_stretch)
            )
            way = np.remainder(way + world.SPAN / 2, world.SPAN) - world.SPAN / 2
            course[row, part] = np.concatenate([10 * way, 3 * growth], axis=1)[part]
    return torch.from_numpy(course)


def outlines(films: Sequence[Film], size: int) -> Tensor:
    """How often a place belongs to the object in the first and last pixel frame of a latent frame.

    Returns:
        0, 1 or 2 for each place of a grid of `size` x `size`, [N, F, size, size] uint8.
    """
    frames = films[0].frames
    ends = np.stack([np.maximum(4 * np.arange(frames) - 3, 0), 4 * np.arange(frames)], axis=1)
    inside = torch.zeros(len(films), frames, size, size, dtype=torch.uint8)
    for company in (False, True):
        shapes = np.full((len(films), frames), -1)
        place, scale = np.zeros((len(films), frames, 2, 2)), np.ones((len(films), frames, 2, 2))
        for row, film in enumerate(films):
            for spec, part in _clips(film):
                thing = spec.companion if company else spec
                if thing is None:
                    continue
                shapes[row, part] = world.SHAPES.index(thing.shape)
                aside = spec.companion_offset if company else (0.0, 0.0)
                place[row, part] = world.positions(spec, film.pixel_frames)[ends[part]] + aside
                scale[row, part] = world.SIZES[spec.size] * world.object_stretch(spec, film.pixel_frames)[ends[part]]
        _add_outlines(inside, shapes, place, scale)
    return inside


def _add_outlines(inside: Tensor, shapes: np.ndarray, place: np.ndarray, scale: np.ndarray) -> None:
    """Count the ends [N, F, 2, xy] at which one object a frame covers a place; shape -1 is no object."""
    size = inside.shape[-1]
    centre = (np.arange(size) + 0.5) / size
    offset = np.remainder(centre - place[..., None] + world.SPAN / 2, world.SPAN) - world.SPAN / 2
    offset = torch.from_numpy(offset / scale[..., None]).float()  # [N, F, ends, xy, size]
    for number, shape in enumerate(world.SHAPES):
        rows = torch.from_numpy(shapes == number)
        x, y = offset[rows][..., 0, None, :], offset[rows][..., 1, :, None]
        inside[rows] += (DISTANCE[shape](x, y) < 0).sum(dim=1, dtype=torch.uint8)
