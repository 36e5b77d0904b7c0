"""Snapshots of a stream as files, so that a killed render goes on where it stood.

One safetensors file: tensors as they are, and everything else as JSON in its header. Nothing in it can run code, and a
file cut short or changed is refused instead of continued from.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cache.types import Slot
from pipelines.conditioning import TextState
from pipelines.drift import DriftState
from pipelines.state import Snapshot

FORMAT = 2
_TEXTS = ("embeds", "start", "target")
_DRIFTS = ("recent", "reference", "early")


def save_snapshot(snapshot: Snapshot, path: Path) -> str:
    """Write a snapshot whole or not at all, and return the sha256 of the file.

    Raises:
        OSError: no room, or no permission; a file that was there before is still there.
    """
    tensors: dict[str, Tensor] = {"latents": snapshot.latents, "flight": snapshot.flight}
    lanes: list[dict[str, Any]] = []
    for number, store in enumerate(snapshot.kv):
        held = {name: value for name, value in store.items() if isinstance(value, Tensor)}
        tensors |= {f"kv.{number}.{name}": tensor for name, tensor in held.items()}
        entries: Any = store["entries"]
        lanes.append(
            {
                "entries": [[slot.frame, slot.tag, slot.prompt, slot.level, slot.base] for slot in entries],
                "physical": store["physical"],
                "free": store["free"],
                "scores": store["scores"],
                "tensors": list(held),
            }
        )
    tensors |= {f"decoder.{number}": tensor for number, tensor in enumerate(snapshot.decoder)}
    for name in _TEXTS:
        text: Tensor | None = getattr(snapshot.text, name)
        if text is not None:
            tensors[f"text.{name}"] = text.clone()  # a mix may share its memory with what it came from
    for name in _DRIFTS:
        statistics = getattr(snapshot.drift, name)
        if statistics:
            tensors[f"drift.{name}"] = torch.from_numpy(np.stack(statistics))
    header = {
        "format": FORMAT,
        "seed": snapshot.seed,
        "stream": snapshot.stream,
        "epoch": snapshot.epoch,
        "chunk": snapshot.chunk,
        "cur": snapshot.cur,
        "scene": snapshot.scene,
        "levels": snapshot.levels,
        "switches": snapshot.switches,
        "scale": snapshot.scale,
        "lanes": lanes,
        "decoder": len(snapshot.decoder),
        "text": {
            "prompt": snapshot.text.prompt,
            "version": snapshot.text.version,
            "blended": snapshot.text.blended,
            "blend": snapshot.text.blend,
        },
        "drift_since": snapshot.drift.since,
    }
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
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
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{path} is no snapshot of this version of Rivulet (format {FORMAT}): render without it")
    try:
        return _snapshot(header, tensors)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} lacks {error}: it is damaged, render without it") from error


def _snapshot(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Snapshot:
    text, prompt = header["text"], header["text"]["prompt"]
    drift = {name: tuple(tensors[f"drift.{name}"].cpu().numpy()) for name in _DRIFTS if f"drift.{name}" in tensors}
    return Snapshot(
        seed=header["seed"],
        stream=header["stream"],
        kv=tuple(
            {
                "entries": tuple(Slot(*entry) for entry in lane["entries"]),
                "physical": tuple(lane["physical"]),
                "free": tuple(lane["free"]),
                "scores": tuple(lane["scores"]),
                **{name: tensors[f"kv.{number}.{name}"] for name in lane["tensors"]},
            }
            for number, lane in enumerate(header["lanes"])
        ),
        latents=tensors["latents"],
        flight=tensors["flight"],
        levels=tuple(header["levels"]),
        # The first tensor of a decoder's state counts frames and is read by the host.
        decoder=tuple(
            tensors[f"decoder.{number}"] if number else tensors["decoder.0"].cpu()
            for number in range(header["decoder"])
        ),
        text=TextState(
            prompt=prompt if isinstance(prompt, str) else tuple((words, weight) for words, weight in prompt),
            version=text["version"],
            **{name: tensors.get(f"text.{name}") for name in _TEXTS},
            blended=text["blended"],
            blend=text["blend"],
        ),
        drift=DriftState(since=header["drift_since"], **drift),
        epoch=header["epoch"],
        chunk=header["chunk"],
        cur=header["cur"],
        scene=header["scene"],
        switches=tuple(header["switches"]),
        scale=header["scale"],
    )


def _os_error(error: SafetensorError, path: Path) -> OSError:
    """safetensors tells of the system's errors in words ("... (os error 28)"): give the number back."""
    words = str(error)
    number = words.rpartition("os error ")[2].rstrip(")").strip() if "os error" in words else ""
    return OSError(int(number), os.strerror(int(number)), str(path)) if number.isdigit() else OSError(words)
