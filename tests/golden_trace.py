"""A recorded trace and the ledger of its comparison.

The ledger knows every tensor that the trace recorded as a result, so that a replayer which forgets to compare
one is told so instead of passing.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

ATOL = 2e-5
"""The traces' own tolerance in float32; an independent implementation reached 2.7e-6."""

INPUTS = ("in.", "w.", "noise.", "rope.in")
"""Names that a replay reads; everything else was computed by the original system and has to be compared."""


class TraceError(ValueError):
    """A trace whose files contradict each other: one sentence."""


class NotSupportedError(Exception):
    """The engine has no such feature: one sentence that says which."""


class Trace:
    """One recording: `sidecar` (settings and the order of events) and `tensors`."""

    def __init__(self, name: str, sidecar: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.name, self.sidecar, self.tensors = name, sidecar, tensors

    @classmethod
    def open(cls, sidecar_path: Path) -> Trace:
        """Read NAME.json and NAME.safetensors and hold one against the other."""
        name = sidecar_path.stem
        file = sidecar_path.with_suffix(".safetensors")
        try:
            sidecar = json.loads(sidecar_path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise TraceError(f"{sidecar_path.name} is not JSON ({error})") from error
        if not isinstance(sidecar, dict):
            raise TraceError(f"{sidecar_path.name} holds no JSON object")
        if not file.is_file():
            raise TraceError(f"{file.name} is missing beside {sidecar_path.name}")
        if "sha256" in sidecar:
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            if digest != sidecar["sha256"]:
                raise TraceError(
                    f"{file.name} has sha256 {digest[:12]}..., its sidecar says {sidecar['sha256'][:12]}..."
                )
        try:
            tensors = load_file(file)
        except SafetensorError as error:
            raise TraceError(f"{file.name} is no complete safetensors file ({error})") from error
        _check_tensors(file.name, sidecar.get("tensors", {}), tensors)
        if "weights_of" in sidecar:  # a trace beside it was recorded with the same weights
            other = load_file(sidecar_path.with_name(f"{sidecar['weights_of']}.safetensors"))
            tensors |= {key: tensor for key, tensor in other.items() if key.startswith("w.")}
        return cls(name, sidecar, tensors)

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self.tensors[name]
        except KeyError:
            raise TraceError(f"the trace has no tensor {name}") from None

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def numbered(self, prefix: str) -> list[Tensor]:
        """Tensors prefix0, prefix1 ... (or prefix000 ...) in the order of their numbers."""
        found = [key for key in self.tensors if key.startswith(prefix) and key[len(prefix) :].isdigit()]
        return [self.tensors[key] for key in sorted(found, key=lambda key: int(key[len(prefix) :]))]

    def weights(self) -> dict[str, Tensor]:
        """The state dict under the original system's own key names."""
        return {key[2:]: value for key, value in self.tensors.items() if key.startswith("w.")}


def _check_tensors(file: str, described: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Shapes and dtypes against the sidecar's list; weights are not listed there."""
    for key, about in described.items():
        if key not in tensors:
            raise TraceError(f"{file} lacks {key}, which its sidecar lists")
        shape, dtype = list(tensors[key].shape), str(tensors[key].dtype).removeprefix("torch.")
        if shape != about["shape"] or dtype != about["dtype"]:
            raise TraceError(f"{key} is {dtype}{shape}, its sidecar says {about['dtype']}{about['shape']}")
    strangers = [key for key in tensors if described and key not in described and not key.startswith("w.")]
    if strangers:
        raise TraceError(f"{file} holds {strangers[0]}, which its sidecar does not list")


class Ledger:
    """What was compared, how far apart it was, and what is wrong."""

    def __init__(self, trace: Trace, atol: float = ATOL) -> None:
        self._trace, self._atol = trace, atol
        self.worst, self.worst_name = 0.0, "-"
        self.faults: list[str] = []
        self.notes: list[str] = []
        self.compared: set[str] = set()
        self._no_use: set[str] = set()
        self.bf16_ulps: dict[str, int] = {}

    def close(self, name: str, ours: Tensor, *, index: Any = None, atol: float | None = None) -> None:
        """Compare with the recorded tensor `name` (or its part `index`), largest absolute difference."""
        recorded = self._trace[name]
        recorded = recorded if index is None else recorded[index]
        self.compared.add(name)
        if tuple(ours.shape) != tuple(recorded.shape):
            self.faults.append(f"{name}: shape {tuple(ours.shape)}, recorded {tuple(recorded.shape)}")
            return
        if not recorded.numel():
            self.faults.append(f"{name}: nothing to compare")
            return
        error = (ours.detach().double() - recorded.double()).abs().max().item()
        error = math.inf if math.isnan(error) else error
        if error > self.worst or self.worst_name == "-":
            self.worst, self.worst_name = error, name
        if error > (self._atol if atol is None else atol):
            self.faults.append(f"{name}: off by {error:.2e}")

    def exact(self, name: str, ours: Tensor) -> None:
        """Compare bit for bit: indices, timesteps, lists."""
        recorded = self._trace[name]
        self.compared.add(name)
        if ours.dtype != recorded.dtype or not torch.equal(ours.detach(), recorded):
            self.faults.append(f"{name}: {_short(ours)}, recorded {_short(recorded)}")
        elif self.worst_name == "-":
            self.worst_name = name

    def bf16(self, name: str, ours: Tensor) -> None:
        """Compare bfloat16 numbers that were recorded as float32: at most one unit in the last place."""
        recorded = self._trace[name].to(torch.bfloat16)
        self.compared.add(name)
        if not torch.equal(recorded.float(), self._trace[name]) or ours.dtype != torch.bfloat16:
            self.faults.append(f"{name}: not bfloat16 numbers")
            return
        ulps = int((_ordered(ours) - _ordered(recorded)).abs().max()) if ours.shape == recorded.shape else 1 << 16
        self.bf16_ulps[name] = ulps
        if ulps > 1:
            self.faults.append(f"{name}: {ulps} bfloat16 units apart")

    def same(self, what: str, ours: object, recorded: object) -> None:
        """Compare integers and lists of the sidecar exactly."""
        if ours != recorded:
            self.faults.append(f"{what}: {ours}, recorded {recorded}")

    def no_use(self, *names: str) -> None:
        """Recorded results of what the product does not compute, such as the targets of the originals' training."""
        self._no_use |= {*names}

    def left(self) -> list[str]:
        """Recorded results that nothing was compared with, of those that the product computes."""
        results = (key for key in self._trace.tensors if not key.startswith(INPUTS))
        return sorted(key for key in results if key not in self.compared | self._no_use)

    def close_books(self) -> None:
        """Count a forgotten comparison as a fault."""
        left = self.left()
        if left:
            self.faults.append(f"{len(left)} recorded results were not compared, such as {left[0]}")
        if not self.compared:
            self.faults.append("nothing was compared")


def _ordered(x: Tensor) -> Tensor:
    """bfloat16 numbers as integers whose difference counts the representable numbers between them."""
    bits = x.contiguous().view(torch.int16).to(torch.int32)
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)


def _short(x: Tensor) -> str:
    values = x.flatten().tolist()
    return f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)} {values[:4]}{'...' if len(values) > 4 else ''}"
