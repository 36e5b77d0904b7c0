"""What each ingredient of the training is worth: the same short run without it, held against every way of asking.

All runs begin with the same weights, random ones or those of a run that is to go on, and take the same number of steps.
Each is then given the same held-out windows, of one kind after the other, and its error at predicting their flow is
compared with the run of everything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from models.taehv import AutoencoderTAEHV
from training.data import FOLDERS, SHARDS, Shelves, load_shelves, make_shard
from training.dit import Denoiser, train_dit
from training.mix import USUAL, Mix
from training.run import step_seed
from training.windows import Batch, draw_batch

_WINDOWS = Mix(
    pictures=(0.0, 0.0),
    windows=(1.0, 1.0),
    joint=0.0,
    noisy=0.0,
    single=0.0,
    dropped=0.0,
    shaken=0.0,
    own=0.0,
    other=0.0,
    closest=0.0,
)

WITHOUT: dict[str, Mix] = {
    "everything": USUAL,
    "nothing: other draws": USUAL,
    "no pictures, no beginnings": replace(USUAL, pictures=(0.0, 0.0), windows=(1.0, 1.0)),
    "no other picture under the noise": replace(USUAL, other=0.0),
    "no closest pairs": replace(USUAL, closest=0.0),
    "no windows denoised together": replace(USUAL, joint=0.0),
    "no noisy history": replace(USUAL, noisy=0.0),
    "no chunks of one frame": replace(USUAL, single=0.0),
    "no switches": replace(USUAL, switches=(False,)),
    "no dropped prompts": replace(USUAL, dropped=0.0),
    "no shaken history": replace(USUAL, shaken=0.0),
    "no history of its own": replace(USUAL, own=0.0),
    "no focus on the object": replace(USUAL, focus=0.0),
    "no listening": replace(USUAL, listening=0.0),
    "no readings": replace(USUAL, outline=0.0, course=0.0),
}
"""What is left out -> the run without it. Every run draws its own windows; a second one of everything tells how much
that does."""
ASKED: dict[str, Mix] = {
    "pictures": replace(_WINDOWS, pictures=(1.0, 1.0), windows=(0.0, 0.0)),
    "beginnings": replace(_WINDOWS, windows=(0.0, 0.0)),
    "another picture under the noise": replace(_WINDOWS, pictures=(1.0, 1.0), windows=(0.0, 0.0), other=1.0),
    "chunks of three": replace(_WINDOWS, switches=(False,)),
    "chunks of one": replace(_WINDOWS, single=1.0, switches=(False,)),
    "denoised together": replace(_WINDOWS, joint=1.0, switches=(False,)),
    "noisy history": replace(_WINDOWS, noisy=1.0, switches=(False,)),
    "history of its own": replace(_WINDOWS, own=1.0, switches=(False,)),
    "no prompt": replace(_WINDOWS, dropped=1.0, switches=(False,)),
    "films with a switch": replace(_WINDOWS, switches=(True,)),
}
"""Ways of asking -> the windows that ask so."""
HELD_OUT = 99_999
"""Number of the shards that are held out: training counts from 0."""
BATCHES, BATCH = 12, 6
"""Of held-out windows for each way of asking, and windows a batch."""


def make_held_out(out: Path, seed: int) -> None:
    """A shard of films, of beginnings and of pictures that no run learns from, in out/held_out."""
    for frames, films in SHARDS.items():
        made = out / "held_out" / FOLDERS[frames] / f"{HELD_OUT:05d}.safetensors"
        if not made.exists():
            made.parent.mkdir(parents=True, exist_ok=True)
            make_shard(
                made, AutoencoderTAEHV.from_pretrained(out / "autoencoder").eval(), seed, HELD_OUT, films, frames
            )


def questions(shelves: Shelves, asked: str, count: int) -> list[Batch]:
    """The held-out batches of one way of asking, the same ones whenever they are drawn."""
    return [draw_batch(step_seed(0, number, asked), *shelves, BATCH, mix=ASKED[asked]) for number in range(count)]


@torch.no_grad()
def error(model: Denoiser, batches: list[Batch]) -> float:
    """Mean square error of the flow over all that counts; noise and prompts are the same for every model."""
    total, counted = 0.0, 0.0
    for number, batch in enumerate(batches):
        generator = torch.Generator().manual_seed(number)
        noise, shake = (torch.randn(batch.latents.shape, generator=generator) for _ in range(2))
        tokens: Tensor = model.text_encoder.tokenize(batch.prompts)
        _, plain = model.loss(batch, noise, shake, tokens)
        total += float((plain * batch.weight).sum())
        counted += float(batch.weight.sum())
    return total / counted


def ablate(
    out: Path,
    *,
    steps: int,
    seed: int = 0,
    device: str = "cpu",
    workers: int = 2,
    start_from: Path | None = None,
    rate: float = 1.0,
    report: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Train without each ingredient in turn; a run that was killed goes on, and what is done is not done again.

    Args:
        out: folder with the FOLDERS and held_out/ with some more; gets ablation/ and ablation.json.
        steps: of each run.
        seed: of weights, windows and noise.
        device: "cpu" or "cuda".
        workers: threads that share a step's batch.
        start_from: whose weights all runs begin with, as of `train_dit`; None: random ones.
        rate: times the usual learning rates.
        report: told what was found.

    Returns:
        "steps", "seed", "rate", "start_from" as given; "errors": what was left out -> way of asking -> mean square
        error.
    """
    apart = load_shelves(out / "held_out")
    batches = {asked: questions(apart, asked, BATCHES) for asked in ASKED}
    file = out / "ablation.json"
    given = {"steps": steps, "seed": seed, "rate": rate, "start_from": start_from and start_from.name}
    known = json.loads(file.read_text("utf-8")) if file.exists() else {}
    errors: dict[str, dict[str, float]] = known["errors"] if given.items() <= known.items() else {}
    result = {**given, "errors": errors}
    whose = f"{steps} steps, seed {seed}, rate {rate:g}, {start_from.name if start_from else 'random'}"
    shelves = None
    for number, (left_out, mix) in enumerate(WITHOUT.items()):
        if left_out in errors:
            continue
        shelves = shelves or load_shelves(out)
        model = train_dit(
            out,
            seed=seed,
            steps=steps,
            device=device,
            workers=workers,
            start_from=start_from,
            name=f"ablation/{whose}/{number}",
            rate=rate,
            mix=mix,
            shelves=shelves,
        )
        errors[left_out] = {asked: error(model.cpu(), asking) for asked, asking in batches.items()}
        file.write_text(json.dumps(result, indent=1), encoding="utf-8")
        report(f"{left_out}: {errors[left_out]}")
    return result


def table(result: Mapping[str, Any]) -> Table:
    """Errors of the run of everything, and by how much the others are larger."""
    errors = result["errors"]
    whole = errors["everything"]
    shown = Table("left out", *ASKED, title=f"{result['steps']} steps; error over that of everything")
    for left_out, row in errors.items():
        cells = (
            f"{row[asked]:.3f}" if left_out == "everything" else f"{row[asked] / whole[asked] - 1:+.1%}"
            for asked in ASKED
        )
        shown.add_row(left_out, *cells)
    return shown
