"""Turns a training run into the folder that ships: three components in bf16, a card for code and a card for people.

The cards hold only what was measured or decided; a figure that nobody measured is not in them.
"""

from __future__ import annotations

import json
import math
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.taehv import AutoencoderTAEHV
from pipelines.drift import NAMES, statistics
from training import world
from training.card import readme
from training.distil import GUIDANCE, STEPS
from training.dit import TRANSFORMER, Denoiser, load_denoiser
from training.meanings import glossary
from training.mix import USUAL
from training.noise import SHIFT
from training.run import load_checkpoint, step_seed
from training.windows import SINK, WINDOW

VERSION = "2.4"
PLANS = ("serial-clean", "rolling-window", "moving-buffer")
"""Noise plans that the weights are as good under as under the first one, which `rivulet bench quality` shows."""
TRANSITION = "keep"
"""How a prompt takes over that looks right soonest, which `rivulet bench quality` shows too."""


def export(out: Path, target: Path) -> dict[str, Any]:
    """Write the three components and both cards of the run in `out` to `target`; returns the card for code."""
    denoiser, autoencoder = load_denoiser(out, newest(out)), AutoencoderTAEHV.from_pretrained(out / "autoencoder")
    denoiser.transformer.to(torch.bfloat16).save_pretrained(target / "transformer")
    denoiser.text_encoder.glossary = glossary()
    denoiser.text_encoder.to(torch.bfloat16).save_pretrained(target / "text_encoder")
    autoencoder.to(torch.bfloat16).save_pretrained(target / "autoencoder")
    for config in target.glob("*/config.json"):  # diffusers notes the folder a model came from
        kept = {key: value for key, value in json.loads(config.read_text()).items() if key != "_name_or_path"}
        config.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    card = make_card(out, denoiser, autoencoder)
    (target / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    (target / "README.md").write_text(readme(card, len(denoiser.text_encoder.words) - 2), encoding="utf-8")
    return card


def newest(out: Path) -> str:
    """The last run of the transformer there is in `out`: "blend", "distil", or "dit" before it is distilled."""
    last = "distil" if (out / "distil.pt").exists() else "dit"
    blended, made = out / "blend.pt", out / f"{last}.pt"
    fresh = blended.exists() and (not made.exists() or blended.stat().st_mtime >= made.stat().st_mtime)
    return "blend" if fresh else last  # a blend of weights that went on since is nobody's


def make_card(out: Path, denoiser: Denoiser, autoencoder: AutoencoderTAEHV) -> dict[str, Any]:
    """What code and people may know of the model, from the run's own files."""
    names = ("autoencoder", "cooldown", "dit", "distil", "decoder")
    curves = {name: _curve(out / f"{name}.jsonl") for name in names}
    drawn = curves["decoder"] or curves["cooldown"] or curves["autoencoder"]
    held_out = _newest(drawn, "held_out_psnr")
    encoded = dict(_length(curves["autoencoder"]))  # nothing where the run was given its autoencoder
    tokens = math.prod(world.SIZE // autoencoder.spatial_scale // denoiser.patch for _ in range(2))
    few = (out / "distil.pt").exists()
    saved = load_checkpoint(out / "dit.pt") or {}
    blended = (load_checkpoint(out / "blend.pt") or {}) if newest(out) == "blend" else {}
    parts = {
        "transformer": denoiser.transformer,
        "autoencoder": autoencoder,
        "text_encoder": denoiser.text_encoder,
    }
    return {
        "name": "embedded",
        "version": VERSION,
        "licence": "Apache-2.0",
        "plans": list(PLANS),
        "chunk": [1, 3],
        "window": WINDOW,
        "sink": SINK,
        "sizes": [[world.SIZE, world.SIZE]],
        "fps": world.FPS,
        "transition": TRANSITION,
        "steps": STEPS if few else 2 * STEPS,
        "guidance_scale": 1.0 if few else GUIDANCE,
        "shift": SHIFT,
        "text_len": TRANSFORMER["text_len"],
        "latent_frame": [autoencoder.config["latent_channels"], *[world.SIZE // autoencoder.spatial_scale] * 2],
        "tokens": tokens,
        "latents_mean": autoencoder.config["latents_mean"],
        "latents_std": autoencoder.config["latents_std"],
        "drift_spreads": drift_spreads(),
        "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
        "training": {
            "seed": 0,
            "dropped_prompts": USUAL.dropped,
            "autoencoder_steps": encoded.get("steps"),
            "autoencoder_minutes": encoded.get("minutes"),
            "autoencoder_held_out_edges": _newest(drawn, "held_out_edges"),
            "autoencoder_held_out_psnr_db": None if held_out is None else round(held_out, 2),
            **{kind: _newest(curves["dit"], kind) for kind in ("films", "beginnings", "pictures", "turns")},
            "transformer_steps": saved.get("step"),
            "transformer_minutes": round(saved.get("seconds", 0.0) / 60, 1),
            "transformer_loss": _last_mean(curves["dit"], "loss", 20),
            **{
                f"{name}_{kind}": value
                for name in ("cooldown", "distil", "decoder")
                for kind, value in _length(curves[name])
            },
            **{f"blend_{key}": blended[key] for key in ("share", "before") if key in blended},
            "remarks": _remarks(out / "remarks.txt"),
            "machine": f"{platform.machine()}, {os.cpu_count()} processors, torch {torch.__version__}",
        },
    }


def drift_spreads(clips: int = 64) -> list[float]:
    """Usual spread of each picture statistic over the film of one clip, for drift's z-scores.

    Two seconds against two others of the same true film: what moves between them is life, not drift.
    """
    rng = step_seed(2**31, 1, "drift")
    differences = []
    for _ in range(clips):
        film = world.render([world.sample_spec(rng)], 4 * 2 * world.FPS)[0]
        early, late = (_mean_statistics(film[start : start + 2 * world.FPS]) for start in (0, 6 * world.FPS))
        scalars = early[:4] - late[:4]
        a, b = early[4:], late[4:]
        turn = 1.0 - float(a @ b) / max(1e-9, float(np.linalg.norm(a) * np.linalg.norm(b)))
        differences.append([*scalars, turn])
    spreads = np.sqrt(np.square(np.array(differences)).mean(axis=0))
    assert len(spreads) == len(NAMES)
    return [round(float(value), 8) for value in spreads]


def _mean_statistics(film: Tensor) -> np.ndarray:
    pixels = (film.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    return np.mean(np.stack(statistics(pixels[::4])), axis=0)


def _remarks(path: Path) -> list[str]:
    """What a person wrote beside the run, where it left the recipe; it goes into both cards."""
    return path.read_text("utf-8").splitlines() if path.exists() else []


def _curve(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def _length(curve: list[dict[str, Any]]) -> list[tuple[str, float]]:
    """Steps and minutes of a run, nothing of a run that was not made."""
    seconds = [line["seconds"] for line in curve if "seconds" in line]
    steps = [line["step"] for line in curve if "step" in line]
    if not steps:
        return []
    return [("steps", steps[-1]), ("minutes", round(seconds[-1] / 60, 1))]


def _newest(curve: list[dict[str, Any]], name: str) -> Any:
    """A figure as the newest line that has it says it."""
    return next((line[name] for line in reversed(curve) if name in line), None)


def _last_mean(curve: list[dict[str, Any]], name: str, lines: int) -> float | None:
    values = [line[name] for line in curve if name in line][-lines:]
    return round(sum(values) / len(values), 4) if values else None
