"""A device that is not there: plays an accelerator on the CPU, and writes down what crosses its border.

Tensors that live on it compute as ever, but whatever brings a number of theirs back to Python is noted, and mixing
them with the host's fails as it would on CUDA. Sending numbers the other way is counted too, since a copy from
ordinary memory waits as well.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import cache.precision
import cache.rope
import pipelines.streaming
import schedulers.flow_match
import schedulers.steps

ROOT = Path(__file__).parents[1]
AWAY = torch.device("meta")
"""Where the played device says that its tensors are: a kind of device that every build of torch knows."""

READS = {"item", "is_nonzero", "allclose", "argwhere", "nonzero_numpy"}
"""Operators made of others whose answer, or its size, the host needs; torch itself marks the simple ones."""


class Away(Tensor):
    """A tensor on the played device; `here` is what it holds."""

    here: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, here: Tensor) -> Away:
        with torch.inference_mode(mode=False):  # torch cannot take views of a wrapper that is itself for inference
            away = Tensor._make_wrapper_subclass(
                cls,
                here.shape,
                strides=here.stride(),
                storage_offset=here.storage_offset(),
                dtype=here.dtype,
                device=AWAY,
            )
        away.here = here
        return cast(Away, away)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} outside of the played device")


@dataclass(frozen=True, slots=True)
class Crossing:
    """The host and the device waited for each other: in which operator, called by which of our functions."""

    operator: str
    place: str


class Device(TorchDispatchMode):
    """While it is entered, `meta` is a device that computes; `waits` and `uploads` are what crossed its border."""

    def __init__(self, fine: bool) -> None:
        super().__init__()
        self.fine = fine
        self.waits: list[Crossing] = []
        self.uploads: list[Crossing] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        flat = [x for each in (*args, *kwargs.values()) for x in (each if isinstance(each, list | tuple) else (each,))]
        away = [x for x in flat if isinstance(x, Away)]
        here = [x for x in flat if isinstance(x, Tensor) and not isinstance(x, Away)]
        asked = [x for x in flat if isinstance(x, torch.device)]
        non_blocking = kwargs.get("non_blocking", False)
        if name == "copy_":
            to_device = isinstance(args[0], Away)
            crossed = to_device != isinstance(args[1], Away)
            non_blocking = non_blocking or (len(args) > 2 and args[2])
        else:
            to_device = asked[0] == AWAY if asked else bool(away)
            crossed = bool(asked) and bool(here if to_device else away)
            if away and any(x.ndim for x in here):
                raise RuntimeError(f"{name} was given tensors of the host beside those of the device")
        if away and _is_read(func, name, args, away):
            self.waits.append(Crossing(name, _caller()))
        elif crossed and not non_blocking:
            (self.uploads if to_device else self.waits).append(Crossing(name, _caller()))
        out = func(*map(_here, args), **{key: _here(value) for key, value in kwargs.items()})
        if to_device and not self.fine and any(x.dtype == torch.float64 for x in _tensors(out)):
            raise TypeError(f"{name} in {_caller()} makes float64, which this device does not have")
        return args[0] if name == "copy_" else _there(out) if to_device else out


def _is_read(func: Any, name: str, args: Any, away: list[Away]) -> bool:
    """Whether the host has to wait for what the operator finds."""
    if name.startswith("index"):
        return any(x.dtype in (torch.bool, torch.uint8) for x in away)
    marks = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
    return bool(marks & {*func.tags}) or name in READS or (name == "where" and len(args) == 1)


def _tensors(x: Any) -> list[Tensor]:
    return (
        [x]
        if isinstance(x, Tensor)
        else [each for each in x if isinstance(each, Tensor)]
        if isinstance(x, list | tuple)
        else []
    )


def _here(x: Any) -> Any:
    if isinstance(x, list | tuple):
        return type(x)(map(_here, x))
    return x.here if isinstance(x, Away) else torch.device("cpu") if isinstance(x, torch.device) and x == AWAY else x


def _there(x: Any) -> Any:
    if isinstance(x, list | tuple):
        return type(x)(map(_there, x))
    return Away(x) if isinstance(x, Tensor) else x


def _caller() -> str:
    """The innermost function of the product that is running, as file:function."""
    frame = sys._getframe()
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and path != Path(__file__) and "site-packages" not in path.parts:
            return f"{path.relative_to(ROOT)}:{frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere"


class _Factories(TorchFunctionMode):
    """`torch.tensor` fills nothing in on `meta`, before any operator is asked: make it here and send it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == AWAY:
            return func(*args, **{**kwargs, "device": "cpu"}).to(AWAY)
        return func(*args, **kwargs)


@contextmanager
def device(*, fine: bool = True) -> Iterator[Device]:
    """The played device, which may have no float64; what modules keep of its tensors is forgotten afterwards."""
    known = cache.precision.WITHOUT_FLOAT64
    try:
        cache.precision.WITHOUT_FLOAT64 = known if fine else {*known, AWAY.type}
        with _Factories(), Device(fine) as played:
            yield played
    finally:
        cache.precision.WITHOUT_FLOAT64 = known
        for module in (cache.rope, pipelines.streaming, schedulers.steps, schedulers.flow_match):
            for kept in vars(module).values():
                if hasattr(kept, "cache_clear"):
                    kept.cache_clear()


def send(module: nn.Module, *, learns: bool = False) -> nn.Module:
    """Move a module to the played device, to train it there or not."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(Away(parameter.data), requires_grad=learns)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = Away(buffer)
    return module
