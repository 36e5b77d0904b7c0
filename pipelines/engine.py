"""What all streams of a process share: weights and policies, none of which changes while they run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cache.dual_scope import DualScope
from cache.layer_plan import EveryLayer, LayerPolicy
from cache.storage import Dense, NewStorage
from cache.types import CachePolicy, NoisePlan, PositionPolicy, SwitchPolicy, WindowPolicy
from models.autoencoder import Autoencoder
from models.transformer import Transformer
from pipelines.conditioning import Conditioner
from pipelines.presets.base import Guidance, VideoEntry

if TYPE_CHECKING:
    from torch import Tensor


class Sigmas(Protocol):
    """Which sigma a timestep means; FlowMatchSchedule and UniPCSchedule are such."""

    def sigma(self, timestep: float) -> float: ...


@dataclass(frozen=True, slots=True)
class Policies:
    """What tells one system from another."""

    plan: NoisePlan
    cache: CachePolicy
    window: WindowPolicy
    position: PositionPolicy
    switch: SwitchPolicy
    schedule: Sigmas
    clean_level: float = 0.0
    guidance_scale: float = 1.0
    guidance: Guidance = "full"
    guidance_delta: float = 1.0
    video: VideoEntry = VideoEntry()  # noqa: RUF009  # frozen
    layers: LayerPolicy = EveryLayer()  # noqa: RUF009  # frozen, without a field
    scope: DualScope | None = None


@dataclass(frozen=True, slots=True)
class Engine:
    """What all streams of a process share: weights and policies, none of which changes.

    `storage` makes what holds a lane's keys and values. `corrections` are of a feature cache that goes by a profile,
    [count, 2, E]: factor and offset of every channel.
    """

    transformer: Transformer
    conditioner: Conditioner
    policies: Policies
    autoencoder: Autoencoder | None = None
    fps: int = 16
    drift_spreads: tuple[float, ...] | None = None
    storage: NewStorage = Dense
    corrections: Tensor | None = None
