"""Renders films of the painted world and keeps their latents, so that training the transformer never waits for pixels.

A shard is a function of (seed, shard number) alone: workers make them in any order, a killed run goes on with the
missing ones. Captions are not kept but drawn anew each time a film is used.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.taehv import AutoencoderTAEHV
from training import world
from training.run import step_seed

FRAMES = 21
"""Latent frames of a film in the training set: 81 pixel frames, 5 seconds."""
SHARD = 96
SWITCH_SHARE = 0.5
MASK_MARGIN = 0.05
ALIGNED = 3  # most switches fall on the borders of chunks of three


@dataclass(frozen=True, slots=True)
class Film:
    """Labels of one film: one clip, or two with the latent frame at which the second begins."""

    first: world.ClipSpec
    second: world.ClipSpec | None = None
    switch: int | None = None
    fade: int = 0

    @property
    def pixel_frames(self) -> int:
        return 4 * FRAMES - 3


def draw_film(rng: np.random.Generator, *, switching: bool) -> Film:
    """Draw a film; a switch falls on the first pixel frame of a latent frame, mostly of a chunk of three."""
    if not switching:
        return Film(world.sample_spec(rng))
    while True:
        drawn = world.sample_switch(rng, 4 * FRAMES - 3)
        latent, rest = divmod(drawn.frame + 3, 4)
        if rest == 0 and (latent % ALIGNED == 0 or rng.random() < 0.1):
            return Film(drawn.first, drawn.second, latent, drawn.fade)


def render_film(film: Film) -> Tensor:
    """Pixels [81, 3, H, W] in 0..1 of a film."""
    frames = film.pixel_frames
    if film.second is None or film.switch is None:
        return world.render([film.first], frames)[0]
    return world.render_switch([world.Switch(film.first, film.second, 4 * film.switch - 3, film.fade)], frames)[0]


def make_shard(path: Path, autoencoder: AutoencoderTAEHV, seed: int, number: int, films: int = SHARD) -> None:
    """Render and encode one shard: `path` (fp16 latents, normalised) and its labels in a .json beside it."""
    rng = step_seed(seed, number, "films")
    labels, latents = [], []
    for _ in range(films):
        film = draw_film(rng, switching=bool(rng.random() < SWITCH_SHARE))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):  # as the autoencoder was trained; twice as fast
            latents.append(autoencoder.encode(render_film(film)[None], pad="start")[0].half())
        labels.append(asdict(film))
    path.with_suffix(".json").write_text(json.dumps(labels), encoding="utf-8")
    part = path.with_suffix(".part")
    save_file({"latents": torch.stack(latents)}, part)
    part.replace(path)  # a shard counts as made once its latents are there


def _work(folder: str, autoencoder: str, seed: int, numbers: Sequence[int], films: int) -> None:
    torch.set_num_threads(1)
    model = AutoencoderTAEHV.from_pretrained(autoencoder).eval()
    for number in numbers:
        path = Path(folder) / f"{number:05d}.safetensors"
        if not path.exists():
            make_shard(path, model, seed, number, films)


def make_data(
    out: Path, *, seed: int = 0, shards: int = 96, films: int = SHARD, workers: int = 2, autoencoder: Path | None = None
) -> None:
    """Make `shards` shards of `films` films in out/data with the frozen autoencoder of out/autoencoder.

    Each worker is a process with one thread: rendering and small convolutions gain little from more threads.
    """
    folder = out / "data"
    folder.mkdir(parents=True, exist_ok=True)
    model = str(autoencoder or out / "autoencoder")
    context = multiprocessing.get_context("spawn")
    jobs = [
        context.Process(target=_work, args=(str(folder), model, seed, range(worker, shards, workers), films))
        for worker in range(workers)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    failed = [job.exitcode for job in jobs if job.exitcode]
    if failed:
        raise RuntimeError(f"{len(failed)} of {workers} data workers failed; run again to make the missing shards.")


def _film(label: dict[str, Any]) -> Film:
    second = label["second"]
    return Film(
        world.ClipSpec(**label["first"]),
        None if second is None else world.ClipSpec(**second),
        label["switch"],
        label["fade"],
    )


def load_data(out: Path) -> tuple[Tensor, list[Film]]:
    """All films made so far: latents [N, 21, C, h, w] fp16 and their labels."""
    paths = sorted((out / "data").glob("*.safetensors"))
    if not paths:
        raise FileNotFoundError(f"No shards in {out / 'data'}; run `python -m training data` first.")
    films = [_film(label) for path in paths for label in json.loads(path.with_suffix(".json").read_text("utf-8"))]
    return torch.cat([load_file(path)["latents"] for path in paths]), films


def object_masks(films: Sequence[Film], size: int) -> Tensor:
    """Where the object is, bool [N, 21, size, size] on the latents' grid, with a small margin.

    An object covers a tenth of the picture and is most of what a prompt says, so that the loss looks there harder.
    """
    frame = np.arange(FRAMES)
    ends = np.stack([np.maximum(4 * frame - 3, 0), 4 * frame], axis=1)
    centre = (np.arange(size) + 0.5) / size
    masks = np.zeros((len(films), FRAMES, size, size), dtype=bool)
    for row, film in enumerate(films):
        place = world.positions(film.first, film.pixel_frames)
        radius = np.full(FRAMES, world.SIZES[film.first.size])
        if film.second is not None and film.switch is not None:
            border = 4 * film.switch - 3
            place = np.concatenate([place[:border], world.positions(film.second, film.pixel_frames)[border:]])
            radius[film.switch :] = world.SIZES[film.second.size]
        across = centre[None, None, None, :] - place[ends][..., 0][..., None, None]
        along = centre[None, None, :, None] - place[ends][..., 1][..., None, None]
        reach = (radius + MASK_MARGIN)[:, None, None, None]
        masks[row] = (across**2 + along**2 < reach**2).any(axis=1)
    return torch.from_numpy(masks)
