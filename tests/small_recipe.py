"""A recipe of the embedded model's own shape that trains in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.taehv import AutoencoderTAEHV
from training import data, dit

SMALL_AE: dict[str, Any] = {
    "latent_channels": 8,
    "patch_size": 4,
    "encoder_patch_size": 4,
    "encoder_widths": (4, 4),
    "decoder_widths": (8, 8),
    "encoder_blocks": (1,),
    "decoder_blocks": (1,),
    "time_downscale": (4,),
    "time_upscale": (4,),
    "upsample": "together",
}
SMALL_DIT: dict[str, Any] = {
    **dit.TRANSFORMER,
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "num_layers": 2,
    "ffn_dim": 32,
    "freq_dim": 16,
    "text_dim": 16,
}
SMALL_TEXT: dict[str, Any] = {"text_len": 32, "text_dim": 16, "num_layers": 1, "num_heads": 2}


_made: tuple[dict[Path, bytes], torch.Tensor] | None = None


def fake_data(out: Path) -> None:
    """A few films, beginnings and pictures, as a random autoencoder sees them; painted once for all tests."""
    global _made
    if _made is None:
        torch.manual_seed(0)
        model = AutoencoderTAEHV(**SMALL_AE).eval()
        for frames, folder in data.FOLDERS.items():
            (out / folder).mkdir(parents=True)
            films = {data.PICTURE: data.ALIKE, data.TURN: data.CORNERS}.get(frames, 2)
            data.make_shard(out / folder / "00000.safetensors", model, seed=0, number=0, films=films, frames=frames)
        shards = [path for folder in data.FOLDERS.values() for path in (out / folder).iterdir()]
        _made = {path.relative_to(out): path.read_bytes() for path in shards}, torch.get_rng_state()
    files, state = _made
    for path, shard in files.items():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_bytes(shard)
    torch.set_rng_state(state)  # whoever asks first and whoever asks later draw the same


def noise_shelves(films: list[data.Film], groups: int = 12) -> data.Shelves:
    """Films, their beginnings, `groups` scenes with all shapes and as many squares of turns, with latents of noise."""
    rng = np.random.default_rng(3)
    short = [data.Film(film.first, frames=data.FIRST) for film in films]
    alike = [film for _ in range(groups) for film in data.draw_alike(rng)]
    turns = [film for _ in range(groups) for film in data.draw_turns(rng)]
    shelves = [
        data.Shelf(torch.randn(len(f), f[0].frames, 8, 2, 2), f, data.outlines(f, 4), data.courses(f))
        for f in (films, short, alike, turns)
    ]
    return shelves[0], shelves[1], shelves[2], shelves[3]
