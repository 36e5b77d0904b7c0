"""Trains the embedded model's autoencoder on freshly rendered clips of the painted world.

Latents are kept near unit spread and shaken with a little noise before decoding, so that the transformer's small errors
do not become visible, and edges weigh extra in the loss, because crisp shapes are what a viewer looks for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.taehv import AutoencoderTAEHV, MemBlock
from training import world
from training.muon import Muon
from training.run import Clock, Curve, Ema, learning_rate, load_checkpoint, save_checkpoint, step_seed

logger = logging.getLogger(__name__)

Loss = Callable[[Tensor, torch.Generator], tuple[Tensor, dict[str, float]]]
"""Clips [B, T, 3, H, W] and a source of noise -> what to minimise, and figures for the curve."""
Redraw = Callable[[Tensor, torch.Generator], Tensor]
"""Latents [B, F, C, h, w] -> the same with faults."""
Mix = tuple[tuple[int, int, int | None], ...]

CONFIG: dict[str, Any] = {
    "latent_channels": 8,
    "patch_size": 4,
    "encoder_patch_size": 2,
    "encoder_widths": (32, 48, 96),
    "decoder_widths": (128, 64, 32),
    "encoder_blocks": (1, 2),
    "decoder_blocks": (2, 1),
    "time_downscale": (2, 2),
    "time_upscale": (2, 2),
    "upsample": "shuffle",
}
PEAK_RATE, PEAK_RATE_VECTORS = 0.02, 1e-3  # of Muon for the kernels, of AdamW for the biases
NOISE = 0.06  # spread of the noise on unit-spread latents
EDGE_WEIGHT, SQUARE_WEIGHT, SCALE_WEIGHT = 0.5, 2.0, 0.1
SWITCH_SHARE = 0.2
LATEST_START = 20 * world.FPS  # clips begin up to 20 s into their films
OBJECT_CROPS = 0.7  # share of crops that are centred near the object, where the detail is
# (clips, pixel frames, crop side or None): short full frames, crops for variety, and longer memory.
MIX: Mix = ((4, 9, None), (16, 9, 96), (16, 9, 96), (2, 17, None))
DECODER_MIX: Mix = ((4, 9, None), (2, 17, None))


@torch.no_grad()
def initialise(model: AutoencoderTAEHV, pixels: Tensor) -> None:
    """Make every trunk convolution's output unit-sized on real clips (Mishkin and Matas 2015, arXiv 1511.06422).

    There are no norms, and with torch's default initialisation the picture's share of the signal shrinks layer by
    layer until the noise on the latents drowns it: training then stays at the mean colour. Residual branches start
    small (He et al. 2015, arXiv 1502.01852, times 0.3).
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.normal_(0.0, (2.0 / module.weight[0].numel()) ** 0.5)
            if module.bias is not None:
                module.bias.zero_()
    x = model.fold(pixels[:, : model.time_scale]).flatten(0, 1)
    for layer in [*model.encoder, *model.decoder]:
        if isinstance(layer, MemBlock):
            layer.conv[4].weight.mul_(0.3)
            x = layer(x, x)
            continue
        conv = layer if isinstance(layer, nn.Conv2d) else getattr(layer, "conv", None)
        if conv is not None:
            std, mean = torch.std_mean(layer(x), dim=(0, 2, 3))
            conv.weight.div_(std.mean())
            if conv.bias is not None:
                conv.bias.copy_(-mean / std.mean())
        x = layer(x)
    model.decoder[-1].weight.mul_(0.2)  # pixels: spread about 0.2 around grey
    model.decoder[-1].bias.mul_(0.2).add_(0.5)


def reconstruction_loss(made: Tensor, pixels: Tensor) -> Tensor:
    """L1, plus L1 of horizontal and vertical differences, plus mean square: (B, T, 3, H, W) each."""
    error = made - pixels
    edge = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + EDGE_WEIGHT * edge + SQUARE_WEIGHT * error.square().mean()


def scale_penalty(latents: Tensor) -> Tensor:
    """Distance of each channel's mean and spread from 0 and 1, for latents (B, F, C, h, w)."""
    std, mean = torch.std_mean(latents, dim=(0, 1, 3, 4))
    return mean.square().mean() + (std - 1.0).square().mean()


def psnr(made: Tensor, pixels: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of whole clips in 0..1, averaged over the clips."""
    error = (made.clamp(0, 1) - pixels).square().flatten(1).mean(dim=1)
    return float((-10.0 * error.clamp_min(1e-10).log10()).mean())


def render_batch(
    rng: np.random.Generator, clips: int, frames: int, crop: int | None, device: str, *, held_out: bool = False
) -> Tensor:
    """Random clips (B, T, 3, H, W) in 0..1 from anywhere in random films, cropped to one square each when asked."""
    switching = int(rng.binomial(clips, SWITCH_SHARE))
    plain = [world.sample_spec(rng, held_out=held_out) for _ in range(clips - switching)]
    starts = [int(start) for start in rng.integers(0, LATEST_START, size=len(plain))]
    parts = [world.render(plain, frames, start=starts, device=device)] if plain else []
    centres = [world.positions(spec, frames, start)[frames // 2] for spec, start in zip(plain, starts, strict=True)]
    if switching:
        switches = [world.sample_switch(rng, frames) for _ in range(switching)]
        parts.append(world.render_switch(switches, frames, device=device))
        centres += [world.switch_positions(switch, frames)[frames // 2] for switch in switches]
    pixels = torch.cat(parts)
    if crop is None:
        return pixels
    room = pixels.shape[-1] - crop
    cut = []
    for clip, (x, y) in zip(pixels, centres, strict=True):
        column, row = rng.integers(0, room + 1, size=2)
        if rng.random() < OBJECT_CROPS:
            column, row = (int(c * pixels.shape[-1] + crop * rng.uniform(-0.75, -0.25)) for c in (x, y))
        column, row = (int(np.clip(c, 0, room)) // 2 * 2 for c in (column, row))
        cut.append(clip[..., row : row + crop, column : column + crop])
    return torch.stack(cut)


def train_autoencoder(
    out: Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    minutes: float | None = None,
    device: str = "cpu",
    log_every: int = 20,
    save_every: int = 300,
) -> AutoencoderTAEHV:
    """Train, or go on training after a kill, and return the averaged model.

    Args:
        out: folder of `autoencoder.pt` (checkpoint with optimiser), `autoencoder.jsonl` (curve) and, at the end,
            `autoencoder/` (the model in diffusers format, with the statistics that normalise its latents).
        seed: of weights and data.
        steps: length of the run, or
        minutes: its wall-clock bound.
        device: "cpu" or "cuda".
        log_every: steps between lines of the curve.
        save_every: steps between checkpoints.
    """
    torch.manual_seed(seed)
    model = AutoencoderTAEHV(**CONFIG).to(device)
    initialise(model, render_batch(step_seed(seed, 0, "initialise"), 8, 5, None, device))

    def loss(pixels: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        noise = NOISE * torch.randn(_latent_shape(model, pixels), generator=generator).to(device)
        with torch.autocast(pixels.device.type, torch.bfloat16):
            made, latents = model(pixels, noise)
        made, latents = made.float(), latents.float()
        picture, scale = reconstruction_loss(made, pixels), scale_penalty(latents)
        parts = {"picture": float(picture.detach()), "scale": float(scale.detach())}
        return picture + SCALE_WEIGHT * scale, {**parts, "psnr": psnr(made.detach(), pixels)}

    run = _Run(out, "autoencoder", seed, Clock(steps=steps, minutes=minutes), log_every, save_every)
    _train(run, model, list(model.parameters()), loss, MIX)
    freeze(model.eval(), out, seed)
    return model


def train_decoder(
    out: Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    minutes: float | None = None,
    device: str = "cpu",
    redraw: Redraw | None = None,
    log_every: int = 20,
    save_every: int = 300,
) -> AutoencoderTAEHV:
    """Train the decoder of out/autoencoder alone: its latents, and what was trained on them, stay what they are.

    Args:
        out: folder of the model, which is written anew at the end; gets `decoder.pt` and `decoder.jsonl`.
        seed: of the data.
        steps: length of the run, or
        minutes: its wall-clock bound.
        device: "cpu" or "cuda".
        redraw: gives latents the transformer's own small faults, so that the decoder learns to draw crisply from
            them, as the last denoising step (HaCohen et al. 2024, LTX-Video, arXiv 2501.00103); half of the batches.
        log_every: steps between lines of the curve.
        save_every: steps between checkpoints.
    """
    torch.manual_seed(seed)
    model = AutoencoderTAEHV.from_pretrained(out / "autoencoder").to(device)

    def loss(pixels: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        with torch.autocast(pixels.device.type, torch.bfloat16):
            with torch.no_grad():
                latents = model.encode(pixels, pad="start").float()
                own = redraw is not None and float(torch.rand((), generator=generator)) < 0.5
                if redraw is not None and own:
                    latents = redraw(latents, generator)
                else:
                    latents = latents + NOISE * torch.randn(latents.shape, generator=generator).to(device)
            made = model.unfold(model.decode_raw(latents))[:, model.time_scale - 1 :]
        made = made.float()
        picture = reconstruction_loss(made, pixels)
        name = "redrawn_" if own else ""
        return picture, {f"{name}picture": float(picture.detach()), f"{name}psnr": psnr(made.detach(), pixels)}

    run = _Run(out, "decoder", seed, Clock(steps=steps, minutes=minutes), log_every, save_every)
    _train(run, model, list(model.decoder.parameters()), loss, DECODER_MIX, share=0.15)
    model.eval().save_pretrained(out / "autoencoder")
    return model


@dataclass(frozen=True, slots=True)
class _Run:
    """Where a run keeps what, and for how long it goes: `name`.pt and `name`.jsonl in `out`."""

    out: Path
    name: str
    seed: int
    clock: Clock
    log_every: int
    save_every: int


def _train(
    run: _Run, model: AutoencoderTAEHV, weights: list[nn.Parameter], loss_of: Loss, mix: Mix, share: float = 1.0
) -> None:
    """Optimise some of the model's weights on endless clips and leave their average in it; `share` of the peak rate."""
    clock, device = run.clock, str(model.device)
    peaks = (share * PEAK_RATE, share * PEAK_RATE_VECTORS)
    optimizers = (
        Muon([p for p in weights if p.ndim > 1], peaks[0]),
        torch.optim.AdamW([p for p in weights if p.ndim == 1], peaks[1], weight_decay=0.0),
    )
    ema = Ema(model, 0.998)
    saved = load_checkpoint(run.out / f"{run.name}.pt")
    if saved is not None:
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        ema.load_state_dict(saved["ema"])
        clock.step, clock.seconds_before = saved["step"], saved["seconds"]
    curve = Curve(run.out / f"{run.name}.jsonl")

    def save() -> None:
        state = {"model": model.state_dict(), "ema": ema.state_dict(), "step": clock.step, "seconds": clock.seconds}
        save_checkpoint(run.out / f"{run.name}.pt", {**state, "optimizers": [o.state_dict() for o in optimizers]})

    while not clock.done:
        rng = step_seed(run.seed, clock.step, run.name)
        pixels = render_batch(rng, *mix[clock.step % len(mix)], device)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(peak, clock.step, clock.progress, warmup=20)
        loss, parts = loss_of(pixels, torch.Generator().manual_seed(int(rng.integers(2**62))))
        gradients = torch.autograd.grad(loss, weights)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        norm = torch.nn.utils.clip_grad_norm_(weights, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        ema.update(model, clock.step)
        if clock.step % run.log_every == 0:
            seconds = round(clock.seconds, 1)
            curve.add(step=clock.step, seconds=seconds, loss=float(loss.detach()), grad=float(norm), **parts)
        clock.step += 1
        if clock.step % run.save_every == 0:
            save()
            curve.add(step=clock.step, held_out_psnr=held_out_psnr(model, ema, device))
    save()
    model.load_state_dict(ema.state_dict())
    curve.add(step=clock.step, seconds=round(clock.seconds, 1), held_out_psnr=held_out_psnr(model, ema, device))


def _latent_shape(model: AutoencoderTAEHV, pixels: Tensor) -> tuple[int, ...]:
    batch, frames, _, height, width = pixels.shape
    places = (height // model.spatial_scale, width // model.spatial_scale)
    return batch, (frames + 3) // 4, model.config["latent_channels"], *places


def freeze(model: AutoencoderTAEHV, out: Path, seed: int, clips: int = 96) -> None:
    """Measure the latents' statistics, put them into the config, and write out/autoencoder in diffusers format."""
    mean, std = latent_statistics(model, seed, clips, str(model.device))
    model.register_to_config(latents_mean=mean, latents_std=std)
    model.save_pretrained(out / "autoencoder")


@torch.no_grad()
def held_out_psnr(model: AutoencoderTAEHV, ema: Ema, device: str, clips: int = 8, frames: int = 33) -> float:
    """PSNR of the averaged weights on clips that training never draws (their seed stream is another)."""
    judge = AutoencoderTAEHV.from_config(model.config).to(device).eval()
    judge.load_state_dict(ema.state_dict())
    pixels = render_batch(step_seed(2**31, 0, "held out"), clips, frames, None, device, held_out=True)
    made, _ = judge(pixels)
    return psnr(made, pixels)


def latent_statistics(model: AutoencoderTAEHV, seed: int, clips: int, device: str) -> tuple[list[float], list[float]]:
    """Mean and spread of each latent channel over whole clips, latent 0 included."""
    rng = step_seed(seed, 0, "latent statistics")
    with torch.no_grad():
        latents = torch.cat(
            [model.encode(render_batch(rng, 4, 33, None, device), pad="start") for _ in range(clips // 4)]
        )
    std, mean = torch.std_mean(latents, dim=(0, 1, 3, 4))
    logger.info("latent mean %.3f..%.3f, spread %.3f..%.3f", mean.min(), mean.max(), std.min(), std.max())
    return mean.tolist(), std.tolist()
