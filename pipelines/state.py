"""Everything about a stream that changes, in one object, so that it can be copied, put back and branched.

Modules and policies hold no state. Snapshots are taken between chunks; restoring copies into the buffers that are
allocated already, and what is derived from them (rotated keys, text keys) is made anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from cache.kv import KVStore
from pipelines.conditioning import TextState
from pipelines.drift import DriftState


class Latents:
    """The last `size` latent frames put in, found by their number in the film: `ring` is [B, size, C, H, W].

    Args:
        shape: [B, C, H, W] of one latent frame.
        size: frames kept.
        device: where they live.
        dtype: of the latents.
    """

    def __init__(self, shape: tuple[int, ...], size: int, device: torch.device | str, dtype: torch.dtype) -> None:
        self.ring = torch.zeros((shape[0], size, *shape[1:]), device=device, dtype=dtype)
        self.size = size

    def put(self, frames: range, latents: Tensor) -> None:
        """Keep `latents` [B, F, C, H, W] of `frames`."""
        for index, frame in enumerate(frames):
            self.ring[:, frame % self.size].copy_(latents[:, index])

    def get(self, frames: range) -> Tensor:
        """[B, F, C, H, W] of frames that are among the last `size`."""
        if not frames:
            return self.ring[:, :0]
        return torch.stack([self.ring[:, frame % self.size] for frame in frames], dim=1)

    def snapshot(self) -> Tensor:
        return self.ring.clone()

    def restore(self, ring: Tensor) -> None:
        self.ring.copy_(ring)


@dataclass(slots=True)
class StreamState:
    """Where a stream stands.

    `cur` is the next latent frame, `chunk` the next chunk's number, `epoch` counts cuts. `switches` are the latent
    frames at which the prompt changed. `latents` are the last finished frames, `flight` those on their way from noise,
    and `levels` the timesteps at which these stand, from frame `cur` on. `scene` is the first frame since the last
    cut. `decoder` is the autoencoder's memory. `scale` is the share of noise with which frames from a camera last
    entered: a noise controller goes on from it.
    """

    seed: int
    stream: int
    kv: list[KVStore]
    latents: Latents
    flight: Latents
    decoder: list[Tensor]
    levels: tuple[float, ...] = ()
    text: TextState = field(default_factory=TextState)
    drift: DriftState = field(default_factory=DriftState)
    epoch: int = 0
    chunk: int = 0
    cur: int = 0
    scene: int = 0
    switches: tuple[int, ...] = ()
    scale: float | None = None

    def snapshot(self) -> Snapshot:
        """A copy that later chunks do not change."""
        return Snapshot(
            seed=self.seed,
            stream=self.stream,
            kv=tuple(store.snapshot() for store in self.kv),
            latents=self.latents.snapshot(),
            flight=self.flight.snapshot(),
            levels=self.levels,
            decoder=tuple(tensor.clone() for tensor in self.decoder),
            text=self.text,
            drift=self.drift,
            epoch=self.epoch,
            chunk=self.chunk,
            cur=self.cur,
            scene=self.scene,
            switches=self.switches,
            scale=self.scale,
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot of a stream of the same preset, model and size; ValueError if it is another's."""
        if len(snapshot.kv) != len(self.kv):
            raise ValueError(
                f"the snapshot has {len(snapshot.kv)} memory lanes, this stream {len(self.kv)}: "
                "restore it into a stream of the same preset"
            )
        ours = [(tuple(tensor.shape), tensor.dtype) for tensor in (self.latents.ring, self.flight.ring, *self.decoder)]
        theirs = [(tuple(t.shape), t.dtype) for t in (snapshot.latents, snapshot.flight, *snapshot.decoder)]
        if ours != theirs:  # asked before anything is changed
            raise ValueError(
                f"the snapshot's latents are {theirs[0]}, this stream's are {ours[0]}, or their decoders differ: "
                "restore it into a stream of the same preset, model, size and precision"
            )
        for store, saved in zip(self.kv, snapshot.kv, strict=True):
            store.restore(saved)
        self.latents.restore(snapshot.latents)
        self.flight.restore(snapshot.flight)
        self.levels = snapshot.levels
        self.decoder = [tensor.clone() for tensor in snapshot.decoder]
        self.seed, self.stream = snapshot.seed, snapshot.stream
        self.text, self.drift = snapshot.text, snapshot.drift
        self.epoch, self.chunk, self.cur = snapshot.epoch, snapshot.chunk, snapshot.cur
        self.scene, self.switches = snapshot.scene, snapshot.switches
        self.scale = snapshot.scale


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of a StreamState between two chunks; same fields, nothing shared with the stream."""

    seed: int
    stream: int
    kv: tuple[dict[str, object], ...]
    latents: Tensor
    flight: Tensor
    levels: tuple[float, ...]
    decoder: tuple[Tensor, ...]
    text: TextState
    drift: DriftState
    epoch: int
    chunk: int
    cur: int
    scene: int
    switches: tuple[int, ...]
    scale: float | None
