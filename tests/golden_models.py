"""Replay of single forwards: the bidirectional and the training model, and the small autoencoder."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cache.rope import rotary_tables
from models.taehv import AutoencoderTAEHV
from models.wan import CausalWanTransformer3DModel
from tests.golden_trace import Ledger, NotSupportedError, Trace
from weights.load import load_file

TAEHV_ATOL = 1e-5


def transformer_config(model: dict[str, Any]) -> dict[str, Any]:
    """Our constructor's arguments for an original model config."""
    if model["model_type"] != "t2v":
        raise NotSupportedError(f"model type {model['model_type']}")
    return {
        "patch_size": tuple(model["patch_size"]),
        "num_attention_heads": model["num_heads"],
        "attention_head_dim": model["dim"] // model["num_heads"],
        "in_channels": model["in_dim"],
        "out_channels": model["out_dim"],
        "text_dim": model["text_dim"],
        "text_len": model["text_len"],
        "freq_dim": model["freq_dim"],
        "ffn_dim": model["ffn_dim"],
        "num_layers": model["num_layers"],
        "cross_attn_norm": model["cross_attn_norm"],
        "qk_norm": "rms_norm_across_heads" if model["qk_norm"] else None,
        "eps": model["eps"],
    }


def load_transformer(trace: Trace) -> CausalWanTransformer3DModel:
    """The trace's weights, wrapped as released checkpoints are, through the loader that reads those."""
    released = {f"model._fsdp_wrapped_module.{key}": value for key, value in trace.weights().items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "generator.pt"
        torch.save({"generator_ema": released}, path)
        config = transformer_config(trace.sidecar["model_config"])
        return load_file(CausalWanTransformer3DModel, path, config)


@torch.no_grad()
def replay_wan(trace: Trace, ledger: Ledger) -> None:
    """The bidirectional model: the causal class without memory and without mask."""
    model = load_transformer(trace)
    x, t = trace["in.x"], trace["in.t"]
    batch, _, frames, height, width = x.shape
    contexts = trace.numbered("in.context.")
    about = transformer_config(trace.sidecar["model_config"])
    prompt = x.new_zeros(batch, about["text_len"], about["text_dim"])
    for row, context in enumerate(contexts):
        prompt[row, : len(context)] = context
    seen = _listen(model)
    rotary = rotary_tables(range(frames), *model.grid(height, width), about["attention_head_dim"])
    flow = model(x, t[:, None].expand(-1, frames), model.text_keys(prompt), rotary)
    ledger.close("out.flow", flow)
    _intermediates(trace, ledger, seen, batch)


def _keep(seen: dict[str, Tensor], name: str) -> Callable[[nn.Module, object, Tensor], None]:
    def hook(_module: nn.Module, _args: object, out: Tensor) -> None:
        seen[name] = out

    return hook


def _listen(model: CausalWanTransformer3DModel) -> dict[str, Tensor]:
    """Outputs of the modules whose results the originals recorded, under the originals' names."""
    embedder = model.condition_embedder
    modules: dict[str, nn.Module] = {
        "patch_embedding": model.patch_embedding,
        "text_embedding": embedder.text_embedder,
        "time_embedding": embedder.time_embedder,
        "time_projection": embedder.time_proj,
        "head": model.proj_out,
    }
    for layer, block in enumerate(model.blocks):
        parts = {"": block, ".self_attn": block.attn1, ".cross_attn": block.attn2, ".ffn": block.ffn}
        modules |= {f"blocks.{layer}{part}": module for part, module in parts.items()}
    seen: dict[str, Tensor] = {}
    for name, module in modules.items():
        module.register_forward_hook(_keep(seen, name))
    return seen


def _intermediates(trace: Trace, ledger: Ledger, seen: dict[str, Tensor], batch: int) -> None:
    for key in [key for key in trace.tensors if key.startswith("mid.")]:
        name = key.removeprefix("mid.")
        if name.startswith("patch_embedding."):
            ledger.close(key, seen["patch_embedding"][int(name.rpartition(".")[2])][None])
        elif name in ("time_embedding", "time_projection"):
            # ours is computed per frame, and every frame of a sample has the same timestep
            for frame in seen[name].unbind(1):
                ledger.close(key, frame)
        elif name == "text_embedding":
            ledger.close(key, seen[name])
        elif name in seen:
            # rows past the sequence are padding of the original, cut off at the end of its forward
            ledger.close(key, seen[name], index=(slice(None), slice(0, seen[name].shape[1])))
            ledger.same(f"{key} batch", seen[name].shape[0], batch)


@torch.no_grad()
def replay_training(trace: Trace, ledger: Ledger) -> None:
    """The masked forward used in training, plain or with teacher forcing."""
    scenario = trace.sidecar["scenario"]
    if scenario.get("iff"):
        raise NotSupportedError("training with an independent first frame")
    if scenario["tf"] and scenario["local"] != -1:
        raise NotSupportedError("teacher forcing with a local window")
    model = load_transformer(trace)
    flow = model.forward_train(
        trace["in.x"].transpose(1, 2),
        trace["in.t"],
        trace["in.prompt.0"],
        chunk=scenario["block"],
        local=scenario["local"],
        clean=trace["in.clean_x"].transpose(1, 2) if scenario["tf"] else None,
        clean_timestep=trace["in.aug_t"] if scenario["tf"] else None,
    )
    ledger.close("out.flow", flow.transpose(1, 2))


def taehv_weights(keys: dict[str, list[int]]) -> dict[str, Tensor]:
    """The recorded model's weights, which the sidecar gives as a recipe: one random generator a key."""
    weights: dict[str, Tensor] = {}
    for key, shape in keys.items():
        generator = np.random.Generator(np.random.Philox(key=zlib.crc32(key.encode())))
        scale = 0.7 * np.sqrt(2 / np.prod(shape[1:])) if len(shape) == 4 else 0.05
        weights[key] = torch.from_numpy((generator.standard_normal(shape) * scale).astype(np.float32))
    return weights


@torch.no_grad()
def replay_taehv(trace: Trace, ledger: Ledger) -> None:
    """Whole clips, and the stream frame by frame and in uneven parts."""
    model = AutoencoderTAEHV(**trace.sidecar["constructor"])
    model.load_state_dict(taehv_weights(trace.sidecar["keys"]), strict=True)
    ledger.same("frames_to_trim", model.time_scale - 1, trace.sidecar["frames_to_trim"])
    ledger.close("out.latents", model.encode(trace["in.pixels"]), atol=TAEHV_ATOL)
    latents = trace["in.latents"]
    ledger.close("out.decoder_raw", model.decode_raw(latents), atol=TAEHV_ATOL)
    ledger.close("out.pixels", model.decode(latents), atol=TAEHV_ATOL)
    count, (height, width) = latents.shape[1], latents.shape[-2:]
    for first, size in ((1, 1), (2, count)):
        state = model.init_decode_state(latents.shape[0], height, width)
        pieces: list[Tensor] = []
        for part in [latents[:, :first], *latents[:, first:].split(size, dim=1)]:
            pixels, state = model.decode_stream(part, state)
            pieces.append(pixels)
        ledger.close("out.pixels", torch.cat(pieces, dim=1), atol=TAEHV_ATOL)
