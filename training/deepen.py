"""Deepens an autoencoder: one halving more, and latents whose first channels are those of an older model.

Most of what a transformer learns is what its latents mean. Where the first channels of new latents are the old ones, it
keeps that, and has only to learn the further channels, which say what the old ones leave out. The stages that were
there keep their weights, and the new ones between them are fitted alone at first, against what the old ones hand to
each other: ten times as many steps for the time, and nothing that was learned is shaken by their beginnings.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from models.taehv import AutoencoderTAEHV, run_layers
from training.crops import render_batch
from training.inherit import shape_of
from training.initialise import initialise
from training.muon import Muon
from training.noise import latent_noise
from training.reconstruction import SCALE_WEIGHT, scale_penalty
from training.run import cooling_rate, step_seed

KEPT = "kept"
"""Folder of a run with the older autoencoder."""
CHANNELS, WIDTHS = 16, (128, 160)
"""Of the new latents, and of the new stage in the encoder and in the decoder, which has one MemBlock in each."""
KEPT_WEIGHT = 0.5
"""Of what the first channels lack, beside the picture's loss; not searched for: 2.4 % of their mean square are left."""
NOISE = 0.3
"""Largest spread of the noise on the latents: twice a new model's, so that they say what survives a transformer."""
INNER_CLIPS, INNER_STEPS, INNER_BATCH = 520, 450, 6
"""Of the fit: six minutes of a core without bf16 (docs/log.md, 2026-12-01)."""
INNER_RATES = 0.01, 4e-4
"""Of Muon for its kernels, of AdamW for its biases."""


def kept_of(out: Path, device: str, keep: Path | None = None) -> AutoencoderTAEHV | None:
    """The older autoencoder of a run, which keeps a copy of it; None where it has none.

    Args:
        out: folder of the run.
        device: "cpu" or "cuda".
        keep: folder of the older model, for a run that begins.
    """
    folder = out / KEPT
    if keep is not None and not folder.exists():
        shutil.copytree(keep / "autoencoder", folder)
    if not folder.exists():
        return None
    return AutoencoderTAEHV.from_pretrained(folder).to(device).eval().requires_grad_(False)


def deepen(
    source: AutoencoderTAEHV, older: AutoencoderTAEHV, seed: int, *, steps: int | None = None
) -> AutoencoderTAEHV:
    """A model with the stages of `source` and one further in, fitted to what they say and to `older`'s latents.

    Args:
        source: whose decoder makes all frames of a latent in its outer stages ("together").
        older: whose latents the first channels shall be; they are as large as the new ones.
        seed: of weights and clips.
        steps: of the fit; None: INNER_STEPS.
    """
    shape = shape_of(source)
    shape |= {
        "latent_channels": CHANNELS,
        "encoder_widths": (*shape["encoder_widths"], WIDTHS[0]),
        "decoder_widths": (WIDTHS[1], *shape["decoder_widths"]),
        "encoder_blocks": (*shape["encoder_blocks"], 1),
        "decoder_blocks": (1, *shape["decoder_blocks"]),
        "time_downscale": (*shape["time_downscale"], 1),
        "time_upscale": (1, *shape["time_upscale"]),
        "latents_mean": None,
        "latents_std": None,
    }
    torch.manual_seed(seed)
    model = AutoencoderTAEHV(**shape).to(source.device)
    initialise(model, render_batch(step_seed(seed, 0, "initialise"), 8, 5, None, str(source.device)))
    outer = len(source.encoder) - 1  # but for the layer that makes its latents
    for new, old in zip(model.encoder[:outer], source.encoder[:outer], strict=True):
        new.load_state_dict(old.state_dict())
    inner = len(model.decoder) - len(source.decoder) + 3  # but for its clamp, its first layer and what follows that
    for new, old in zip(model.decoder[inner:], source.decoder[3:], strict=True):
        new.load_state_dict(old.state_dict())
    _fit((model.encoder[outer:], model.decoder[:inner]), source, older, seed, INNER_STEPS if steps is None else steps)
    return model


def _fit(
    stage: tuple[nn.Sequential, nn.Sequential], source: AutoencoderTAEHV, older: AutoencoderTAEHV, seed: int, steps: int
) -> None:
    """Let the new stage hand on what the outer one of the decoder was used to, behind noisy latents."""
    encode, decode = stage
    features, wanted = _features(source, older, seed)
    weights = [*encode.parameters(), *decode.parameters()]
    optimizers = (
        Muon([p for p in weights if p.ndim > 1], INNER_RATES[0]),
        torch.optim.AdamW([p for p in weights if p.ndim == 1], INNER_RATES[1], weight_decay=0.0),
    )
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for optimizer, peak in zip(optimizers, INNER_RATES, strict=True):
            optimizer.param_groups[0]["lr"] = min(1.0, step / 20) * cooling_rate(
                peak, max(0.0, 2.0 * step / steps - 1.0)
            )
        rows = torch.randint(len(features), (INNER_BATCH,), generator=generator)
        seen = features[rows].float()
        latents = run_layers(encode, seen)[0]
        made = run_layers(decode, latents + latent_noise(latents.shape, NOISE, generator).to(latents.device))[0]
        with torch.no_grad():
            target = run_layers(source.decoder[:3], run_layers(source.encoder[-1:], seen)[0])[0]
        spread = (target - target.mean(dim=(0, 1, 3, 4), keepdim=True)).square().mean()
        loss = (made - target).square().mean() / spread + SCALE_WEIGHT * scale_penalty(latents)
        loss = loss + KEPT_WEIGHT * apart(latents, wanted[rows].float())
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.grad = gradient
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        for optimizer in optimizers:
            optimizer.step()


def apart(latents: Tensor, wanted: Tensor) -> Tensor:
    """What the first channels of latents (B, F, C, h, w) lack of the older ones, as a share of their mean square."""
    return (latents[:, :, : wanted.shape[2]] - wanted).square().mean() / wanted.square().mean()


@torch.no_grad()
def _features(source: AutoencoderTAEHV, older: AutoencoderTAEHV, seed: int) -> tuple[Tensor, Tensor]:
    """Of INNER_CLIPS clips what `source`'s encoder makes its latents of, and the older latents; in half precision."""
    features, wanted = [], []
    for number in range(INNER_CLIPS // 4):
        pixels = render_batch(step_seed(seed, number, "inner"), 4, 9, None, str(source.device))
        wanted.append(older.encode(pixels, pad="start").half())
        first = pixels[:, :1].expand(-1, source.time_scale - 1, -1, -1, -1)
        features.append(run_layers(source.encoder[:-1], source.fold(torch.cat([first, pixels], dim=1)))[0].half())
    return torch.cat(features), torch.cat(wanted)
