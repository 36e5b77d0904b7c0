"""Takes over an earlier model's weights as the beginning of a run: what fits, and no word twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from models.text import TextEncoder
from models.wan import CausalWanTransformer3DModel

READINGS = ("outline.", "course.")
"""Layers that only training has."""
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
