"""Takes over an earlier model's weights as the beginning of a run: what fits, and no word twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from models.taehv import AutoencoderTAEHV
from models.text import TextEncoder
from models.wan import CausalWanTransformer3DModel

READINGS = ("outline.", "course.")
"""Layers that only training has."""
UNSETTLED = "weights alone, without optimiser moments and latent statistics: warms up again"
"""What the curve of an autoencoder says that began so."""
TABLE = "text_encoder.embedding.weight"


def shipped(folder: Path) -> tuple[dict[str, Tensor], Sequence[str]]:
    """Weights of an exported model, named as in a Denoiser, and its words."""
    text_encoder = TextEncoder.from_pretrained(folder / "text_encoder")
    parts = {
        "transformer": CausalWanTransformer3DModel.from_pretrained(folder / "transformer"),
        "text_encoder": text_encoder,
    }
    state = {f"{part}.{name}": value for part, one in parts.items() for name, value in one.state_dict().items()}
    return state, text_encoder.words


def inherit(model: nn.Module, model_words: Sequence[str], state: dict[str, Tensor], words: Sequence[str]) -> list[str]:
    """Give a denoiser that knows `model_words` the weights of `state`, whose text encoder knows `words`; returns the
    names of those that stay new.

    New are words that `state` does not know, and layers that have another shape there: those that read and write
    latents, behind another autoencoder.

    Raises:
        ValueError: `state` lacks layers of this recipe.
    """
    own = model.state_dict()
    lacking = [name for name in own if name not in state and not name.startswith(READINGS)]
    if lacking:
        raise ValueError(f"These weights are of no model of this recipe: {', '.join(lacking[:3])} are not among them.")
    known = {word: row for row, word in enumerate(words)}
    table = own[TABLE].clone()
    for row, word in enumerate(model_words):
        if word in known:
            table[row] = state[TABLE][known[word]]
    given = {name: value for name, value in state.items() if name in own} | {TABLE: table}
    fresh = sorted(name for name, value in given.items() if value.shape != own[name].shape)
    model.load_state_dict({name: value if name in fresh else given.get(name, value) for name, value in own.items()})
    return fresh


def shape_of(model: AutoencoderTAEHV) -> dict[str, Any]:
    """What makes another autoencoder like this one."""
    return {name: value for name, value in model.config.items() if not name.startswith("_")}


def unsettled(folder: Path) -> AutoencoderTAEHV:
    """An autoencoder in diffusers format as it was while it trained: without what normalises its latents.

    Raises:
        FileNotFoundError: there is none in the folder.
    """
    if not folder.exists():
        raise FileNotFoundError(f"{folder} does not exist; name a folder that holds an autoencoder.")
    settled = AutoencoderTAEHV.from_pretrained(folder)
    model = AutoencoderTAEHV(**(shape_of(settled) | {"latents_mean": None, "latents_std": None}))
    model.load_state_dict(settled.state_dict())
    return model
