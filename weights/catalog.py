"""The models Rivulet knows by name: where their weights are, names inside, licences.

Facts as literal data and nothing else: no torch, no network, so that the command line can list them at once.
A *model* is weights and a config; which policies stream it is a preset's business (`pipelines/presets`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

Kind = Literal["transformer", "autoencoder", "text_encoder", "tokenizer", "lora"]
Where = Literal["package", "hub", "local"]


@dataclass(frozen=True, slots=True)
class WeightSpec:
    """One set of weights: `file` inside the hub repository `repo`, inside our package, or on this disk.

    `file` is one file, or a component's folder (config.json and safetensors). `key` lists the entries of a
    nested .pt to look for, in that order; empty = flat. `licence_tick` = a person has to accept the licence
    before a download starts. `bare` = shards without a config.json of diffusers beside them.
    """

    name: str
    kind: Kind
    file: str
    licence: str
    where: Where = "hub"
    repo: str = ""
    key: tuple[str, ...] = ()
    sha256: str | None = None
    licence_tick: bool = False
    bare: bool = False

    @property
    def page(self) -> str:
        """Where a person can read about them."""
        return f"https://huggingface.co/{self.repo}" if self.where == "hub" else self.file


RELEASED_SIZE, RELEASED_FPS = (480, 832), 16
"""Height, width and frame rate of most released models, which bring no card (Wan team 2025, arXiv 2503.20314)."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model: its weights, and the transformer's config where the weights bring none of their own.

    `size` (height and width) and `fps` are what a released model, which brings no card, was trained at.
    """

    name: str
    about: str
    transformer: WeightSpec
    autoencoder: WeightSpec
    text_encoder: WeightSpec
    tokenizer: WeightSpec | None = None  # the embedded text encoder brings its vocabulary itself
    lora: WeightSpec | None = None
    lora_alpha: float | None = None
    config: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    size: tuple[int, int] = RELEASED_SIZE
    fps: int = RELEASED_FPS

    @property
    def weights(self) -> tuple[WeightSpec, ...]:
        """All of its weights, for listing and fetching."""
        parts = (self.transformer, self.lora, self.autoencoder, self.text_encoder, self.tokenizer)
        return tuple(part for part in parts if part is not None)


WAN_1_3B: Mapping[str, Any] = MappingProxyType(
    {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 12,
        "attention_head_dim": 128,
        "in_channels": 16,
        "out_channels": 16,
        "text_dim": 4096,
        "freq_dim": 256,
        "ffn_dim": 8960,
        "num_layers": 30,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "eps": 1e-6,
    }
)
"""Wan2.1-T2V-1.3B (config.json of its repository): 1,418,996,800 parameters in 825 tensors."""

WAN_5B: Mapping[str, Any] = MappingProxyType(
    {**WAN_1_3B, "num_attention_heads": 24, "in_channels": 48, "out_channels": 48, "ffn_dim": 14336}
)
"""Wan2.2-TI2V-5B (config.json of its repository), whose autoencoder makes latents of a 16th of the picture's side."""

WAN_14B: Mapping[str, Any] = MappingProxyType(
    {**WAN_1_3B, "num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}
)
"""Wan2.1-T2V-14B (config.json of its repository), and each half of Wan2.2-T2V-A14B."""

_WAN_REPO = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
_WAN_LICENCE = "Apache-2.0"
_WAN_AUTOENCODER = WeightSpec("wan-2.1-vae", "autoencoder", "vae", _WAN_LICENCE, repo=_WAN_REPO)
_WAN_TEXT = WeightSpec("umt5-xxl", "text_encoder", "text_encoder", _WAN_LICENCE, repo=_WAN_REPO)
_WAN_TOKENIZER = WeightSpec("umt5-xxl-tokenizer", "tokenizer", "tokenizer", _WAN_LICENCE, repo=_WAN_REPO)

_WAN_22_REPO = "Wan-AI/Wan2.2-TI2V-5B-Diffusers"
_WAN_22_AUTOENCODER = WeightSpec("wan-2.2-vae", "autoencoder", "vae", _WAN_LICENCE, repo=_WAN_22_REPO)
_WAN_14B_REPO = "Wan-AI/Wan2.1-T2V-14B-Diffusers"

_TINY_LICENCE = "MIT"
TINY: Mapping[int, WeightSpec] = MappingProxyType(
    {
        16: WeightSpec("taew2_1", "autoencoder", "taew2_1.pth", _TINY_LICENCE, repo="lightx2v/Autoencoders"),
        48: WeightSpec("taew2_2", "autoencoder", "taew2_2.pth", _TINY_LICENCE, repo="lightx2v/Autoencoders"),
    }
)
"""The tiny autoencoders by the channels of their latents (madebyollin/taehv, MIT, which is on GitHub alone).

The repository named here carries both under these names: its card says Apache-2.0, and a mirror of it lists its files
(huggingface.co/daydreamlive/Autoencoders, seen in November 2026). Their bytes have not been held against the originals.
"""

_EMBEDDED_LICENCE = "Apache-2.0"  # trained by this repository's own recipe on its own painted world


def _folder(root: Path, where: Where, licence: str) -> tuple[WeightSpec, WeightSpec, WeightSpec]:
    kinds: tuple[Kind, Kind, Kind] = ("transformer", "autoencoder", "text_encoder")
    return tuple(WeightSpec(kind, kind, str(root / kind), licence, where) for kind in kinds)  # pyright: ignore[reportReturnType]


MODELS: dict[str, ModelSpec] = {
    "embedded": ModelSpec(
        "embedded",
        "ships with Rivulet: a small painted world of shapes, in real time on a laptop CPU",
        *_folder(Path(__file__).parent / "embedded", "package", _EMBEDDED_LICENCE),
    ),
    "wan-1.3b": ModelSpec(
        "wan-1.3b",
        "Wan2.1-T2V-1.3B, bidirectional: the base that the causal models below were distilled from",
        WeightSpec("wan-1.3b", "transformer", "transformer", _WAN_LICENCE, repo=_WAN_REPO),
        _WAN_AUTOENCODER,
        _WAN_TEXT,
        _WAN_TOKENIZER,
        config=WAN_1_3B,
    ),
    "wan-14b": ModelSpec(
        "wan-14b",
        "Wan2.1-T2V-14B, bidirectional: ten times as large as the others",
        WeightSpec("wan-14b", "transformer", "transformer", _WAN_LICENCE, repo=_WAN_14B_REPO),
        _WAN_AUTOENCODER,
        _WAN_TEXT,
        _WAN_TOKENIZER,
        config=WAN_14B,
    ),
    "wan-2.2-5b": ModelSpec(
        "wan-2.2-5b",
        "Wan2.2-TI2V-5B, bidirectional: the base of longlive-2-5b",
        WeightSpec("wan-2.2-5b", "transformer", "transformer", _WAN_LICENCE, repo=_WAN_22_REPO),
        _WAN_22_AUTOENCODER,
        _WAN_TEXT,
        _WAN_TOKENIZER,
        config=WAN_5B,
        size=(704, 1280),
        fps=24,
    ),
    "self-forcing-1.3b": ModelSpec(
        "self-forcing-1.3b",
        "Self-Forcing (Huang et al. 2025), DMD weights: four steps, chunks of three latent frames",
        WeightSpec(
            "self-forcing-dmd",
            "transformer",
            "checkpoints/self_forcing_dmd.pt",
            "code Apache-2.0; no licence text for the weights verified",
            repo="gdhe17/Self-Forcing",
            key=("generator_ema",),
            licence_tick=True,
        ),
        _WAN_AUTOENCODER,
        _WAN_TEXT,
        _WAN_TOKENIZER,
        config=WAN_1_3B,
    ),
    "longlive-1.3b": ModelSpec(
        "longlive-1.3b",
        "LongLive (Yang et al. 2025): trained for long films, a frame sink and prompt switches",
        WeightSpec(
            "longlive-base",
            "transformer",
            "models/longlive_base.pt",
            "code Apache-2.0 since November 2025; no licence text for the weights verified",
            repo="Efficient-Large-Model/LongLive-1.3B",
            key=("generator", "generator_ema", "model"),
            licence_tick=True,
        ),
        _WAN_AUTOENCODER,
        _WAN_TEXT,
        _WAN_TOKENIZER,
        lora=WeightSpec(
            "longlive-lora",
            "lora",
            "models/lora.pt",
            "code Apache-2.0 since November 2025; no licence text for the weights verified",
            repo="Efficient-Large-Model/LongLive-1.3B",
            licence_tick=True,
        ),
        lora_alpha=256.0,  # r = alpha = 256 on every Linear of the blocks
        config=WAN_1_3B,
    ),
    "longlive-2-5b": ModelSpec(
        "longlive-2-5b",
        "LongLive 2 (NVIDIA 2026): films of several shots in 704x1280 at 24 frames a second, four steps",
        WeightSpec(
            "longlive-2",
            "transformer",
            "model_bf16.pt",
            "code Apache-2.0; no licence text for the weights verified",
            repo="Efficient-Large-Model/LongLive-2.0-5B",
            key=("generator", "generator_ema", "model"),
            licence_tick=True,
        ),
        _WAN_22_AUTOENCODER,
        _WAN_TEXT,
        _WAN_TOKENIZER,
        config=WAN_5B,
        size=(704, 1280),
        fps=24,
    ),
    "anchor-forcing-1.3b": ModelSpec(
        "anchor-forcing-1.3b",
        "Anchor Forcing (Yang et al. 2026): for prompt switches in long films, positions within 21 frames",
        WeightSpec(
            "anchor-forcing-base",
            "transformer",
            "base.pt",
            "non-commercial (CC BY-NC-SA 4.0 by the code's README, no licence file)",
            repo="young98/AnchorForcing",
            key=("generator", "generator_ema", "model"),
            licence_tick=True,
        ),
        _WAN_AUTOENCODER,
        _WAN_TEXT,
        _WAN_TOKENIZER,
        lora=WeightSpec(
            "anchor-forcing-lora",
            "lora",
            "final.pt",
            "non-commercial (CC BY-NC-SA 4.0 by the code's README, no licence file)",
            repo="young98/AnchorForcing",
            licence_tick=True,
        ),
        lora_alpha=256.0,  # as LongLive's
        config=WAN_1_3B,
    ),
    "rolling-forcing-1.3b": ModelSpec(
        "rolling-forcing-1.3b",
        "Rolling Forcing (Liu et al. 2025): trained to denoise five chunks at rising noise together; academic use only",
        WeightSpec(
            "rolling-forcing-dmd",
            "transformer",
            "checkpoints/rolling_forcing_dmd.pt",
            "academic use only, commercial and production use excluded (Tencent's own licence, for code and weights)",
            repo="TencentARC/RollingForcing",
            key=("generator_ema",),
            licence_tick=True,
        ),
        _WAN_AUTOENCODER,
        _WAN_TEXT,
        _WAN_TOKENIZER,
        config=WAN_1_3B,
    ),
    "streamdiffusion-v2-1.3b": ModelSpec(
        "streamdiffusion-v2-1.3b",
        "StreamDiffusionV2 (Feng et al. 2025): tuned for video to video, one latent frame a chunk, no clean memory",
        WeightSpec(
            "streamdiffusion-v2",
            "transformer",
            "wan_causal_dmd_v2v/model.pt",
            "Apache-2.0",
            repo="jerryfeng/StreamDiffusionV2",
            key=("generator",),
        ),
        _WAN_AUTOENCODER,
        _WAN_TEXT,
        _WAN_TOKENIZER,
        config=WAN_1_3B,
    ),
}
