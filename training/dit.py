"""Trains the embedded model's transformer and text encoder together, by flow matching on windows of latents.

Most steps are teacher-forced with slightly shaken history, so that what is learned is what the engine asks: the next
chunk, from clean memory, under the prompt in force. A step's batch is split over workers of one thread each: they meet
once a step, where threads inside every operation would meet thousands of times and crawl on a busy machine.
"""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.text import TextEncoder
from models.wan import CausalWanTransformer3DModel
from training.align import align
from training.attention import TrainingAttnProcessor
from training.captions import vocabulary
from training.data import Shelves, load_shelves
from training.inherit import inherit, shipped
from training.mix import USUAL, Mix
from training.muon import Muon
from training.run import Clock, Curve, Ema, autocast, learning_rate, load_checkpoint, save_checkpoint, step_seed
from training.steps import Ahead, Step, means
from training.windows import Batch, draw_batch

logger = logging.getLogger(__name__)

TRANSFORMER: dict[str, Any] = {
    "num_attention_heads": 7,
    "attention_head_dim": 32,
    "text_dim": 128,
    "text_len": 32,
    "freq_dim": 256,
    "ffn_dim": 896,
    "num_layers": 6,
}
TEXT: dict[str, Any] = {"text_len": 32, "text_dim": 128, "num_layers": 2, "num_heads": 4}
PEAK_RATE, PEAK_RATE_OTHERS = 0.02, 1e-3  # of Muon for the blocks' matrices, of AdamW for everything else
BATCH, WORKERS = 6, 2
TOKENS = 6
"""Along each side of a latent frame, whatever its size: what a step costs does not depend on the autoencoder."""
READ_BLOCK = 2
"""After this block every token says what the object covers of it, on four places a latent, and where it goes."""
LEAST_WAY = 10.0
"""Square of the way between two pictures, all latents together, from which on it counts as a whole one: a ball and a
square are 44 apart. Of two that hardly differ, as where the company is out of sight, only the noise would be asked."""
UNKNOWN_SHARE = 0.01
"""Share of words hidden as <unk>, so that an unknown word in a prompt does no harm."""


Teach = Callable[[Batch, Tensor, Tensor, Tensor], Tensor]
"""Windows, their noisy frames, their history and the prompts' word numbers -> the flow to learn."""


class Denoiser(nn.Module):
    """Transformer and text encoder as one module, so that they share optimiser, average and checkpoint.

    While it trains, linear layers read the object's outline and its course off the tokens half-way through the blocks.
    What a word means for a shape or a motion is thus learned from a direct question, as other trainings learn from a
    pretrained encoder's features (Yu et al. 2024, arXiv 2410.06940), and not only from the few latents along an edge.
    They are not exported.

    Another direct question is whether the model listens. Where the prompt says a ball, the prediction should be all
    the way from a square to a ball, whichever of them the noisy picture shows, and however little of the picture that
    is: what a square has more than a ball was never worth a hearing in the mean error.
    """

    def __init__(self, words: list[str], mix: Mix = USUAL, *, channels: int = 8, patch: int = 2) -> None:
        """A new model.

        Args:
            words: that it shall know.
            mix: weights of the questions.
            channels: of a latent.
            patch: side of the square of latents in a token.
        """
        super().__init__()
        self.mix, self.patch = mix, patch
        self.transformer = CausalWanTransformer3DModel(
            **TRANSFORMER, patch_size=(1, patch, patch), in_channels=channels, out_channels=channels
        )
        self.text_encoder = TextEncoder.from_words(words, **TEXT)
        for block in self.transformer.blocks:
            block.attn1.set_processor(TrainingAttnProcessor())
            block.attn2.set_processor(TrainingAttnProcessor())
        width = TRANSFORMER["num_attention_heads"] * TRANSFORMER["attention_head_dim"]
        self.outline, self.course = nn.Linear(width, (2 * patch) ** 2), nn.Linear(width, 4)
        self._tap = threading.local()  # each worker has its own forward
        self.transformer.blocks[READ_BLOCK].register_forward_hook(self._keep)

    def _keep(self, block: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self._tap.hidden = output

    def _reading_loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the outline and error of the course, each summed over counting frames."""
        frames, fine = batch.sigma.shape[1], 2 * self.patch
        rows, columns = (side // self.patch for side in batch.latents.shape[-2:])
        hidden = self._tap.hidden.unflatten(1, (-1, rows, columns))[:, -frames:].float()
        guess = self.outline(hidden).unflatten(-1, (fine, fine))  # [B, F, row, column, fine, fine]
        guess = guess.transpose(3, 4).flatten(4, 5).flatten(2, 3)
        outline = nn.functional.binary_cross_entropy_with_logits(guess, batch.outline, reduction="none")
        said = self.course(hidden).flatten(2, 3)  # every token says the whole course, [B, F, token, 4]
        course = nn.functional.smooth_l1_loss(said, batch.course[:, :, None].expand_as(said), reduction="none")
        outline, course = outline.mean(dim=(2, 3)), course.sum(dim=-1).mean(dim=-1)
        return (outline * batch.weight).sum(), (course * batch.weight).sum()

    def flow(self, batch: Batch, noisy: Tensor, sigma: Tensor, history: Tensor, tokens: Tensor) -> Tensor:
        """Predicted flow of `noisy` frames at `sigma` [B, F], in the layout of the batch; all latents alike."""
        with autocast(noisy.device.type, cache_enabled=False):  # workers must not share casts
            return self.transformer.forward_train(
                noisy,
                1000.0 * sigma,
                self.text_encoder(tokens),
                chunk=batch.chunk,
                clean=history if batch.forced else None,
                joint=batch.joint,
            ).float()

    @torch.no_grad()
    def _own_history(self, batch: Batch, noised: Tensor, tokens: Tensor) -> Tensor:
        """History as the model itself paints it out of the noised film, so that it learns to go on from that.

        All chunks are painted at once, each behind the history of the round before, so that errors add up over as
        many chunks as there are rounds. Painted out of the noised film they stay near the truth, which is still what
        is to be learned (as error recycling, Li et al. 2025, arXiv 2510.09212). What does not count keeps the truth:
        it has another prompt.
        """
        counts, history = batch.weight[..., None, None, None] > 0, batch.latents
        for _ in range(batch.own):
            painted = noised
            for level, following in pairwise((1.0, 0.0) if batch.ladder else (1.0, 0.5, 0.0)):
                flow = self.flow(batch, painted, level * batch.history_noise, history, tokens)
                painted = painted + (following - level) * batch.history_noise[..., None, None, None] * flow
            history = torch.where(counts, painted, batch.latents)
        return history

    @staticmethod
    def way(batch: Batch, noisy: Tensor, noise: Tensor) -> Tensor:
        """The flow to the clean film, from wherever the noisy one is; finite where it does not count."""
        if batch.under is None:
            return noise - batch.latents
        return (noisy - batch.latents) / batch.sigma[..., None, None, None].clamp_min(1e-3)

    def loss(
        self, batch: Batch, noise: Tensor, shake: Tensor, tokens: Tensor, teach: Teach | None = None
    ) -> tuple[Tensor, Tensor]:
        """Sum over counting frames of the flow's focused error and the readings', and each frame's plain error [B, F].

        Args:
            batch: the step's windows.
            noise: of the noisy frames, as the latents.
            shake: noise of the history, as the latents.
            tokens: the prompts' word numbers [B, L].
            teach: says what the flow should be; without it the flow of these very films.
        """
        clean, sigma = batch.latents, batch.sigma[..., None, None, None]
        small = batch.history_noise[..., None, None, None]
        history = (1.0 - small) * clean + small * shake
        if batch.own:
            history = self._own_history(batch, history, tokens)
        under = clean if batch.under is None else batch.under
        noisy = torch.where(sigma > 0, (1.0 - sigma) * under + sigma * noise, history)
        target = teach(batch, noisy, history, tokens) if teach is not None else self.way(batch, noisy, noise)
        error = self.flow(batch, noisy, batch.sigma, history, tokens) - target
        square = error.square().mean(dim=2)
        focused = (square * batch.focus).mean(dim=(2, 3))
        outline, course = self._reading_loss(batch)
        loss = (focused * batch.weight).sum() + self.mix.outline * outline + self.mix.course * course
        if batch.instead is not None and batch.heard is not None:
            way = clean - batch.instead
            # Against a film's longest way: while a switch dissolves, a part of the way is no way of its own.
            whole = way.square().sum(dim=(2, 3, 4)).amax(dim=1, keepdim=True).clamp_min(LEAST_WAY)
            left = (sigma * error * way).sum(dim=(2, 3, 4)) / whole
            loss = loss + self.mix.listening * (left.square() * batch.heard).sum()
        return loss, square.detach().mean(dim=(2, 3))


def _optimizers(model: Denoiser) -> tuple[Muon, Muon, torch.optim.AdamW]:
    """Two halves of the matrices, so that two workers can step them, and all other weights."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "blocks." in name]
    taken = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in taken]
    return (
        Muon(matrices[::2], PEAK_RATE, weight_decay=0.01),
        Muon(matrices[1::2], PEAK_RATE, weight_decay=0.01),
        torch.optim.AdamW(others, PEAK_RATE_OTHERS, betas=(0.9, 0.98), weight_decay=0.01),
    )


def _gradients(
    model: Denoiser,
    pool: Executor,
    step: Step,
    workers: int,
    teach: Teach | None,
) -> tuple[Tensor, Tensor]:
    """Fill the weights' gradients of the batch's mean loss; returns the loss and each frame's error."""
    weights, batch = list(model.parameters()), step.batch
    total = batch.weight.sum().clamp_min(1.0)
    workers = min(workers, len(batch.prompts))

    def part(index: int) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        rows = slice(index, None, workers)
        noise, shake, tokens = (drawn[rows] for drawn in (step.noise, step.shake, step.tokens))
        loss, error = model.loss(batch.rows(rows), noise, shake, tokens, teach)
        return loss.detach(), error, torch.autograd.grad(loss / total, weights)

    parts = list(pool.map(part, range(workers)))
    for weight, *grads in zip(weights, *(grads for _, _, grads in parts), strict=True):
        weight.grad = torch.stack(grads).sum(0) if len(grads) > 1 else grads[0]
    error = torch.empty_like(batch.weight)
    for index, (_, part_error, _) in enumerate(parts):
        error[index::workers] = part_error
    return torch.stack([loss for loss, _, _ in parts]).sum() / total, error


def _hide_words(tokens: Tensor, rng: np.random.Generator) -> Tensor:
    hidden = torch.from_numpy(rng.random(tuple(tokens.shape)) < UNKNOWN_SHARE) & (tokens > 0)
    return torch.where(hidden, 1, tokens)


def train_dit(
    out: Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    minutes: float | None = None,
    sitting: float | None = None,
    device: str = "cpu",
    log_every: int = 10,
    save_every: int = 50,
    batch_size: int = BATCH,
    workers: int = WORKERS,
    look: Callable[[Denoiser, int], None] | None = None,
    look_minutes: float = 10.0,
    start_from: Path | Denoiser | None = None,
    name: str = "dit",
    rate: float = 1.0,
    levels: Sequence[float] | None = None,
    teacher: Teach | None = None,
    mix: Mix = USUAL,
    shelves: Shelves | None = None,
) -> Denoiser:
    """Train, or go on after a kill, and return the averaged model.

    Args:
        out: folder with the FOLDERS; gets `name`.pt (checkpoint with optimisers) and `name`.jsonl (curve).
        seed: of weights, windows and noise.
        steps: length of the run, or
        minutes: its wall-clock bound.
        sitting: minutes after which it stops wherever it is, to go on another time.
        device: "cpu" or "cuda"; there the next step's windows are drawn while this one is computed.
        log_every: steps between lines of the curve, which hold means since the line before.
        save_every: steps between checkpoints.
        batch_size: windows a step.
        workers: threads that share a step's batch; give each one thread of torch (OMP_NUM_THREADS=1).
        look: called with the averaged model and the step every so often, to draw sample pictures.
        look_minutes: minutes of training between calls of `look`.
        start_from: a model, its folder or another run's to take the weights of, where `out` has no checkpoint yet;
            of an earlier autoencoder's perhaps: the layers that touch latents are then new and, if it is at hand,
            fitted ("new", "read" and "written" in the curve).
        name: of the run.
        rate: times the usual learning rates.
        levels: the sampler's noise levels if it is to be trained for these alone, as of `draw_batch`.
        teacher: says what to predict instead of the films' own flow.
        mix: what the steps are made of.
        shelves: what is in the FOLDERS, where it has been loaded before.
    """
    # Under autocast torch says once that its fused RMS norm does not mix dtypes; nothing can be done about it here.
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
    torch.manual_seed(seed)
    shelves = shelves or load_shelves(out)
    films, beginnings, pictures, turns = shelves
    channels, side = films.latents.shape[2], films.latents.shape[-1]
    model = Denoiser(vocabulary(), mix, channels=channels, patch=max(1, side // TOKENS)).to(device)
    nn.init.zeros_(model.transformer.proj_out.weight)  # the first guess is no flow at all, not a random one
    optimizers, ema = _optimizers(model), Ema(model, 0.999)
    clock = Clock(steps=steps, minutes=minutes, sitting=sitting)
    saved = load_checkpoint(out / f"{name}.pt")
    if saved is not None:
        model.load_state_dict(saved["model"])
        ema.load_state_dict(saved["ema"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        clock.step, clock.seconds_before = saved["step"], saved["seconds"]
    curve = Curve(out / f"{name}.jsonl")
    if saved is None and start_from is not None:
        fresh = _start(model, start_from)
        fitted = align(model, shelves, start_from, seed, batch_size) if fresh else {}
        ema = Ema(model, 0.999)
        if isinstance(start_from, Path):
            note = "weights alone, without optimiser moments: warms up again"
            curve.add(started_from=start_from.name, note=note, **({"new": fresh} if fresh else {}), **fitted)
    curve.add(
        films=len(films.films),
        beginnings=len(beginnings.films),
        pictures=len(pictures.films),
        turns=len(turns.films),
        parameters=sum(p.numel() for p in model.parameters()),
        resumed_at=clock.step,
    )
    seen: list[tuple[Batch, Tensor, Tensor, Tensor]] = []
    since = time.monotonic()
    looked = clock.seconds

    def draw(step: int, progress: float) -> Step:
        rng = step_seed(seed, step, name)
        batch = draw_batch(rng, *shelves, batch_size, 1.0 if levels else progress, levels, mix)
        generator = torch.Generator(device).manual_seed(int(rng.integers(2**62)))
        noise, shake = (torch.randn(batch.latents.shape, generator=generator, device=device) for _ in range(2))
        tokens = _hide_words(model.text_encoder.tokenize(batch.prompts), rng)
        return Step(batch.to(device), noise, shake, tokens.to(device))

    with ThreadPoolExecutor(workers) as pool, Ahead(draw, device != "cpu") as drawn:
        done = clock.done
        while not done:
            step = drawn.take(clock)
            for optimizer, peak in zip(optimizers, (PEAK_RATE, PEAK_RATE, PEAK_RATE_OTHERS), strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(rate * peak, clock.step, clock.progress, warmup=50)
            loss, error = _gradients(model, pool, step, workers, teacher)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            list(pool.map(lambda optimizer: optimizer.step(), optimizers))
            ema.update(model, clock.step)
            clock.step += 1
            done = clock.done  # asked once: minutes may run out between saving and the end
            seen.append((step.batch, loss, norm, error))
            if clock.step % log_every == 0:
                speed = log_every * batch_size / (time.monotonic() - since)
                at = {"step": clock.step, "seconds": round(clock.seconds, 1)}
                curve.add(**at, windows_per_second=round(speed, 2), **means(seen))
                seen, since = [], time.monotonic()
            if clock.step % save_every == 0 or done:
                state = {
                    "model": model.state_dict(),
                    "ema": ema.state_dict(),
                    "step": clock.step,
                    "seconds": clock.seconds,
                }
                save_checkpoint(out / f"{name}.pt", {**state, "optimizers": [o.state_dict() for o in optimizers]})
            if look is not None and clock.seconds - looked > 60.0 * look_minutes:
                looked = clock.seconds
                look(_averaged(ema.state_dict()), clock.step)
    model.load_state_dict(ema.state_dict())
    return model.eval()


def _start(model: Denoiser, source: Path | Denoiser) -> list[str]:
    """Take over a model's weights, a run's or shipped ones; returns the names of the layers that stay new."""
    if isinstance(source, Path) and (source / "dit.pt").exists():
        source = load_denoiser(source)
    if isinstance(source, Denoiser):
        return inherit(model, model.text_encoder.words, source.state_dict(), source.text_encoder.words)
    return inherit(model, model.text_encoder.words, *shipped(source))


def load_denoiser(out: Path, name: str = "dit") -> Denoiser:
    """The averaged weights of the run `name` in `out`, as far as it has come."""
    saved = load_checkpoint(out / f"{name}.pt")
    if saved is None:
        raise FileNotFoundError(f"{out / name}.pt does not exist; run `python -m training {name}` first.")
    return _averaged(saved["ema"])


def _averaged(state: dict[str, Tensor]) -> Denoiser:
    """The model of these weights, whose first layer says what latents it reads."""
    _, channels, _, patch, _ = state["transformer.patch_embedding.weight"].shape
    model = Denoiser(vocabulary(), channels=channels, patch=patch)
    model.load_state_dict(state)
    return model.eval()
