"""Verdict on a model and this machine: whether it fits into card, memory and disk, with which plan, and how fast.

Needs are counted from shapes, before anything is fetched or loaded. How fast is computed, too: from the operations of
a chunk, a matrix product measured here, and the share of such a product that the systems' authors reach.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from app.loading.fitting import config_of, needs_of
from pipelines.memory_plan import MemoryPlan
from pipelines.presets import PRESETS, Preset
from weights.catalog import ModelSpec
from weights.store import place_of

if TYPE_CHECKING:
    import torch

SHARE = 0.35
"""Of a measured matrix product that a whole film reaches: LongLive's authors tell 20.7 pictures a second on an H100,
which are 242e12 operations a second, and a large bfloat16 product reaches about 690e12 there. Not measured here."""
_PROCESS = 2 * 10**9
"""Bytes of the host's memory that libraries, decoded pictures and the encoder take, roughly."""
_SLOWER = {"streamed": 0.25, "fp8": 0.8, "int8": 0.9}
"""What is left of the speed under a plan, estimated: layers on their way cost as much as the bus is slower."""


@dataclass(frozen=True, slots=True)
class Room:
    """What there is of one kind of memory, and what is needed; bytes."""

    kind: str
    needs: int
    has: int

    @property
    def enough(self) -> bool:
        return self.needs <= self.has

    @property
    def told(self) -> str:
        """As `12.3 of 24.0 GB of the card`."""
        return f"{self.needs / 1e9:.1f} of {self.has / 1e9:.1f} GB of {self.kind}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one model under a preset; `plan` is the first that fits the card, None where none does.

    `disk` is of what has still to be fetched, `fps` is computed, None where nothing fits.
    """

    model: str
    preset: str
    device: str
    plan: MemoryPlan | None
    rooms: tuple[Room, ...]
    fps: float | None

    @property
    def fits(self) -> bool:
        return self.plan is not None and all(room.enough for room in self.rooms)

    @property
    def word(self) -> str:
        """`fits`, `fits with PLAN` or `does not fit`."""
        if not self.fits or self.plan is None:
            return "does not fit"
        return f"fits with {self.plan.written}" if self.plan.traded else "fits"

    @property
    def told(self) -> str:
        """A sentence: the word, what is traded, every need beside what there is, and how fast it is."""
        if not self.fits or self.plan is None:
            lacks = [room for room in self.rooms if not room.enough]
            needs = ", ".join(
                f"needs {room.needs / 1e9:.1f} GB of {room.kind}, has {room.has / 1e9:.1f}" for room in lacks
            )
            everything = " with everything traded" if self.plan is None else ""
            return f"{self.model} does not fit{everything}: {needs}"
        traded = f" ({'; '.join(self.plan.traded)})" if self.plan.traded else ""
        rooms = ", ".join(room.told for room in self.rooms if room.needs)
        fast = "" if self.fps is None else f"; about {self.fps:.2g} pictures a second, computed"
        return f"{self.model} {self.word}{traded}: {rooms}{fast}"

    def as_data(self) -> dict[str, object]:
        """For programs; bytes."""
        return {
            "verdict": self.word,
            "preset": self.preset,
            "device": self.device,
            "plan": None if self.plan is None else self.plan.written,
            "traded": [] if self.plan is None else list(self.plan.traded),
            "rooms": [{"kind": room.kind, "needs": room.needs, "has": room.has} for room in self.rooms],
            "fps_computed": self.fps,
        }


def verdict_on(
    model: ModelSpec,
    preset: Preset | None = None,
    *,
    device: str = "auto",
    size: tuple[int, int] | None = None,
    models_dir: Path | None = None,
    vae: str = "auto",
    card: int | None = None,
) -> Verdict | None:
    """What this machine can do with a model; None for one that is small anyway.

    Args:
        model: of the catalogue, or of this disk.
        preset: to play it with; None: the first that is made for it.
        device: as the flag is written.
        size: height and width; None: the model's own.
        models_dir: where downloads go.
        vae: as the flag is written.
        card: bytes to count with instead of those that are free.
    """
    if model.tokenizer is None:
        return None
    import psutil

    from pipelines.components import choose_device
    from pipelines.fit import GUARD, choose_plan
    from weights.memory import SHARED, free_memory, total_memory

    preset = preset or preset_for(model)
    place, dtype = choose_device(device)
    has = free_memory(place) if card is None else card
    needs = needs_of(model, preset, size or model.size, dtype, vae=vae, device=place)
    found = choose_plan(needs, has)
    least = min(each.peak for _, each in needs)
    on_card = Room("memory" if place in SHARED else "the card", (found[1].peak if found else least) + GUARD, has)
    rooms = [on_card]
    if place not in SHARED:
        free = min(psutil.virtual_memory().available, total_memory("cpu"))
        rooms.append(Room("memory", (found[1].host if found else 0) + _PROCESS, free))
    rooms.append(Room("the disk", missing_bytes(model, models_dir), _free_disk(models_dir)))
    return Verdict(
        model.name,
        preset.name,
        place,
        None if found is None else found[0],
        tuple(rooms),
        None if found is None else _fps(model, preset, size or model.size, found[0], place, dtype),
    )


def preset_for(model: ModelSpec) -> Preset:
    """The first preset that is made for a model, or for its like."""
    return next((preset for preset in PRESETS.values() if preset.model == model.name), PRESETS["self-forcing"])


def missing_bytes(model: ModelSpec, models_dir: Path | None) -> int:
    """Bytes of what is not here yet, counted at two a number: files of more precision are larger, and the hub tells
    exactly how large before the first byte comes."""
    from app.loading.fitting import UMT5_NUMBERS
    from weights.shapes import wan_parameters

    large = {"transformer": wan_parameters(config_of(model)), "text_encoder": UMT5_NUMBERS, "autoencoder": 126_892_531}
    return sum(
        2 * large.get(spec.kind, 0)
        for spec in model.weights
        if spec.where == "hub" and place_of(spec, models_dir) is None
    )


def _free_disk(models_dir: Path | None) -> int:
    from weights.hub import hub_cache

    folder = hub_cache() if models_dir is None else models_dir.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _fps(
    model: ModelSpec, preset: Preset, size: tuple[int, int], plan: MemoryPlan, device: str, dtype: torch.dtype
) -> float:
    """Pictures a second, computed."""
    from pipelines.cost import chunk_flops, frame_tokens, latent_size, steady

    config = config_of(model)
    cost = steady(preset)
    flops = chunk_flops({**config}, frame_tokens(config, latent_size(config, *size)), cost)
    speed = SHARE * _product(device, dtype)
    for word, left in _SLOWER.items():
        if word in plan.written.split("+"):
            speed *= left
    return 4 * cost.chunk * speed / flops


@lru_cache(maxsize=4)
def _product(device: str, dtype: torch.dtype) -> float:
    """Operations a second of a matrix product, measured once a process."""
    import torch

    from pipelines.peak import matmul_peak

    with torch.random.fork_rng(devices=[] if device == "cpu" else None):  # pyright: ignore[reportUnknownMemberType]
        return matmul_peak(device, dtype, repeats=3)
