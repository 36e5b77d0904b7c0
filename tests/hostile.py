"""Model folders that somebody spoilt: one small sound folder, and a hundred ways to damage a copy of it.

Each entry of SPOILS takes the folder and leaves one fault in it; tests/weights/test_hostile_models.py asks what the
command line says to each.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Spoil = Callable[[Path], object]

WEIGHTS = "diffusion_pytorch_model.safetensors"
PARTS = ("transformer", "autoencoder", "text_encoder")


def save_sound(root: Path) -> None:
    """A tiny model that films: what every damage begins with."""
    from models.text import TextEncoder
    from models.wan import CausalWanTransformer3DModel
    from tests.tiny import tiny_autoencoder, widen

    transformer = CausalWanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        text_len=8,
    )
    widen(transformer, 0)
    transformer.save_pretrained(root / "transformer")
    statistics = {"latents_mean": [0.0, 0.1, 0.0, 0.0], "latents_std": [1.0, 0.9, 1.1, 1.0]}
    tiny_autoencoder(**statistics).save_pretrained(root / "autoencoder")
    TextEncoder.from_words(["a", "red", "fox"], text_len=8, text_dim=16).save_pretrained(root / "text_encoder")
    card = {
        "name": "small",
        "sizes": [[32, 48]],
        "plans": ["serial-clean"],
        "fps": 16,
        "drift_spreads": [0.1, 0.1, 0.1, 0.1, 0.1],
        **statistics,
    }
    (root / "card.json").write_text(json.dumps(card))


def _tensors(part: str, change: Callable[[dict[str, Tensor]], object], file: str = WEIGHTS) -> Spoil:
    def spoil(root: Path) -> None:
        tensors = {key: value.clone() for key, value in load_file(root / part / file).items()}
        change(tensors)
        save_file(tensors, str(root / part / file), metadata={"format": "pt"})

    return spoil


def _poison(
    part: str, value: float, dtype: torch.dtype = torch.float32, *, every: bool = False, file: str = WEIGHTS
) -> Spoil:
    def change(tensors: dict[str, Tensor]) -> None:
        for name in sorted(tensors) if every else sorted(tensors)[-1:]:
            tensors[name] = tensors[name].to(dtype)
            flat = tensors[name].view(-1)
            bad = torch.full_like(flat.double(), value).to(dtype)
            flat[-1:] = bad[-1:]
            if every:
                flat[:] = bad

    return _tensors(part, change, file)


def _json(file: str, **changes: Any) -> Spoil:
    """Set entries; `...` takes one out."""

    def spoil(root: Path) -> None:
        content = json.loads((root / file).read_text())
        content.update(changes)
        content = {key: value for key, value in content.items() if value is not ...}
        (root / file).write_text(json.dumps(content))

    return spoil


def _bytes(file: str, data: bytes) -> Spoil:
    return lambda root: (root / file).write_bytes(data)


def _pipe(file: str) -> Spoil:
    def spoil(root: Path) -> None:
        (root / file).unlink()
        os.mkfifo(root / file)

    return spoil


def _link(file: str, target: str) -> Spoil:
    def spoil(root: Path) -> None:
        (root / file).unlink()
        (root / file).symlink_to(target)

    return spoil


def _folder(file: str) -> Spoil:
    def spoil(root: Path) -> None:
        (root / file).unlink()
        (root / file).mkdir()

    return spoil


def _socket(file: str) -> Spoil:
    def spoil(root: Path) -> None:
        (root / file).unlink()
        here = Path.cwd()
        os.chdir((root / file).parent)  # a socket's name is short
        try:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind((root / file).name)
        finally:
            os.chdir(here)

    return spoil


def _head(part: str, header: bytes, length: int | None = None) -> Spoil:
    return _bytes(f"{part}/{WEIGHTS}", struct.pack("<Q", len(header) if length is None else length) + header)


def _claims(part: str, shape: list[int], size: int) -> Spoil:
    """A sparse file whose header holds one enormous tensor."""

    def spoil(root: Path) -> None:
        header = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}).encode()
        with (root / part / WEIGHTS).open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + size)

    return spoil


def _renamed(part: str, rename: Callable[[str], str], extra: dict[str, Tensor] | None = None) -> Spoil:
    def change(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            tensors[rename(name)] = tensors.pop(name)
        tensors.update({name: value.clone() for name, value in (extra or {}).items()})

    return _tensors(part, change)


def _instead(part: str, name: str, data: bytes) -> Spoil:
    def spoil(root: Path) -> None:
        (root / part / WEIGHTS).unlink()
        (root / part / name).write_bytes(data)

    return spoil


T, A, X = (f"{part}/config.json" for part in PARTS)
W = "text_encoder/vocabulary.json"
C = "card.json"
_HUGE = 10**9
_DEEP = b"[" * 100_000 + b"]" * 100_000
_ONE = torch.ones(1)

SPOILS: dict[str, Spoil] = {
    # numbers that are none
    **{
        f"{part} {value} {str(dtype).removeprefix('torch.')}": _poison(part, value, dtype)
        for part, value, dtype in (
            ("transformer", float("nan"), torch.float32),
            ("transformer", float("inf"), torch.float32),
            ("transformer", float("-inf"), torch.float64),
            ("transformer", 1e300, torch.float64),
            ("transformer", -1e38, torch.float32),
            ("transformer", float("nan"), torch.bfloat16),
            ("transformer", float("inf"), torch.float16),
            ("transformer", float("nan"), torch.float8_e4m3fn),
            ("transformer", float("inf"), torch.float8_e5m2),
            ("autoencoder", float("nan"), torch.float32),
            ("autoencoder", float("inf"), torch.bfloat16),
            ("text_encoder", float("nan"), torch.float32),
            ("text_encoder", float("-inf"), torch.float16),
        )
    },
    **{f"all of {part} NaN": _poison(part, float("nan"), every=True) for part in PARTS},
    # fields that no shape shows
    "eps NaN literal": lambda root: (root / T).write_text((root / T).read_text().replace("1e-06", "NaN")),
    "eps Infinity": lambda root: (root / T).write_text((root / T).read_text().replace("1e-06", "Infinity")),
    "eps overflows": lambda root: (root / T).write_text((root / T).read_text().replace("1e-06", "1e999")),
    **{f"eps {value!r}": _json(T, eps=value) for value in (0, 0.0, -1e-6, 1e-300, 1e10, "nan", None, [], True)},
    "autoencoder latents_std zero": _json(A, latents_std=[0.0, 1.0, 1.0, 1.0]),
    "autoencoder latents_std negative": _json(A, latents_std=[1.0, -1.0, 1.0, 1.0]),
    "autoencoder latents_std tiny": _json(A, latents_std=[1e-300] * 4),
    "autoencoder latents_std short": _json(A, latents_std=[1.0]),
    "autoencoder latents_std gone": _json(A, latents_std=...),
    "autoencoder latents_mean huge": _json(A, latents_mean=[1e38] * 4),
    "autoencoder latents_mean texts": _json(A, latents_mean=["0"] * 4),
    "autoencoder latents_mean changed": _json(A, latents_mean=[0.5] * 4),
    "card latents_std zero": _json(C, latents_std=[0, 0, 0, 0]),
    "card spreads zero": _json(C, drift_spreads=[0, 0, 0, 0, 0]),
    "card spreads negative": _json(C, drift_spreads=[0.1, 0.1, -0.1, 0.1, 0.1]),
    "card spreads short": _json(C, drift_spreads=[0.1]),
    "card spreads text": _json(C, drift_spreads="0.1"),
    # sizes that would grow memory, or take for ever
    **{
        f"{file.split('/')[0]} {field} {str(value)[:28]}": _json(file, **{field: value})
        for file, field, value in (
            (T, "num_layers", _HUGE),
            (T, "num_layers", 500),
            (T, "num_layers", 1e9),
            (T, "num_layers", 10**30),
            (T, "num_layers", 0),
            (T, "num_layers", -1),
            (T, "num_layers", 2.0),
            (T, "num_layers", "2"),
            (T, "num_layers", None),
            (T, "num_layers", [2]),
            (T, "ffn_dim", _HUGE),
            (T, "ffn_dim", 2**20),
            (T, "num_attention_heads", _HUGE),
            (T, "num_attention_heads", 1000),
            (T, "attention_head_dim", _HUGE),
            (T, "attention_head_dim", 3),
            (T, "in_channels", _HUGE),
            (T, "out_channels", 2**20),
            (T, "text_dim", _HUGE),
            (T, "text_len", _HUGE),
            (T, "text_len", 4),
            (T, "freq_dim", _HUGE),
            (T, "freq_dim", 15),
            (T, "patch_size", [1, _HUGE, 2]),
            (T, "patch_size", [1, 2]),
            (T, "patch_size", [1, 0, 2]),
            (T, "patch_size", 2),
            (T, "rope_max_seq_len", _HUGE),
            (T, "image_dim", _HUGE),
            (T, "added_kv_proj_dim", 16),
            (T, "pos_embed_seq_len", _HUGE),
            (T, "cross_attn_norm", "yes"),
            (T, "cross_attn_norm", False),
            (T, "qk_norm", "other"),
            (T, "_class_name", "MochiTransformer3DModel"),
            (T, "_class_name", 7),
            (T, "_class_name", None),
            (T, "strange", 1),
            (T, "quantization_config", {"quant_method": "bitsandbytes"}),
            (A, "decoder_blocks", [_HUGE, 1, 1]),
            (A, "encoder_blocks", [1, _HUGE, 1]),
            (A, "encoder_blocks", []),
            (A, "decoder_widths", [_HUGE, 8, 6, 6]),
            (A, "encoder_widths", {"0": 6}),
            (A, "patch_size", _HUGE),
            (A, "encoder_patch_size", 3),
            (A, "latent_channels", _HUGE),
            (A, "time_downscale", [64, 64, 64]),
            (A, "time_upscale", [1, 1, 1]),
            (A, "upsample", "bicubic"),
            (X, "num_layers", _HUGE),
            (X, "vocabulary_size", _HUGE),
            (X, "vocabulary_size", 10**5),
            (X, "vocabulary_size", ...),
            (X, "text_len", _HUGE),
            (X, "text_dim", _HUGE),
            (X, "num_heads", 0),
            (X, "num_heads", 3),
        )
    },
    # cards
    **{
        f"card {field} {str(value)[:30]}": _json(C, **{field: value})
        for field, value in (
            ("name", ...),
            ("name", ["small"]),
            ("name", None),
            ("name", "small\nmodel"),
            ("name", ""),
            ("sizes", ...),
            ("sizes", []),
            ("sizes", [[32]]),
            ("sizes", [[32, 48, 3]]),
            ("sizes", "32x48"),
            ("sizes", [["32", "48"]]),
            ("sizes", [[32.0, 48.0]]),
            ("sizes", [[_HUGE, _HUGE]]),
            ("sizes", [[-32, 48]]),
            ("sizes", [[32, 10_000]]),
            ("sizes", {"height": 32}),
            ("plans", ...),
            ("plans", "serial-clean"),
            ("plans", [1]),
            ("plans", None),
            ("fps", 0),
            ("fps", -16),
            ("fps", "16"),
            ("fps", None),
            ("fps", 1e9),
            ("fps", [16]),
            ("chunk", 3),
            ("window", "12"),
        )
    },
    # what a JSON file may hold in place of an object
    **{
        f"{file} {what}": _bytes(file, data)
        for file in (T, A, C, W)
        for what, data in (
            ("empty", b""),
            ("null", b"null"),
            ("number", b"7"),
            ("text", b'"x"'),
            ("object in a list", b"[{}]"),
            ("deep", _DEEP),
            ("binary", bytes(range(256))),
            ("UTF-16", '{"a": 1}'.encode("utf-16")),
            ("byte-order mark", b"\xef\xbb\xbf{}"),
            ("cut off", b'{"name": "sm'),
            ("equal keys", b'{"name": "a", "name": "b"}'),
            ("number of a million digits", b'{"name": ' + b"9" * 10**6 + b"}"),
        )
    },
    "vocabulary empty list": _bytes(W, b"[]"),
    "vocabulary object": _bytes(W, b'{"<pad>": 0, "<unk>": 1}'),
    "vocabulary numbers": _bytes(W, b'["<pad>", "<unk>", 1, 2, 3]'),
    "vocabulary lists": _bytes(W, b'["<pad>", "<unk>", [], [], []]'),
    "vocabulary twice": _bytes(W, b'["<pad>", "<unk>", "a", "a", "red"]'),
    "vocabulary order": _bytes(W, b'["a", "<pad>", "<unk>", "fox", "red"]'),
    "vocabulary long": _bytes(W, json.dumps(["<pad>", "<unk>", *map(str, range(500))]).encode()),
    # what a path may be in place of a file
    **{
        f"{file} {what}": make(file)
        for file in (T, X, C, W, f"transformer/{WEIGHTS}", f"autoencoder/{WEIGHTS}")
        for what, make in (
            ("pipe", _pipe),
            ("folder", _folder),
            ("socket", _socket),
            ("endless device", lambda file: _link(file, "/dev/zero")),
            ("link to nowhere", lambda file: _link(file, "gone")),
            ("link to itself", lambda file: _link(file, Path(file).name)),
        )
    },
    # weights
    "weights empty": _bytes(f"transformer/{WEIGHTS}", b""),
    "weights cut off": lambda root: os.truncate(
        root / "transformer" / WEIGHTS, (root / "transformer" / WEIGHTS).stat().st_size - 100
    ),
    "weights header too long": _head("transformer", b"{}", 10**15),
    "weights header negative": _head("transformer", b"{}", 2**64 - 1),
    "weights header no JSON": _head("transformer", b"\xff" * 64),
    "weights header list": _head("transformer", b"[]"),
    "weights header deep": _head("transformer", _DEEP),
    "weights header of a strange type": _head(
        "transformer", b'{"a": {"dtype": "F99", "shape": [0], "data_offsets": [0, 0]}}'
    ),
    "weights header negative shape": _head(
        "transformer", b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]}}'
    ),
    "weights header past the end": _head(
        "transformer", b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}'
    ),
    "weights header of four bits": _head(
        "transformer", b'{"a": {"dtype": "F4", "shape": [0], "data_offsets": [0, 0]}}'
    ),
    "weights of a tebibyte": _claims("transformer", [2**38], 2**40),
    "weights lack one": _tensors("transformer", lambda tensors: tensors.pop("proj_out.bias")),
    "weights have a stranger": _tensors("transformer", lambda tensors: tensors.update(extra=_ONE)),
    "weights with line breaks in a name": _tensors("transformer", lambda tensors: tensors.update({"a\nb" * 999: _ONE})),
    "weights of another shape": _tensors("transformer", lambda tensors: tensors.update({"proj_out.bias": _ONE})),
    "weights as integers": _tensors(
        "transformer", lambda tensors: tensors.update({"proj_out.bias": tensors["proj_out.bias"].int()})
    ),
    "weights twice": lambda root: (root / "transformer" / "b.safetensors").write_bytes(b""),
    "weights index deep": _bytes("transformer/m.safetensors.index.json", _DEEP),
    "weights index list": _bytes("transformer/m.safetensors.index.json", b'{"weight_map": []}'),
    "weights index of folders": _bytes("transformer/m.safetensors.index.json", b'{"weight_map": {"a": ".."}}'),
    "weights index of nothing": _bytes("transformer/m.safetensors.index.json", b'{"weight_map": {"a": "no"}}'),
    "no transformer": lambda root: (root / T).unlink(),
    # forms of other programs
    "ComfyUI pipeline": _renamed("transformer", str, {"first_stage_model.encoder.conv1.weight": _ONE}),
    "scaled fp8 without its weight": _renamed("transformer", str, {"blocks.9.ffn.net.2.scale_weight": _ONE}),
    "GGUF": _bytes(f"transformer/{WEIGHTS}", b"GGUF" + bytes(100)),
    "GGUF beside": _instead("transformer", "model-Q4_0.gguf", b"GGUF" + bytes(100)),
    "pickle beside": _instead("transformer", "diffusion_pytorch_model.bin", b"PK\x03\x04"),
    "Git LFS pointer": _bytes(f"transformer/{WEIGHTS}", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "web page": _bytes(f"transformer/{WEIGHTS}", b"<!DOCTYPE html><html>Access denied</html>"),
    "nunchaku": _renamed(
        "transformer", str, {"blocks.0.attn1.to_q.qweight": _ONE, "blocks.0.attn1.to_q.wscales": _ONE}
    ),
    "quantised by its header": lambda root: save_file(
        load_file(root / "transformer" / WEIGHTS),
        str(root / "transformer" / WEIGHTS),
        metadata={"quantization_config": "{}"},
    ),
    "bitsandbytes": _renamed("transformer", str, {"blocks.0.attn1.to_q.weight.absmax": _ONE}),
    "GPTQ": _renamed("transformer", str, {"blocks.0.attn1.to_q.qweight": _ONE, "blocks.0.attn1.to_q.qzeros": _ONE}),
    "a LoRA": _renamed("transformer", lambda name: name.replace(".weight", ".lora_A.weight")),
}

V, U = "vae/config.json", "text_encoder/config.json"

RELEASED_SPOILS: dict[str, Spoil] = {
    **{
        f"{file.split('/')[0]} {field} {str(value)[:28]}": _json(file, **{field: value})
        for file, field, value in (
            (V, "z_dim", _HUGE),
            (V, "base_dim", "8"),
            (V, "dim_mult", [1, _HUGE]),
            (V, "num_res_blocks", _HUGE),
            (V, "temperal_downsample", [True]),
            (V, "temperal_downsample", [1, 1, 0]),
            (V, "latents_std", [0.0] * 4),
            (V, "latents_std", ...),
            (V, "latents_mean", None),
            (V, "_class_name", "AutoencoderKL"),
            (U, "num_layers", _HUGE),
            (U, "num_layers", 9),
            (U, "d_model", _HUGE),
            (U, "vocab_size", 10**6),
            (U, "layer_norm_epsilon", -1.0),
            (U, "feed_forward_proj", "nonsense"),
            (U, "model_type", "t5"),
            (U, "quantization_config", {"quant_method": "bitsandbytes"}),
            (U, "id2label", 7),
        )
    },
    **{f"{file} deep": _bytes(file, _DEEP) for file in (V, U, "tokenizer/tokenizer.json")},
    **{f"{file} pipe": _pipe(file) for file in (V, U, "tokenizer/tokenizer_config.json")},
    "a pipe that nobody asked for": lambda root: os.mkfifo(root / "tokenizer" / "special_tokens_map.json"),
    "vae NaN": _poison("vae", float("nan")),
    "text encoder NaN": _poison("text_encoder", float("nan"), file="model.safetensors"),
}
"""The same for a folder in the layout of the released Wan models."""
