"""The host never waits for the device but where a chunk's pixels leave it: counted on a device that is not there.

`Device` plays an accelerator on the CPU: tensors that live on it compute as ever, but whatever brings a number of
theirs back to Python is written down, and mixing them with the host's fails as it would on CUDA. Sending numbers the
other way is counted too, since a copy from ordinary memory waits as well.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import cache.rope
import pipelines.streaming
import schedulers.flow_match
import schedulers.steps
from cache import FEATURE_CACHES
from cache.deep_forcing import DeepForcing
from cache.kv import KVStore
from cache.refresh import SinkRefresh
from cache.scorers.logit_sum import LogitSum
from cache.switches import Recache
from cache.types import Pass, Row
from models.taehv import AutoencoderTAEHV
from models.wan import CausalWanTransformer3DModel
from pipelines.build import make_policies
from pipelines.conditioning import Conditioner
from pipelines.engine import Engine
from pipelines.presets import PRESETS, Preset
from pipelines.streaming import Observer, Stream
from pipelines.types import Controls
from tests.tiny import FOX, HEIGHT, WIDTH, WOLF, FakeText, tiny_autoencoder, tiny_transformer

ROOT = Path(__file__).parents[2]
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

    def __init__(self) -> None:
        super().__init__()
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
        return args[0] if name == "copy_" else _there(out) if to_device else out


def _is_read(func: Any, name: str, args: Any, away: list[Away]) -> bool:
    """Whether the host has to wait for what the operator finds."""
    if name.startswith("index"):
        return any(x.dtype in (torch.bool, torch.uint8) for x in away)
    marks = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
    return bool(marks & {*func.tags}) or name in READS or (name == "where" and len(args) == 1)


def _here(x: Any) -> Any:
    if isinstance(x, list | tuple):
        return type(x)(map(_here, x))
    return x.here if isinstance(x, Away) else torch.device("cpu") if x == AWAY else x


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
def device() -> Iterator[Device]:
    """The played device; what modules keep of its tensors is forgotten afterwards."""
    try:
        with _Factories(), Device() as played:
            yield played
    finally:
        for module in (cache.rope, pipelines.streaming, schedulers.steps, schedulers.flow_match):
            for kept in vars(module).values():
                if hasattr(kept, "cache_clear"):
                    kept.cache_clear()


def send(module: nn.Module) -> nn.Module:
    """Move a module to the played device."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(Away(parameter.data), requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = Away(buffer)
    return module


# ------------------------------------------------------------------ films

LAYERS = 1
PIXELS, LATENTS = "pipelines/streaming.py:_decode", "pipelines/streaming.py:_make"
"""Where a chunk leaves the device: its pixels, or its latents for the hash of a film that is not decoded."""


@dataclass(frozen=True, slots=True)
class Run:
    """Hashes of the chunks, and what crossed the border in each."""

    hashes: list[str]
    waits: list[Counter[Crossing]]
    uploads: list[Counter[Crossing]]


def networks() -> tuple[CausalWanTransformer3DModel, AutoencoderTAEHV]:
    return tiny_transformer(num_layers=LAYERS), tiny_autoencoder()


def stream_of(preset: Preset, parts: tuple[nn.Module, nn.Module], observer: Observer | None = None) -> Stream:
    transformer, autoencoder = parts
    engine = Engine(transformer, Conditioner(FakeText()), make_policies(preset), autoencoder)  # type: ignore[arg-type]
    return Stream(engine, height=HEIGHT, width=WIDTH, seed=3, observer=observer)


def away(preset: Preset, script: Sequence[Controls], observer: Observer | None = None, *, decode: bool = False) -> Run:
    """A film on the played device."""
    parts = networks()
    with device() as played:
        stream = stream_of(preset, (send(parts[0]), send(parts[1])), observer)
        run = Run([], [], [])
        for controls in script:
            played.waits.clear()
            played.uploads.clear()
            run.hashes.append(stream.next_chunk(controls, decode=decode).sha256)
            run.waits.append(Counter(played.waits))
            run.uploads.append(Counter(played.uploads))
    return run


def home(preset: Preset, script: Sequence[Controls], *, decode: bool = False) -> list[str]:
    stream = stream_of(preset, networks())
    return [stream.next_chunk(controls, decode=decode).sha256 for controls in script]


def short(preset: Preset) -> Preset:
    """Two steps a chunk where the list is only a list."""
    if preset.schedule.plan != "serial":
        return preset
    return replace(preset, schedule=replace(preset.schedule, denoising_step_list=(1000, 500)))


def film_of(preset: Preset) -> list[Controls]:
    """Until the memory is full and has forgotten, then a new prompt."""
    chunks = preset.cache.capacity // preset.chunk + 2
    return [FOX] * chunks + [WOLF] * 2


def where(waits: Counter[Crossing]) -> list[str]:
    return [f"{wait.operator} in {wait.place}" for wait in waits.elements()]


class Kinds:
    """An observer that notes the kinds of passes."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, work: Pass, row: Row, x: Tensor, flow: Tensor, x0: Tensor | None, store: KVStore) -> None:
        self.seen.append(work.kind)


@pytest.mark.parametrize("name", PRESETS)
def test_the_host_waits_once_a_chunk_and_that_is_for_its_pixels(name: str) -> None:
    """In the ordinary loop, where the memory forgets, and where a new prompt replays it."""
    preset, kinds = short(PRESETS[name]), Kinds()
    script = film_of(preset)
    run = away(preset, script, kinds, decode=True)
    assert ("replay" in kinds.seen) == (preset.switch.replays > 0)
    for waits in run.waits:
        assert [wait.place for wait in waits.elements()] == [PIXELS], where(waits)
    assert run.hashes == home(preset, script, decode=True), "the played device computes something else"


@pytest.mark.parametrize("name", FEATURE_CACHES)
def test_a_feature_cache_waits_for_nothing_but_what_it_measured(name: str) -> None:
    """That is copied while the device works (no wait) and read from the host's memory a pass later."""
    preset = replace(PRESETS["embedded"], feature_cache=name)
    script = [FOX] * 5 + [WOLF] * 2
    run = away(preset, script)
    assert all([wait.place for wait in waits.elements()] == [LATENTS] for waits in run.waits), run.waits
    assert run.hashes == home(preset, script)


def deep(**changes: Any) -> Preset:
    preset = short(PRESETS["deep-forcing"])
    return replace(preset, cache=DeepForcing(window=9, sink=2, budget=7, recent=4, **changes))


def test_choosing_tokens_waits_for_nothing_and_sends_nothing() -> None:
    """Chunks that choose (every second one) and chunks that do not cross the border equally often."""
    run = away(deep(), [FOX] * 8)
    counted = [
        (sum(waits.values()), sum(uploads.values())) for waits, uploads in zip(run.waits, run.uploads, strict=True)
    ]
    assert len(set(counted[4:])) == 1, counted
    assert not [upload for upload in run.uploads[-1] + run.uploads[-2] if "selection" in upload.place]
    assert run.hashes == home(deep(), [FOX] * 8)


def test_a_recache_of_a_pruned_memory_waits_for_nothing() -> None:
    preset = replace(deep(), switch=Recache(window=9, sink=2))
    kinds = Kinds()
    run = away(preset, [FOX] * 6 + [WOLF] * 2, kinds)
    assert kinds.seen.count("replay") == 1
    assert all([wait.place for wait in waits.elements()] == [LATENTS] for waits in run.waits)


def test_a_sink_that_is_renewed_waits_for_nothing_but_its_scores() -> None:
    """They are copied while the device works (no wait) and read from the host's memory a chunk later."""
    preset = PRESETS["streamdiffusion-v2"]
    assert isinstance(preset.cache, SinkRefresh)
    preset = replace(preset, cache=replace(preset.cache, threshold=1.0))
    sinks: list[list[int]] = []

    def watch(work: Pass, row: Row, x: Tensor, flow: Tensor, x0: Tensor | None, store: KVStore) -> None:
        sinks.append([slot.frame for slot in store.entries if slot.tag == "sink"])

    run = away(preset, [FOX] * 12, watch)
    assert len({tuple(sink) for sink in sinks}) > 4, "the sink was never renewed"
    assert all([wait.place for wait in waits.elements()] == [LATENTS] for waits in run.waits)


# ------------------------------------------------------------------ the counter can fail

MUTATIONS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.amax()),
    "truth": lambda x: bool((x > 0).any()),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "copy": lambda x: torch.empty(x.shape).copy_(x),
    "mask": lambda x: x[x > 0],
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "equal": lambda x: torch.equal(x, x),
}


@pytest.mark.parametrize("what", MUTATIONS)
def test_a_wait_in_the_choice_of_tokens_is_found(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    score = LogitSum.score

    def looks(self: LogitSum, layer: int, *tensors: Tensor) -> Tensor:
        MUTATIONS[what](tensors[1])
        return score(self, layer, *tensors)

    monkeypatch.setattr(LogitSum, "score", looks)
    run = away(deep(), [FOX] * 4)
    found = [wait.place for wait in run.waits[3].elements() if wait.place != LATENTS]
    assert len(found) == LAYERS
    assert not any(len(waits) > 1 for waits in run.waits[:3]), "nothing is chosen before the memory is full"


@pytest.mark.parametrize("how", [lambda x: x.tolist(), lambda x: x.numpy(), lambda x: x + torch.ones(x.shape)])
def test_what_no_device_allows_fails(how: Callable[[Tensor], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists and arrays straight from the device, and the host's tensors among the device's."""
    write = KVStore.stage

    def looks(self: KVStore, *arguments: Any) -> None:
        how(self.tensors()["keys"])
        write(self, *arguments)

    monkeypatch.setattr(KVStore, "stage", looks)
    with pytest.raises((RuntimeError, TypeError), match=r"tolist|numpy|host beside"):
        away(deep(), [FOX])


def test_numbers_sent_to_the_device_are_counted_apart() -> None:
    with device() as played:
        torch.zeros(3).to(AWAY)
        torch.tensor([1, 2], device=AWAY)
        x = torch.zeros(2, device=AWAY)
        x.copy_(torch.ones(2), non_blocking=True)
        assert float((x + 1).sum()) == 4
    assert [wait.operator for wait in played.waits] in (["item"], ["_local_scalar_dense"])
    assert len(played.uploads) == 2
