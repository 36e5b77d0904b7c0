"""Fits the layers that read and write latents to a transformer that learned behind another autoencoder.

Both autoencoders see the same world, so that a token's old latents are nearly a linear function of its new ones: the
first layer is the old one behind that function, and what is left over goes into the residual stream in directions of
its own. The last layer is the best linear one for what then comes out of the blocks. Both are least squares, with a
little ridge.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.taehv import AutoencoderTAEHV
from models.wan import CausalWanTransformer3DModel
from training import world
from training.data import Shelf, Shelves, render_film
from training.run import autocast, step_seed
from training.windows import Batch, draw_batch

Denoiser = Any
"""training.dit's, which imports this module."""

BEHIND = ("transformer", "autoencoder")
"""Folders that an exported model has these two in."""
FILMS, PICTURES, BATCHES = 12, 96, 64
"""Films and pictures that both autoencoders look at, and steps' batches that the last layer is fitted on."""
RIDGE = 1e-3
"""Over the mean square of what is fitted on."""
REST = 1.0
"""Size of what the old latents do not hold, over that of what they do, in the residual stream: what the blocks do not
know how to use is carried through them all the same, the noise above all."""


@torch.no_grad()
def align(model: Denoiser, shelves: Shelves, source: Path | Denoiser, seed: int, size: int) -> dict[str, float]:
    """Set the first and the last layer of `model`, whose other layers are an older transformer's.

    Args:
        model: with the older transformer's layers but for those two.
        shelves: films behind the new autoencoder.
        source: folder of the older transformer and its autoencoder, BEHIND.
        seed: of what is drawn.
        size: windows in a batch.

    Returns:
        How much of the old latents the first layer finds in the new ones ("read"), and of the flow the last one in
        the blocks' output ("written"), as shares of the variance; nothing where the older autoencoder is not at hand.
    """
    if not isinstance(source, Path) or not all((source / part).exists() for part in BEHIND):
        return {}
    before, seen = (source / part for part in BEHIND)
    embedding = CausalWanTransformer3DModel.from_pretrained(before).patch_embedding.float()
    found = read_alike(model, shelves, embedding, AutoencoderTAEHV.from_pretrained(seen).eval(), seed)
    return {"read": round(found, 4), "written": round(write_best(model, shelves, seed, size), 4)}


def read_alike(model: Denoiser, shelves: Shelves, before: nn.Conv3d, autoencoder: AutoencoderTAEHV, seed: int) -> float:
    """Let the first layer put into the residual stream what the old one put there for the same picture."""
    rng = step_seed(seed, 0, "align")
    new, old = [], []
    for shelf, count in ((shelves[0], FILMS), (shelves[2], PICTURES)):
        for number in rng.choice(len(shelf.films), min(count, len(shelf.films)), replace=False):
            new.append(_patches(shelf.latents[number].float(), model.patch))
            old.append(_patches(_encoded(shelf, int(number), autoencoder), before.kernel_size[-1]))
    squares = Squares(new[0].shape[1], old[0].shape[1])
    for x, y in zip(new, old, strict=True):
        squares.add(x, y)
    solution, explained = squares.fit()
    reading, rest = solution[:-1].T, solution[-1]  # old = reading @ new + rest, [32, 128] and [32]
    matrix = before.weight.flatten(1)
    alike = matrix @ reading
    # What the old latents do not hold: all directions of the new ones but those that are read.
    _, _, others = torch.linalg.svd(reading, full_matrices=True)
    others = others[len(reading) :]
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    places = nn.init.orthogonal_(torch.empty(len(matrix), len(others)), generator=generator)
    much = REST * alike.norm() / len(reading) ** 0.5
    embedding = model.transformer.patch_embedding
    assert embedding.bias is not None
    assert before.bias is not None
    embedding.weight.copy_((alike + much * places @ others).view_as(embedding.weight))
    embedding.bias.copy_(before.bias + matrix @ rest)
    return explained


def write_best(model: Denoiser, shelves: Shelves, seed: int, size: int, batches: int = BATCHES) -> float:
    """Let the last layer be the best linear one for the flow of the usual steps' batches."""
    kept: dict[str, Tensor] = {}

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kept["hidden"] = inputs[0]

    def teach(batch: Batch, noisy: Tensor, history: Tensor, tokens: Tensor) -> Tensor:
        kept["target"] = model.way(batch, noisy, noise)
        return kept["target"]

    device = next(model.parameters()).device
    squares = Squares(model.transformer.proj_out.in_features, model.transformer.proj_out.out_features)
    hook = model.transformer.proj_out.register_forward_pre_hook(keep)
    for step in range(batches):
        rng = step_seed(seed, step, "write")
        batch = draw_batch(rng, *shelves, size, progress=float(step % 2), mix=model.mix).to(str(device))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        noise, shake = (torch.randn(batch.latents.shape, generator=generator).to(device) for _ in range(2))
        model.loss(batch, noise, shake, model.text_encoder.tokenize(batch.prompts).to(device), teach)
        frames = batch.sigma.shape[1]
        target = _patches(kept["target"].flatten(0, 1), model.patch).unflatten(0, (len(batch.prompts), frames, -1))
        hidden = kept["hidden"].float().unflatten(1, (-1, target.shape[2]))[:, -frames:]
        counts = batch.weight > 0
        squares.add(hidden[counts].flatten(0, 1), target[counts].flatten(0, 1))
    hook.remove()
    solution, explained = squares.fit()
    # A patch is written place by place, all channels of each, where it is read channel by channel.
    channels, places = model.transformer.config["out_channels"], model.patch**2
    rows = solution.unflatten(1, (channels, places)).transpose(1, 2).flatten(1)
    model.transformer.proj_out.weight.copy_(rows[:-1].T)
    model.transformer.proj_out.bias.copy_(rows[-1])
    return explained


def _encoded(shelf: Shelf, number: int, autoencoder: AutoencoderTAEHV) -> Tensor:
    """Latents [F, C, h, w] of a film of the shelf behind another autoencoder."""
    pixels = render_film(shelf.films[number], world.SIZE // autoencoder.encoder_shrink)
    with autocast("cpu"):
        return autoencoder.encode(pixels[None], pad="start", shrunk=True)[0].float()


def _patches(latents: Tensor, side: int) -> Tensor:
    """Latents [F, C, h, w] cut into squares, [F * squares, C * side * side] in the order a convolution reads them."""
    cut = latents.unfold(2, side, side).unfold(3, side, side)  # [F, C, rows, columns, side, side]
    return cut.permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1)


class Squares:
    """Sums of the products that a linear fit of y [N, M] from x [N, K] and a constant needs, in float64."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self.xx = torch.zeros(inputs + 1, inputs + 1, dtype=torch.float64)
        self.xy = torch.zeros(inputs + 1, outputs, dtype=torch.float64)
        self.yy = torch.zeros(outputs, dtype=torch.float64)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Count rows in."""
        x = torch.cat([x, x.new_ones(len(x), 1)], dim=1).double().cpu()
        y = y.double().cpu()
        self.xx += x.T @ x
        self.xy += x.T @ y
        self.yy += y.square().sum(dim=0)

    def fit(self) -> tuple[Tensor, float]:
        """Coefficients [K + 1, M], the constant's last, and the share of y's variance that they explain."""
        count = self.xx[-1, -1]
        small = RIDGE * (self.xx.diagonal()[:-1].mean())
        ridge = torch.full((len(self.xx),), float(small), dtype=torch.float64)
        ridge[-1] = 0.0  # the constant is free
        found = torch.linalg.solve(self.xx + ridge.diag(), self.xy)
        left = self.yy - 2 * (found * self.xy).sum(dim=0) + (found * (self.xx @ found)).sum(dim=0)
        spread = self.yy - self.xy[-1].square() / count
        return found.float(), float(1.0 - left.sum() / spread.sum())
