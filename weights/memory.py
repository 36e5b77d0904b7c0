"""Memory: what weights will need, told by their headers, against what the machine has."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import psutil
import torch

from weights.gguf_file import read_gguf_header
from weights.header import form_of, read_header
from weights.plain_files import CheckpointError

SHARED = ("cpu", "mps")
"""Devices that compute in the memory of the host."""
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def must_fit(name: str, paths: Iterable[Path], dtype: torch.dtype, device: str | torch.device) -> None:
    """Refuse weights that cannot be held, before a byte of them is read.

    Args:
        name: of the model.
        paths: files, and folders with safetensors or GGUF; a pickle counts as it lies on the disk.
        dtype: of the parameters.
        device: where they go.

    Raises:
        CheckpointError: they need more than the whole memory of the machine, or of the device.
    """
    needed = sum(_bytes(file, dtype) for path in paths for file in _files(path))
    room = total_memory(device)
    if needed > room:
        raise CheckpointError(
            f"{name} needs {needed / 2**30:.1f} GiB of memory for its weights in {str(dtype).removeprefix('torch.')}, "
            f"and this machine has {room / 2**30:.1f} GiB; choose a smaller model, or a machine with more."
        )


def total_memory(device: str | torch.device) -> int:
    """Bytes of the device, or of the host and what its container may use of it."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    total = psutil.virtual_memory().total
    for file in _LIMITS:
        try:
            total = min(total, int(file.read_text()))
        except (OSError, ValueError):
            continue  # no limit is no number there ("max"), and other systems have no such file
    return total


def free_memory(device: str | torch.device) -> int:
    """Bytes that are free now, on the device or the host."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(psutil.virtual_memory().available, total_memory(device))


def _files(path: Path) -> list[Path]:
    return [path] if not path.is_dir() else sorted(path.glob("*.safetensors")) or sorted(path.glob("*.gguf"))


def _bytes(file: Path, dtype: torch.dtype) -> int:
    form = form_of(file)
    if form == "gguf":
        return sum(math.prod(entry.shape) for entry in read_gguf_header(file).values()) * dtype.itemsize
    if form == "safetensors":
        return sum(entry.numbers for entry in read_header(file).tensors.values()) * dtype.itemsize
    return file.stat().st_size
