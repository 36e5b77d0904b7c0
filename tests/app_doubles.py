"""Stand-ins for the tests of the edge: a stream that paints without a model, and a real model of a few kilobytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from app.config.lengths import Rhythm
from app.loading.engine_request import EngineRequest
from app.loading.model import Opened
from pipelines.types import Chunk, Controls, pixel_range, prompt_text

HEIGHT, WIDTH, CHUNK = 16, 24, 3


class PaintedStream:
    """Paints a moving edge in a colour that depends on prompt and seed; `before` is called with each chunk's number."""

    def __init__(self, seed: int = 0, before: Callable[[int], None] = lambda index: None) -> None:
        self.seed = seed
        self.before = before
        self.asked: list[Controls] = []
        self.done = 0

    def save(self, path: Path) -> str:
        """Write how many chunks there were and the seed; all the state of a painted stream."""
        path.write_text(f"{self.done} {self.seed}")
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def restore(self, path: Path, sha256: str) -> None:
        """Go on behind that many chunks."""
        if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            raise ValueError(f"{path} is damaged: render without it")
        self.done = int(path.read_text().split()[0])

    def next_chunk(self, controls: Controls, *, decode: bool = True) -> Chunk:
        index = self.done
        self.before(index)
        self.asked.append(controls)
        self.done += 1
        latents = range(index * CHUNK, (index + 1) * CHUNK)
        frames = range(pixel_range(latents[0]).start, pixel_range(latents[-1]).stop)
        pixels = np.zeros((len(frames), HEIGHT, WIDTH, 3), np.uint8)
        digest = hashlib.sha256(f"{self.seed} {controls.prompt}".encode()).digest()
        for number, frame in enumerate(frames):
            pixels[number, :, : frame % WIDTH] = tuple(digest[:3])
        return Chunk(
            index=index,
            epoch=0,
            latent=latents,
            pixel=frames,
            prompt=prompt_text(controls.prompt),
            pixels=pixels if decode else None,
            sha256=hashlib.sha256(pixels.tobytes()).hexdigest(),
            seconds={
                "conditioning": 0.0,
                "plan": 0.0,
                "denoise": 0.002,
                "remember": 0.001,
                "decode": 0.001,
                "model": 0.002,
            },
        )


class Opener:
    """Opens a PaintedStream in the engine's place and remembers it."""

    def __init__(self, before: Callable[[int], None] = lambda index: None) -> None:
        self.before = before
        self.streams: list[PaintedStream] = []

    def __call__(self, request: EngineRequest, seed: int) -> Opened:
        self.streams.append(PaintedStream(seed, self.before))
        return Opened(
            stream=self.streams[-1],
            rhythm=Rhythm(CHUNK, CHUNK),
            fps=16,
            model="embedded",
            checksum="0" * 64,
            device="cpu",
            threads=1,
            read_prompt=_unknown,
            memory=lambda: 2**29,
            save=self.streams[-1].save,
            restore=self.streams[-1].restore,
        )


def _unknown(prompt: str) -> Mapping[str, tuple[str, ...]]:
    return {"bal": ("ball",)} if "bal " in prompt else {}


def save_tiny_model(folder: Path, *, text_len: int = 16) -> Path:
    """Write a real model with random weights, laid out like weights/embedded, and return its folder."""
    import torch

    from models.taehv import AutoencoderTAEHV
    from models.text import TextEncoder
    from models.wan import CausalWanTransformer3DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        transformer = CausalWanTransformer3DModel(
            patch_size=(1, 1, 1),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=16,
            freq_dim=16,
            ffn_dim=32,
            num_layers=2,
            text_len=text_len,
        )
        autoencoder = AutoencoderTAEHV(
            latent_channels=4,
            patch_size=2,
            encoder_widths=(8, 8, 8, 8),
            decoder_widths=(8, 8, 8, 8),
            encoder_blocks=(1, 1, 1),
            decoder_blocks=(1, 1, 1),
        )
        words = [
            "a",
            "red",
            "blue",
            "ball",
            "star",
            "over",
            "the",
            "sea",
            "snow",
            "bounces",
            "drifts",
            "to",
            "right",
            "at",
            "sunset",
        ]
        text_encoder = TextEncoder.from_words(words, text_len=text_len, text_dim=16, num_layers=1, num_heads=2)
    transformer.save_pretrained(folder / "transformer")
    autoencoder.save_pretrained(folder / "autoencoder")
    text_encoder.save_pretrained(folder / "text_encoder")
    card = {"name": "tiny", "sizes": [[32, 32], [32, 48]], "plans": ["serial-clean"]}
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    return folder
