# pyright: standard
"""Snapshots of a stream as files, so that a killed render goes on where it stood.

One safetensors file: tensors as they are, and everything else as JSON in its header. Nothing in it can run code, and a
file cut short or changed is refused instead of continued from.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipelines.state import Snapshot, StreamState
from pipelines.tree import Tree
from pipelines.video_state import VideoState

FORMAT = 5

_NO_VIDEO: dict[str, Tree] = {"encoder": (), "origin": (), "video": VideoState()}
"""What formats before 4 do not know of."""


def save_snapshot(snapshot: Snapshot, path: Path) -> str:
    """Write a snapshot whole or not at all, and return the sha256 of the file.

    Raises:
        OSError: no room, or no permission; a file that was there before is still there.
    """
    tensors: dict[str, Tensor] = {}
    header = {"format": FORMAT, "state": _flat(snapshot.tree, "", tensors)}
    half = path.with_name(f".{path.name}.tmp")
    try:
        save_file(tensors, half, metadata={"rivulet": json.dumps(header)})
        with half.open("rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        half.replace(path)
    except SafetensorError as error:
        raise _os_error(error, half) from error
    finally:
        half.unlink(missing_ok=True)
    return digest


def load_snapshot(path: Path, device: torch.device | str = "cpu", *, sha256: str | None = None) -> Snapshot:
    """Read a snapshot back.

    Args:
        path: a file of `save_snapshot`.
        device: where its tensors go.
        sha256: what the file must hash to, if known.

    Raises:
        ValueError: the file is damaged, or another version of Rivulet wrote it.
        OSError: it cannot be read.
    """
    if sha256 is not None:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise ValueError(f"{path} is damaged: its checksum differs; render without it")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("rivulet", "null"))
            tensors: dict[str, Tensor] = {name: file.get_tensor(name).to(device) for name in file.keys()}  # noqa: SIM118  # not a dict
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}): render without it") from error
    known: dict[Any, Callable[[Any, Mapping[str, Tensor]], Tree]] = {
        FORMAT: lambda head, held: _tree(head["state"], held),
        4: lambda head, held: _video_from_the_start(_tree(head["state"], held)),
        3: lambda head, held: _NO_VIDEO | _tree(head["state"], held),
        2: _format_2,
    }
    version = cast("dict[str, Any]", header).get("format") if isinstance(header, dict) else None
    read = known.get(version) if isinstance(version, int) else None
    if read is None:
        raise ValueError(f"{path} is no snapshot of this version of Rivulet (format {FORMAT}): render without it")
    try:
        tree = read(header, tensors)
        missing = [each.name for each in fields(StreamState) if each.name not in tree]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} lacks {error}: it is damaged, render without it") from error
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: it is damaged, render without it")
    return Snapshot(tree)


def _flat(tree: Tree, name: str, tensors: dict[str, Tensor]) -> Any:
    """The tree as JSON, with names in place of tensors and arrays, which go into `tensors`."""
    if isinstance(tree, Tensor):
        tensors[name] = tree.cpu().contiguous()
        return {"$tensor": name}
    if isinstance(tree, np.ndarray):
        tensors[name] = torch.tensor(tree)  # a copy: several parts of the state may share an array
        return {"$array": name}
    if isinstance(tree, tuple | list):
        parts = cast("tuple[Tree, ...]", tree)
        if parts and all(isinstance(part, np.ndarray) for part in parts) and len({part.shape for part in parts}) == 1:
            tensors[name] = torch.from_numpy(np.stack(parts))
            return {"$arrays": name}
        return [_flat(part, f"{name}.{number}", tensors) for number, part in enumerate(parts)]
    if is_dataclass(tree) and not isinstance(tree, type):
        tree = {each.name: getattr(tree, each.name) for each in fields(tree)}
    if isinstance(tree, Mapping):
        named = cast("Mapping[str, Tree]", tree)
        return {key: _flat(part, f"{name}.{key}" if name else key, tensors) for key, part in named.items()}
    return tree


def _tree(data: Any, tensors: Mapping[str, Tensor]) -> Tree:
    if isinstance(data, list):
        return tuple(_tree(part, tensors) for part in cast("list[Any]", data))
    if not isinstance(data, dict):
        return data
    named = cast("dict[str, Any]", data)
    if "$tensor" in named:
        return tensors[named["$tensor"]]
    if "$array" in named:
        return tensors[named["$array"]].cpu().numpy()
    if "$arrays" in named:
        return tuple(tensors[named["$arrays"]].cpu().numpy())
    return {key: _tree(part, tensors) for key, part in named.items()}


def _video_from_the_start(tree: Mapping[str, Tree]) -> Mapping[str, Tree]:
    """The tree of a file of format 4, in which a video always begins with the film."""
    return {**tree, "video": {"at": 0, **tree["video"]}}


def _format_2(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tree]:
    """The tree of a file of the version before."""
    plain = ("seed", "stream", "levels", "epoch", "chunk", "cur", "scene", "switches", "scale")
    lanes: list[Tree] = []
    for number, lane in enumerate(header["lanes"]):
        held = {name: tensors[f"kv.{number}.{name}"] for name in lane["tensors"]}
        means = {name[len("mean.") :]: held.pop(name) for name in [*held] if name.startswith("mean.")}
        entries = [
            dict(zip(("frame", "tag", "prompt", "level", "base"), each, strict=True)) for each in lane["entries"]
        ]
        table = {"entries": entries, "places": lane["physical"], "free": lane["free"], "scores": lane["scores"]}
        lanes.append({**_tree(table, {}), "means": means, **held})
    texts = {name: tensors.get(f"text.{name}") for name in ("embeds", "start", "target")}
    drifts = ("recent", "reference", "early")
    arrays = {name: tuple(tensors[f"drift.{name}"].cpu().numpy()) for name in drifts if f"drift.{name}" in tensors}
    return {
        **_NO_VIDEO,
        **{name: _tree(header[name], {}) for name in plain},
        "kv": tuple(lanes),
        "latents": {"ring": tensors["latents"]},
        "flight": {"ring": tensors["flight"]},
        "residuals": tuple({} for _ in lanes),
        "decoder": tuple(tensors[f"decoder.{number}"] for number in range(header["decoder"])),
        "text": {**_tree(header["text"], {}), **texts},
        "drift": {"since": header["drift_since"], **dict.fromkeys(drifts, ()), **arrays},
    }


def _os_error(error: SafetensorError, path: Path) -> OSError:
    """safetensors tells of the system's errors in words ("... (os error 28)"): give the number back."""
    words = str(error)
    number = words.rpartition("os error ")[2].rstrip(")").strip() if "os error" in words else ""
    return OSError(int(number), os.strerror(int(number)), str(path)) if number.isdigit() else OSError(words)
