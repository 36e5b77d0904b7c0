"""What all streams of a process share: weights and policies, none of which changes while they run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cache.storage import Dense, NewStorage
from cache.types import CachePolicy, NoisePlan, PositionPolicy, SwitchPolicy, WindowPolicy
from models.wan import CausalWanTransformer3DModel
from pipelines.conditioning import Conditioner


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


class Autoencoder(Protocol):
    """What the loop asks of an autoencoder; AutoencoderTAEHV and WanVAEStream are such.

    The first tensor of a decoder's state counts the latent frames it has seen, int64 on the CPU.
    """

    spatial_scale: int

    def init_decode_state(self, batch: int, h: int, w: int, device: torch.device | str = "cpu") -> list[Tensor]: ...

    def decode_stream(self, latents: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]: ...


@dataclass(frozen=True, slots=True)
class Engine:
    """What all streams of a process share: weights and policies, none of which changes.

    `storage` makes what holds a lane's keys and values.
    """

    transformer: CausalWanTransformer3DModel
    conditioner: Conditioner
    policies: Policies
    autoencoder: Autoencoder | None = None
    fps: int = 16
    drift_spreads: tuple[float, ...] | None = None
    storage: NewStorage = Dense
