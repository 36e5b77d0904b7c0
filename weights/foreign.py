"""Checkpoints in forms that are not read here, named as what they are: quantised, packed, or of another program.

They all hold a Wan model, so that "lacks 825 tensors" would be true and of no help.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from weights.plain_files import CheckpointError, few

_PLAIN = "take the same model's bf16 or fp16 weights instead"
_FOLDER = "take the model's folder in diffusers' layout (transformer/, vae/, text_encoder/, tokenizer/) instead"

_FORMS: tuple[tuple[str, str, str], ...] = (
    (r"\.(qzeros|g_idx)$", "weights quantised by GPTQ or AWQ", _PLAIN),
    (
        r"\.(qweight|wscales|smooth_factor(_orig)?|wcscales|wtscale|smooth)$",
        "weights quantised to four bits by nunchaku (SVDQuant)",
        _PLAIN,
    ),
    (
        r"\.(absmax|quant_map|nested_absmax|nested_quant_map|SCB|weight_format)$|\.quant_state\.",
        "weights quantised by bitsandbytes",
        _PLAIN,
    ),
    (r"\.(weight_packed|weight_global_scale|weight_scale_2)$", "weights packed to four bits", _PLAIN),
    (r"^vace_", "layers of VACE (a model that is led by another video)", "take the text-to-video model (T2V) instead"),
    (r"\.weight_scale_inv$", "fp8 weights with a scale for every block", _PLAIN),
    (
        r"^(model\.)?(first_stage_model|cond_stage_model|text_encoders|vae|conditioner)\.",
        "a whole pipeline in one file, as ComfyUI reads it",
        _FOLDER,
    ),
    (r"\.lora_|\.lora\.(up|down)|\.(lokr|hada)_|^lora_", "a LoRA and no model", "give the model that it was made for"),
)
"""A pattern of names, what it gives away, what to do; the first that is found counts."""

_MAGIC = {
    b"GGUF": "a GGUF file",
    b"PK\x03\x04": "a zip or a pickle of torch.save",
    b"\x80\x02": "a pickle",
    b"\x80\x04": "a pickle",
    b"version https://git-lfs": "a pointer of Git LFS and not the weights",
    b"<": "a web page",
}
_ENDINGS = {
    ".gguf": "GGUF weights",
    ".bin": "pickled weights (.bin)",
    ".ckpt": "pickled weights (.ckpt)",
    ".pth": "pickled weights (.pth)",
    ".pt": "pickled weights (.pt)",
    ".onnx": "an ONNX graph",
    ".msgpack": "weights of Flax",
    ".h5": "weights of TensorFlow",
    ".engine": "a TensorRT engine",
}


def refuse_foreign(source: Path, names: Iterable[str]) -> None:
    """Name the form that a checkpoint's tensors give away.

    Args:
        source: its file.
        names: of its tensors, as they stand in the file.

    Raises:
        CheckpointError: a form that is known and not read.
    """
    listed = list(names)
    for pattern, what, action in _FORMS:
        found = sorted(name for name in listed if re.search(pattern, name))
        if found:
            raise CheckpointError(f"{source} holds {what} ({few(found, 2)}), which are not read here; {action}.")


def refuse_quantised(file: Path, config: Mapping[str, Any]) -> None:
    """CheckpointError for a config.json, or a header's texts, that say that the weights are quantised."""
    about = config.get("quantization_config", config.get("compression_config"))
    if about is not None:
        method = about.get("quant_method") if isinstance(about, dict) else None
        by = f"by {few([method])}" if isinstance(method, str) else "(quantization_config)"
        raise CheckpointError(f"{file} says that its weights are quantised {by}, which are not read here; {_PLAIN}.")


def describe_file(path: Path) -> str:
    """What a regular file is that is no folder of a model: `a GGUF file`, `a safetensors file` ..., for a sentence."""
    with path.open("rb") as file:
        beginning = what_begins_with(file.read(64))
    if beginning:
        return beginning
    if path.suffix.lower() == ".safetensors":
        return "a single safetensors file"
    return next((what for ending, what in _ENDINGS.items() if path.suffix.lower() == ending), "a file")


def what_begins_with(head: bytes) -> str:
    """What the first bytes of a file give away; empty where they say nothing."""
    return next((what for magic, what in _MAGIC.items() if head.lstrip().startswith(magic)), "")


def other_weights(folder: Path) -> str:
    """What a component's folder holds in place of safetensors, for a sentence; empty where nothing is known of it."""
    for path in sorted(folder.iterdir()):
        what = _ENDINGS.get(path.suffix.lower())
        if what is not None:
            return f"{what} ({few([path.name])})"
    return ""
