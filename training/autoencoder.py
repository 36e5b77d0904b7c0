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

import torch
from torch import Tensor, nn

from models.taehv import AutoencoderTAEHV
from training import deepen
from training.crops import render_batch
from training.inherit import UNSETTLED, shape_of, unsettled
from training.initialise import initialise
from training.muon import Muon
from training.noise import latent_noise
from training.reconstruction import SCALE_WEIGHT, figures, local_edges, moving, psnr, save_page, scale_penalty
from training.run import (
    Clock,
    Curve,
    Ema,
    autocast,
    cooling_rate,
    learning_rate,
    load_checkpoint,
    save_checkpoint,
    steady_rate,
    step_seed,
)

logger = logging.getLogger(__name__)

Loss = Callable[[Tensor, torch.Generator], tuple[Tensor, dict[str, float]]]
"""Clips [B, T, 3, H, W] and a source of noise -> what to minimise, and figures for the curve."""
Redraw = Callable[[Tensor, torch.Generator], Tensor]
"""Latents [B, F, C, h, w] -> the same with faults."""
Mix = tuple[tuple[int, int, int | None], ...]

Rate = Callable[[float, Clock], float]
"""A peak rate of learning and how far the run is -> the rate of this step."""

CONFIG: dict[str, Any] = {
    "latent_channels": 8,
    "patch_size": 4,
    "encoder_patch_size": 4,
    "encoder_widths": (64, 96),
    "decoder_widths": (128, 48),
    "encoder_blocks": (3,),
    "decoder_blocks": (3,),
    "time_downscale": (4,),
    "time_upscale": (4,),
    "upsample": "together",
}
"""Shape of a new model: latents of 8 x 24 x 24 for 192 x 192 pixels. A run that goes on keeps its own."""
PEAK_RATE, PEAK_RATE_VECTORS = 0.008, 4e-4  # of Muon for the kernels, of AdamW for the biases
NOISE = 0.15  # largest spread of the noise on unit-spread latents; every clip has its own
EDGE_WEIGHT, SQUARE_WEIGHT, MOVING_WEIGHT = 0.5, 2.0, 4.0
CRISP_WEIGHT = 1.5  # while a model settles; before that it has better to learn
# (clips, pixel frames, crop side or None): crops for variety, short full frames, and longer memory.
MIX: Mix = (((4, 9, 96),) * 3 + ((2, 9, None),)) * 3 + ((4, 9, 96),) * 3 + ((1, 17, None),)
DECODER_MIX: Mix = ((4, 9, None), (2, 17, None))
CLIPS_ON_A_CARD = 8
"""Times as many clips a step: on a card, what a step costs are the starts of its operations."""
HELD_OUT_CLIPS, HELD_OUT_FRAMES, JUDGED = 8, 33, 3  # judged with every third checkpoint: it costs some twenty steps


def reconstruction_loss(made: Tensor, pixels: Tensor, crisp: float = 0.0) -> Tensor:
    """L1, plus L1 of horizontal and vertical differences, plus mean square: (B, T, 3, H, W) each.

    What moves counts MOVING_WEIGHT times: it is a sixth of the picture and three quarters of the error, but L1 asks
    every place alike. Where an edge is not known to the pixel all of these prefer a soft one to one beside it; `crisp`
    is the weight of a term that does not mind where in a small neighbourhood an edge is, if only it is as sharp.
    """
    error, weight = made - pixels, 1.0 + (MOVING_WEIGHT - 1.0) * moving(pixels)
    weight = weight / weight.mean()
    across = (error.diff(dim=-1).abs() * weight[..., 1:]).mean()
    down = (error.diff(dim=-2).abs() * weight[..., 1:, :]).mean()
    square = (error.square() * weight).mean()
    loss = (error.abs() * weight).mean() + EDGE_WEIGHT * (across + down) + SQUARE_WEIGHT * square
    if crisp:
        loss = loss + crisp * (local_edges(made) - local_edges(pixels)).abs().mean()
    return loss


def train_autoencoder(
    out: Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    minutes: float | None = None,
    sitting: float | None = None,
    device: str = "cpu",
    config: dict[str, Any] | None = None,
    rate: float = 1.0,
    start_from: Path | None = None,
    keep: Path | None = None,
    log_every: int = 20,
    save_every: int = 100,
) -> AutoencoderTAEHV:
    """Train at a steady rate, or go on training after a kill or for longer, and return the averaged model.

    Args:
        out: folder of `autoencoder.pt` (checkpoint with optimiser), `autoencoder.jsonl` (curve), `autoencoder.png`
            (true frames beside what became of them) and, at the end, `autoencoder/` (the model in diffusers format,
            with the statistics that normalise its latents). `cool_autoencoder` makes a better one of the checkpoint.
        seed: of weights and data.
        steps: length of the run, or
        minutes: its wall-clock bound; either may be raised later, since nothing else depends on it.
        sitting: minutes after which it stops wherever it is, to go on another time.
        device: "cpu" or "cuda".
        config: shape of a new model, CONFIG unless given; a run that goes on keeps its own.
        rate: times the usual rates of learning.
        start_from: folder of a settled model to take weights and shape of, where `out` has no checkpoint yet.
        keep: folder of a model whose latents the first channels shall be; `start_from`'s gets one halving more.
        log_every: steps between lines of the curve.
        save_every: steps between checkpoints; every third one is judged on held-out clips.
    """
    torch.manual_seed(seed)
    saved, kept = load_checkpoint(out / "autoencoder.pt"), deepen.kept_of(out, device, keep)
    if saved is None and start_from is not None:
        model = unsettled(start_from / "autoencoder").to(device)
        model = model if kept is None else deepen.deepen(model, kept, seed)
        Curve(out / "autoencoder.jsonl").add(started_from=start_from.name, note=UNSETTLED)
    else:
        model = AutoencoderTAEHV(**(saved["config"] if saved else config or CONFIG)).to(device)
    if saved is None and start_from is None:
        initialise(model, render_batch(step_seed(seed, 0, "initialise"), 8, 5, None, device))
    run = _Run(out, "autoencoder", seed, Clock(steps=steps, minutes=minutes, sitting=sitting), log_every, save_every)
    _train(run, model, list(model.parameters()), _loss_of(model, kept=kept), MIX, _steady, saved, share=rate)
    freeze(model.eval(), out, seed)
    return model


def cool_autoencoder(
    out: Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    minutes: float | None = None,
    sitting: float | None = None,
    device: str = "cpu",
    rate: float = 1.0,
    log_every: int = 20,
    save_every: int = 100,
) -> AutoencoderTAEHV:
    """Settle a copy of the run in `out` at a falling rate; the run itself stays as it is and may go on meanwhile.

    Args:
        out: folder of `autoencoder.pt`; gets `cooldown.jsonl` (curve), `cooldown.png` and, at the end, `autoencoder/`.
            A cooldown that was killed goes on; one that was done is begun anew from the run's newest checkpoint.
        seed: of the data.
        steps: length, or
        minutes: wall-clock bound; about a tenth of the run's own length is worth it.
        sitting: minutes after which it stops wherever it is, to go on another time.
        device: "cpu" or "cuda".
        rate: times the usual rates of learning to begin with: what the run had.
        log_every: steps between lines of the curve.
        save_every: steps between checkpoints; every third one is judged on held-out clips.
    """
    saved = load_checkpoint(out / "cooldown.pt")
    if saved is None:
        saved = load_checkpoint(out / "autoencoder.pt")
        if saved is None:
            raise FileNotFoundError(
                f"{out / 'autoencoder.pt'} does not exist; run `python -m training autoencoder` first."
            )
        saved = {**saved, "ema": saved["model"], "after": saved["step"], "step": 0, "seconds": 0.0, "processor": 0.0}
    model = AutoencoderTAEHV(**saved["config"]).to(device)
    run = _Run(
        out,
        "cooldown",
        seed + saved["after"],
        Clock(steps=steps, minutes=minutes, sitting=sitting),
        log_every,
        save_every,
    )
    loss = _loss_of(model, CRISP_WEIGHT, deepen.kept_of(out, device))
    _train(run, model, list(model.parameters()), loss, MIX, _cooling, saved, share=rate)
    freeze(model.eval(), out, seed)
    if run.clock.progress >= 1.0:
        (out / "cooldown.pt").unlink()
    return model


def _loss_of(model: AutoencoderTAEHV, crisp: float = 0.0, kept: AutoencoderTAEHV | None = None) -> Loss:
    most = NOISE if kept is None else deepen.NOISE

    def loss(pixels: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        noise = latent_noise(_latent_shape(model, pixels), most, generator).to(pixels.device)
        with autocast(pixels.device.type):
            made, latents = model(pixels, noise)
        made, latents = made.float(), latents.float()
        picture, scale = reconstruction_loss(made, pixels, crisp), scale_penalty(latents)
        parts = {"picture": float(picture.detach()), "scale": float(scale.detach())}
        total = picture + SCALE_WEIGHT * scale
        if kept is not None:
            lacking = deepen.apart(latents, kept.encode(pixels, pad="start"))
            total, parts["kept"] = total + deepen.KEPT_WEIGHT * lacking, float(lacking.detach())
        return total, {**parts, "psnr": psnr(made.detach(), pixels)}

    return loss


def _steady(peak: float, clock: Clock) -> float:
    return steady_rate(peak, clock.step, warmup=20)


def _cooling(peak: float, clock: Clock) -> float:
    return cooling_rate(peak, clock.progress)


def _falling(peak: float, clock: Clock) -> float:
    return learning_rate(peak, clock.step, clock.progress, warmup=20)


def train_decoder(
    out: Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    minutes: float | None = None,
    sitting: float | None = None,
    device: str = "cpu",
    redraw: Redraw | None = None,
    log_every: int = 20,
    save_every: int = 100,
) -> AutoencoderTAEHV:
    """Train the decoder of out/autoencoder alone: its latents, and what was trained on them, stay what they are.

    Args:
        out: folder of the model, which is written anew at the end; gets `decoder.pt` and `decoder.jsonl`.
        seed: of the data.
        steps: length of the run, or
        minutes: its wall-clock bound.
        sitting: minutes after which it stops wherever it is, to go on another time.
        device: "cpu" or "cuda".
        redraw: gives latents the transformer's own small faults, so that the decoder learns to draw crisply from
            them, as the last denoising step (HaCohen et al. 2024, LTX-Video, arXiv 2501.00103); half of the batches.
        log_every: steps between lines of the curve.
        save_every: steps between checkpoints; every third one is judged on held-out clips.
    """
    torch.manual_seed(seed)
    model = AutoencoderTAEHV.from_pretrained(out / "autoencoder").to(device)

    def loss(pixels: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        with autocast(pixels.device.type):
            with torch.no_grad():
                latents = model.encode(pixels, pad="start").float()
                own = redraw is not None and float(torch.rand((), generator=generator)) < 0.5
                if redraw is not None and own:
                    latents = redraw(latents, generator)
                else:
                    latents = latents + latent_noise(latents.shape, NOISE, generator).to(device)
            made = model.unfold(model.decode_raw(latents))[:, model.time_scale - 1 :]
        made = made.float()
        picture = reconstruction_loss(made, pixels, CRISP_WEIGHT)
        name = "redrawn_" if own else ""
        return picture, {f"{name}picture": float(picture.detach()), f"{name}psnr": psnr(made.detach(), pixels)}

    run = _Run(out, "decoder", seed, Clock(steps=steps, minutes=minutes, sitting=sitting), log_every, save_every)
    saved = load_checkpoint(out / "decoder.pt")
    _train(run, model, list(model.decoder.parameters()), loss, DECODER_MIX, _falling, saved, share=0.4)
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
    decay: float = 0.998


def _train(
    run: _Run,
    model: AutoencoderTAEHV,
    weights: list[nn.Parameter],
    loss_of: Loss,
    mix: Mix,
    rate: Rate,
    saved: dict[str, Any] | None,
    share: float = 1.0,
) -> None:
    """Optimise some of the model's weights on endless clips and leave their average in it.

    `saved` is the checkpoint to go on from; `share` of the peak rate is used.
    """
    clock, device = run.clock, str(model.device)
    peaks = (share * PEAK_RATE, share * PEAK_RATE_VECTORS)
    optimizers = (
        Muon([p for p in weights if p.ndim > 1], peaks[0]),
        torch.optim.AdamW([p for p in weights if p.ndim == 1], peaks[1], weight_decay=0.0),
    )
    after = {}
    if saved is not None:
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        clock.step, clock.seconds_before = saved["step"], saved["seconds"]
        clock.processor_before = saved.get("processor", 0.0)
        after = {"after": saved["after"]} if "after" in saved else {}
    ema = Ema(model, run.decay)
    if saved is not None:
        ema.load_state_dict(saved["ema"])
    curve, page = Curve(run.out / f"{run.name}.jsonl"), run.out / f"{run.name}.png"

    def so_far() -> dict[str, Any]:
        seconds, processor = round(clock.seconds, 1), round(clock.processor_seconds, 1)
        return {"step": clock.step, **after, "seconds": seconds, "processor": processor}

    def save() -> None:
        state = {**so_far(), "config": shape_of(model), "model": model.state_dict(), "ema": ema.state_dict()}
        save_checkpoint(run.out / f"{run.name}.pt", {**state, "optimizers": [o.state_dict() for o in optimizers]})

    while not clock.done:
        rng = step_seed(run.seed, clock.step, run.name)
        clips, frames, crop = mix[clock.step % len(mix)]
        pixels = render_batch(rng, clips * (1 if device == "cpu" else CLIPS_ON_A_CARD), frames, crop, device)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate(peak, clock)
        loss, parts = loss_of(pixels, torch.Generator().manual_seed(int(rng.integers(2**62))))
        gradients = torch.autograd.grad(loss, weights)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        norm = torch.nn.utils.clip_grad_norm_(weights, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        ema.update(model, clock.step)
        if clock.step % run.log_every == 0:
            curve.add(**so_far(), loss=float(loss.detach()), grad=float(norm), **parts)
        clock.step += 1
        if clock.step % run.save_every == 0:
            save()
        if clock.step % (JUDGED * run.save_every) == 0:
            judge = AutoencoderTAEHV(**shape_of(model)).to(device).eval()
            judge.load_state_dict(ema.state_dict())
            curve.add(**so_far(), **held_out(judge, page))
    save()
    model.load_state_dict(ema.state_dict())
    curve.add(**so_far(), **held_out(model.eval(), page))


def _latent_shape(model: AutoencoderTAEHV, pixels: Tensor) -> tuple[int, ...]:
    batch, frames, _, height, width = pixels.shape
    places = (height // model.spatial_scale, width // model.spatial_scale)
    return batch, (frames + 3) // 4, model.config["latent_channels"], *places


def freeze(model: AutoencoderTAEHV, out: Path, seed: int, clips: int = 96) -> None:
    """Measure the latents' statistics, put them into the config, and write out/autoencoder in diffusers format."""
    mean, std = latent_statistics(model, seed, clips, str(model.device))
    model.register_to_config(latents_mean=mean, latents_std=std)
    model.save_pretrained(out / "autoencoder")


def held_out(model: AutoencoderTAEHV, page: Path) -> dict[str, float]:
    """Figures on clips that training never draws (their seed stream is another), and at `page` pictures of such."""
    rng = step_seed(2**31, 0, "held out")
    pixels = render_batch(rng, HELD_OUT_CLIPS, HELD_OUT_FRAMES, None, str(model.device), held_out=True)
    save_page(page, model)
    return figures(model, pixels)


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
