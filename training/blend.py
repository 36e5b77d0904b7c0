"""Blends a run's weights with those that it went on from: most of what it learned stays, and what it forgot comes back.

After Wortsman et al. 2022 (arXiv 2109.01903): between weights before and after a fine-tuning there is no ridge, and a
point between them is often better at both tasks than the two ends are at one.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from models.text import TextEncoder
from models.wan import CausalWanTransformer3DModel
from training.dit import load_denoiser
from training.run import save_checkpoint


@torch.no_grad()
def blend(out: Path, before: Path, share: float) -> None:
    """Write out/blend.pt: `share` of the last run in `out`, the rest of the model in the folder `before`.

    Both as they ship, in bf16: those are the weights that were measured.

    Args:
        out: folder of the run, distilled or not yet.
        before: a shipped model's folder, with the same words.
        share: 0..1 of the run's weights.

    Raises:
        ValueError: a share outside 0..1, or other words or latents than the run's.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"A share of {share} is no blend; say one from 0 to 1.")
    name = "distil" if (out / "distil.pt").exists() else "dit"
    model = load_denoiser(out, name)
    old = TextEncoder.from_pretrained(before / "text_encoder")
    if old.words != model.text_encoder.words:
        raise ValueError(f"{before} knows other words than the run in {out}; only models of the same words can blend.")
    transformer = CausalWanTransformer3DModel.from_pretrained(before / "transformer")
    if transformer.patch_embedding.weight.shape != model.transformer.patch_embedding.weight.shape:
        raise ValueError(
            f"{before} reads other latents than the run in {out}; only models behind one autoencoder can blend."
        )
    for part, other in ((model.transformer, transformer), (model.text_encoder, old)):
        values = dict(other.named_parameters())
        for key, value in part.named_parameters():
            value.copy_(torch.lerp(values[key].float(), value.bfloat16().float(), share))
    version = json.loads((before / "card.json").read_text(encoding="utf-8"))["version"]
    save_checkpoint(out / "blend.pt", {"ema": model.state_dict(), "share": share, "before": version})
