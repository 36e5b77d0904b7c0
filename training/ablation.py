"""What each ingredient of the training is worth: short runs that lack half of them each, asked in every way.

All runs begin with the same weights, random ones or those of a run that is to go on, and take the same number of steps.
Each is then given the same held-out windows, of one kind after the other, and its error at predicting their flow is
measured. An ingredient is judged by all runs, half of which lack it; columns of the design that have no ingredient say
what chance does. (A run without one ingredient against one with everything takes as many runs and tells less: there
chance is in two runs, here in the mean of twenty.)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from models.taehv import AutoencoderTAEHV
from training.data import FOLDERS, SHARDS, Shelves, load_shelves, make_shard
from training.dit import BATCH, Denoiser, train_dit
from training.mix import USUAL, Mix
from training.run import step_seed
from training.windows import Batch, draw_batch

_WINDOWS = Mix(
    pictures=(0.0, 0.0),
    turns=(0.0, 0.0),
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

LEFT_OUT: dict[str, dict[str, Any]] = {
    "pictures and beginnings": {"pictures": (0.0, 0.0), "windows": (1.0, 1.0)},
    "another picture under the noise": {"other": 0.0},
    "closest pairs": {"closest": 0.0},
    "turns": {"turns": (0.0, 0.0)},
    "windows denoised together": {"joint": 0.0},
    "noisy history": {"noisy": 0.0},
    "chunks of one frame": {"single": 0.0},
    "switches": {"switches": (False,)},
    "dropped prompts": {"dropped": 0.0},
    "shaken history": {"shaken": 0.0},
    "history of its own": {"own": 0.0},
    "focus on the object": {"focus": 0.0},
    "listening": {"listening": 0.0},
    "readings": {"outline": 0.0, "course": 0.0},
}
"""Ingredient -> what of the mix is set to leave it out."""
_ROW = "++--++++-+-+----++-"
"""Plackett and Burman's design for 20 runs (1946, Biometrika 33): each run lacks the columns with a plus in this row,
turned by one more place, and the last one lacks none. In two columns every pair of signs stands as often: what the one
does cancels out of the other."""
RUNS, COLUMNS = len(_ROW) + 1, len(_ROW)
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
    "turns": replace(_WINDOWS, turns=(1.0, 1.0), windows=(0.0, 0.0)),
    "films with a switch": replace(_WINDOWS, switches=(True,)),
    "words of pictures": replace(_WINDOWS, pictures=(1.0, 1.0), windows=(0.0, 0.0), other=0.5, closest=0.5, focus=0.0),
    "words behind a switch": replace(_WINDOWS, turns=(1.0, 1.0), windows=(0.0, 0.0), other=0.5, focus=0.0),
}
"""Ways of asking -> the windows that ask so."""
WORDS = ("words of pictures", "words behind a switch")
"""Those that ask how far the model goes to what the prompt says, from what it might say as well."""
HELD_OUT = 99_999
"""Number of the shards that are held out: training counts from 0."""
BATCHES = 6
"""Of held-out windows for each way of asking, the same ones for every run."""


def lacking(run: int) -> list[int]:
    """Columns whose ingredient a run of the design lacks; the last run lacks nothing."""
    turned = _ROW[-run:] + _ROW[:-run] if run < COLUMNS else "-" * COLUMNS
    return [column for column, sign in enumerate(turned) if sign == "+"]


def mix_of(run: int) -> Mix:
    """What a run's steps are made of."""
    names = list(LEFT_OUT)
    left_out = [LEFT_OUT[names[column]] for column in lacking(run) if column < len(names)]
    return replace(USUAL, **{field: value for change in left_out for field, value in change.items()})


def make_held_out(out: Path, seed: int) -> None:
    """A shard of each of the FOLDERS that no run learns from, in out/held_out."""
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
def error(model: Denoiser, asked: str, batches: list[Batch]) -> float:
    """Mean square error of the flow over all that counts, or of the way that is left for one of WORDS.

    Noise and prompts are the same for every model.
    """
    model.mix = replace(USUAL, outline=0.0, course=0.0, listening=1.0)
    total, counted = 0.0, 0.0
    for number, batch in enumerate(batches):
        generator = torch.Generator().manual_seed(number)
        noise, shake = (torch.randn(batch.latents.shape, generator=generator) for _ in range(2))
        tokens: Tensor = model.text_encoder.tokenize(batch.prompts)
        loss, plain = model.loss(batch, noise, shake, tokens)
        if asked in WORDS and batch.heard is not None:  # nothing is in the loss but the plain error and the way
            total += float(loss) - float((plain * batch.weight).sum())
            counted += float(batch.heard.sum())
        else:
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
    batch_size: int = BATCH,
    report: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Train the runs of the design; a run that was killed goes on, and what is done is not done again.

    Args:
        out: folder with the FOLDERS and held_out/ with some more; gets ablation/ and ablation.json.
        steps: of each run.
        seed: of weights, windows and noise.
        device: "cpu" or "cuda".
        workers: threads that share a step's batch.
        start_from: whose weights all runs begin with, as of `train_dit`; None: random ones.
        rate: times the usual learning rates.
        batch_size: windows a step.
        report: told what was found.

    Returns:
        What was given, and "errors": run -> way of asking -> mean square error.
    """
    apart = load_shelves(out / "held_out")
    batches = {asked: questions(apart, asked, BATCHES) for asked in ASKED}
    file = out / "ablation.json"
    given = {"steps": steps, "batch_size": batch_size, "seed": seed, "rate": rate}
    given["start_from"] = start_from and start_from.name
    known = json.loads(file.read_text("utf-8")) if file.exists() else {}
    errors: dict[str, dict[str, float]] = known["errors"] if given.items() <= known.items() else {}
    result = {**given, "errors": errors}
    whose = f"{steps} steps of {batch_size}, seed {seed}, rate {rate:g}, {start_from.name if start_from else 'random'}"
    shelves = None
    for run in range(RUNS):
        if str(run) in errors:
            continue
        shelves = shelves or load_shelves(out)
        model = train_dit(
            out,
            seed=seed,
            steps=steps,
            device=device,
            workers=workers,
            start_from=start_from,
            name=f"ablation/{whose}/{run}",
            rate=rate,
            batch_size=batch_size,
            mix=mix_of(run),
            shelves=shelves,
        )
        errors[str(run)] = {asked: error(model.cpu(), asked, asking) for asked, asking in batches.items()}
        file.write_text(json.dumps(result, indent=1), encoding="utf-8")
        report(f"run {run + 1} of {RUNS}: {errors[str(run)]}")
    return result


def effects(errors: Mapping[str, Mapping[str, float]], asked: str) -> tuple[dict[str, float], float]:
    """By how much the error at one way of asking is larger without each ingredient, and what chance does.

    Returns:
        Ingredient -> logarithm of the error without it over that with it, mean over the runs; the root mean square of
        the same over the columns without an ingredient.
    """
    logs = np.log([errors[str(run)][asked] for run in range(RUNS)])
    without = np.zeros((RUNS, COLUMNS), dtype=bool)
    for run in range(RUNS):
        without[run, lacking(run)] = True
    found = [float(logs[column].mean() - logs[~column].mean()) for column in without.T]
    chance = found[len(LEFT_OUT) :]
    return dict(zip(LEFT_OUT, found, strict=False)), float(np.sqrt(np.square(chance).mean()))


CLEAR = 2.57
"""So many times what chance does is clear: Student's t for 95 % and the columns without an ingredient, 5."""


def table(result: Mapping[str, Any]) -> Table:
    """By how much the error is larger without each ingredient, in per cent; what stands clear of chance in bold."""
    found = {asked: effects(result["errors"], asked) for asked in ASKED}
    shown = Table("without", *ASKED, title=f"{RUNS} runs of {result['steps']} steps; larger error without, and chance")
    everything = result["errors"][str(RUNS - 1)]
    shown.add_row("(error of everything)", *(f"{everything[asked]:.3f}" for asked in ASKED))
    for name in LEFT_OUT:
        cells = []
        for values, chance in found.values():
            cell = f"{np.expm1(values[name]):+.1%}"
            cells.append(f"[bold]{cell}[/bold]" if abs(values[name]) > CLEAR * chance else cell)
        shown.add_row(name, *cells)
    shown.add_row("(chance)", *(f"{chance:.1%}" for _, chance in found.values()))
    return shown
