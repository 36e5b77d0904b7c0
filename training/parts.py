"""The recipe in parts, for a card that is lent for some minutes at a time: each call goes on where the last one ended.

A part ends in time, with all that the next one needs packed into a few small files; only the films are painted anew
where they were left behind, which takes a card two or three minutes.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from training import autoencoder, data, dit, export
from training.distil import train_distil
from training.dit import load_denoiser
from training.pack import pack, unpack
from training.run import load_checkpoint, save_checkpoint
from training.sample import Redraw

MINUTES, PART_MINUTES = 23.0, 8.5
"""Of training in all, painting not counted, and of one part, from its first moment to its last."""
SHARES = {"autoencoder": 0.2, "cooldown": 0.05, "dit": 0.53, "distil": 0.16, "decoder": 0.06}
"""What each stage has of the training; in this order, with the films before the third."""
BATCH, SHARDS = 96, 24
"""Windows a step, and shards of each kind of films: a card learns from so many at once in the time of a few."""
LEAST_MINUTES = 0.2
"""With less left of a part, a stage is not begun; of a stage, it counts as done."""
PACKING_MINUTES = 0.3
"""Kept for writing the files."""
DONE, PACKED = "parts.json", "packed"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything.

    Attributes:
        minutes: of training in all.
        part: minutes of one part.
        batch: windows a step.
        shards: of each kind of films.
        films: of each length a shard, as of `data.SHARDS`.
    """

    minutes: float = MINUTES
    part: float = PART_MINUTES
    batch: int = BATCH
    shards: int = SHARDS
    films: dict[int, int] | None = None


def next_part(
    out: Path,
    *,
    seed: int = 0,
    device: str = "cuda",
    start_from: Path | None = None,
    sizes: Sizes | None = None,
    say: Callable[[str], object] = print,
) -> list[str]:
    """Train for one part.

    Args:
        out: the run's folder; gets `parts.json` (what is done), `packed/` (what the next part needs where all else of
            the folder is lost) and, after the last part, `embedded/`, the model as it ships.
        seed: of everything.
        device: "cuda", or "cpu" to try it.
        start_from: an exported model to begin with: its autoencoder, and as much of its transformer as fits.
        sizes: how much of everything; None: the usual.
        say: told what is done.

    Returns:
        The stages that are not finished yet; none when the model is.
    """
    sizes = sizes or Sizes()
    run = _Run(out, seed, device, start_from, sizes)
    run.unpack()
    for stage in SHARES:
        if stage in run.done:
            continue
        if stage in ("dit", "distil") and not run.paint():
            break
        if run.left < LEAST_MINUTES or not run.train(stage):
            say(f"{stage}: {run.trained(stage):.1f} of {run.minutes(stage):.1f} minutes")
            break
        run.finish(stage)
        say(f"{stage}: done")
    missing = [stage for stage in SHARES if stage not in run.done]
    if missing:
        run.pack()
    else:
        export.export(out, out / "embedded")
    return missing


class _Run:
    """One part of a run; `done` are the stages that are finished."""

    def __init__(self, out: Path, seed: int, device: str, start_from: Path | None, sizes: Sizes) -> None:
        self.out, self.device, self._seed, self._sizes = out, device, seed, sizes
        self._start_from = start_from
        self._end = time.monotonic() + 60.0 * (sizes.part - PACKING_MINUTES)
        self.done: list[str] = []

    @property
    def left(self) -> float:
        """Minutes of this part."""
        return (self._end - time.monotonic()) / 60.0

    def minutes(self, stage: str) -> float:
        """What the stage has of the training."""
        return self._sizes.minutes * SHARES[stage]

    def trained(self, stage: str) -> float:
        """Minutes that the stage has been trained for."""
        saved = load_checkpoint(self.out / f"{stage}.pt")
        return 0.0 if saved is None else saved["seconds"] / 60.0

    def unpack(self) -> None:
        """Take up what an earlier part packed, as far as it is not here."""
        packed = self.out / PACKED
        record = self.out / DONE if (self.out / DONE).exists() else packed / DONE
        self.done = json.loads(record.read_text("utf-8")) if record.exists() else []
        for form in packed.glob("*.json"):
            if form.name != DONE and not (self.out / f"{form.stem}.pt").exists():
                unpack(packed, form.stem, self.out)
        for folder in packed.glob("autoencoder"):
            if not (self.out / folder.name).exists():
                shutil.copytree(folder, self.out / folder.name)
        for curve in packed.glob("*.jsonl"):
            if not (self.out / curve.name).exists():
                shutil.copy(curve, self.out / curve.name)

    def paint(self) -> bool:
        """Paint the films that are missing; whether all are there."""
        films = self._sizes.films or data.SHARDS
        return all(
            data.make_data(
                self.out,
                seed=self._seed,
                shards=self._sizes.shards,
                films=films[frames],
                frames=frames,
                device=self.device,
                over=lambda: self.left < LEAST_MINUTES,
            )
            for frames in data.FOLDERS
        )

    def train(self, stage: str) -> bool:
        """Train a stage for what is left of the part, or of its own time; whether it has had all of that."""
        how: dict[str, Any] = {
            "seed": self._seed,
            "device": self.device,
            "minutes": self.minutes(stage),
            "sitting": self.left,
        }
        threads = torch.get_num_threads()
        if stage == "autoencoder":
            autoencoder.train_autoencoder(self.out, **how, start_from=self._start_from)
        elif stage == "cooldown":
            autoencoder.cool_autoencoder(self.out, **how)
            return not (self.out / "cooldown.pt").exists()
        elif stage == "decoder":
            redraw = Redraw(load_denoiser(self.out, "distil").to(self.device))
            autoencoder.train_decoder(self.out, **how, redraw=redraw)
        else:
            how |= {"batch_size": self._sizes.batch, "workers": 1}
            if stage == "dit":
                dit.train_dit(self.out, **how, start_from=self._start_from)
            else:
                train_distil(self.out, **how)
        torch.set_num_threads(threads)
        return self.trained(stage) > self.minutes(stage) - LEAST_MINUTES

    def finish(self, stage: str) -> None:
        """Note that a stage is done, and keep of its run what others need: the average."""
        if stage in ("dit", "distil"):
            saved = load_checkpoint(self.out / f"{stage}.pt") or {}
            kept = {name: saved[name] for name in ("ema", "step", "seconds")}
            save_checkpoint(self.out / f"{stage}.pt", kept)
        elif stage == "cooldown":
            (self.out / "autoencoder.pt").unlink()
        self.done.append(stage)
        (self.out / DONE).write_text(json.dumps(self.done) + "\n", encoding="utf-8")

    def pack(self) -> None:
        """Write what the next part needs to `packed/`, and nothing else."""
        packed = self.out / PACKED
        shutil.rmtree(packed, ignore_errors=True)
        packed.mkdir(parents=True)
        for run in self.out.glob("*.pt"):
            pack(self.out, run.stem, packed)
        for curve in self.out.glob("*.jsonl"):
            shutil.copy(curve, packed)
        if (self.out / "autoencoder").exists():
            shutil.copytree(self.out / "autoencoder", packed / "autoencoder")
        (packed / DONE).write_text(json.dumps(self.done) + "\n", encoding="utf-8")
