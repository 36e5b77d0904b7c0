"""Packs a run's checkpoint into small files to keep or to carry, and unpacks it where the run shall go on.

Weights and averages as fp16, which is finer than bf16 for numbers of their size; moments as bf16, which holds their
range. A run that goes on from there is not bit for bit the one that was packed, but it need not warm up again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from training.run import load_checkpoint, save_checkpoint

MEGABYTES = 16
"""A file is at most so large."""
MOMENTS = "optimizers"


def pack(out: Path, name: str, target: Path) -> list[Path]:
    """Write the checkpoint of the run `name` in `out` to `target` as `name`.json and `name`-NN.safetensors.

    Raises:
        FileNotFoundError: the run has no checkpoint.
        ValueError: a weight does not fit into fp16, so that packing would spoil it.
    """
    saved = load_checkpoint(out / f"{name}.pt")
    if saved is None:
        raise FileNotFoundError(f"{out / name}.pt does not exist; there is no run of that name to pack.")
    tensors: dict[str, Tensor] = {}
    rest = _take_tensors(saved, "", tensors)
    small = {key: _smaller(key, value) for key, value in tensors.items()}
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob(f"{name}-*.safetensors"):
        old.unlink()
    parts = _parts(small)
    files = [target / f"{name}-{number:02d}.safetensors" for number in range(len(parts))]
    for path, part in zip(files, parts, strict=True):
        save_file(part, path)
    form = {"name": name, "files": [path.name for path in files], "rest": rest}
    (target / f"{name}.json").write_text(json.dumps(form, indent=1) + "\n", encoding="utf-8")
    return [target / f"{name}.json", *files]


def unpack(source: Path, name: str, out: Path) -> Path:
    """Write the checkpoint `name`.pt that `source` holds packed into `out`, where the run then goes on.

    Raises:
        FileNotFoundError: nothing of that name is packed there, or one of its files is missing.
        FileExistsError: `out` has a checkpoint of that run, which would be lost.
    """
    form = source / f"{name}.json"
    if not form.exists():
        raise FileNotFoundError(f"{form} does not exist; {source} holds no packed run {name}.")
    path = out / f"{name}.pt"
    if path.exists():
        raise FileExistsError(f"{path} exists already; move it away to begin with the packed one.")
    packed = json.loads(form.read_text(encoding="utf-8"))
    tensors: dict[str, Tensor] = {}
    for file in packed["files"]:
        if not (source / file).exists():
            raise FileNotFoundError(f"{source / file} is missing; {form} needs it.")
        with safe_open(source / file, "pt") as part:
            tensors |= {key: part.get_tensor(key) for key in part.keys()}  # noqa: SIM118  (not a mapping)
    save_checkpoint(path, _give_tensors(packed["rest"], tensors))
    return path


def _take_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """What of a checkpoint is no tensor, as JSON can hold it; tensors go into `tensors` and leave their path."""
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"tensor": path, "type": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, dict):  # keys may be numbers, as in optimisers
        return {"dict": [[key, _take_tensors(one, f"{path}/{key}", tensors)] for key, one in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_take_tensors(one, f"{path}/{number}", tensors) for number, one in enumerate(value)]}
    return {"plain": value}


def _give_tensors(form: Any, tensors: dict[str, Tensor]) -> Any:
    ((kind, value), *_) = form.items()
    if kind == "tensor":
        return tensors[value].to(getattr(torch, form["type"])).clone()
    if kind == "dict":
        return {key: _give_tensors(one, tensors) for key, one in value}
    if kind == "list":
        return [_give_tensors(one, tensors) for one in value]
    return value


def _smaller(key: str, value: Tensor) -> Tensor:
    if not value.is_floating_point() or value.ndim == 0:
        return value.contiguous()
    small = value.to(torch.bfloat16 if key.startswith(f"/{MOMENTS}/") else torch.float16).contiguous()
    if not small.isfinite().all():
        raise ValueError(f"{key} has values that fp16 cannot hold, or that are not finite; this run cannot be packed.")
    return small


def _parts(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The tensors in files of at most MEGABYTES, in order."""
    room, parts, size = MEGABYTES * 2**20 - 2**17, [{}], 0  # 2**17 for names
    for key, value in tensors.items():
        size += value.nbytes
        if size > room and parts[-1]:
            parts.append({})
            size = value.nbytes
        parts[-1][key] = value
    return parts
