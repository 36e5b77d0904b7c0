"""Everything about a stream that changes, in one object, so that it can be copied, put back and branched.

Modules and policies hold no state. Snapshots are taken between chunks; restoring copies into the buffers that are
allocated already, and what is derived from them (rotated keys, text keys) is made anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from cache.kv import KVStore
from cache.residuals import Residuals
from pipelines.conditioning import TextState
from pipelines.drift import DriftState
from pipelines.tree import Tree, check, copied, moved, nbytes, put_back
from pipelines.video_state import VideoState


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

    def tensors(self) -> dict[str, Tensor]:
        return {"ring": self.ring}

    def data(self) -> dict[str, Tree]:
        return {}

    def restored(self, data: Mapping[str, Tree]) -> None:
        pass


@dataclass(slots=True)
class StreamState:
    """Where a stream stands. A field more is a line here and nothing elsewhere (pipelines/tree.py).

    `cur` is the next latent frame, `chunk` the next chunk's number, `epoch` counts cuts. `switches` are the latent
    frames at which the prompt changed. `latents` are the last finished frames, `flight` those on their way from noise,
    and `levels` the timesteps at which these stand, from frame `cur` on. `scene` is the first frame since the last
    cut. `residuals` is what passes left on their way through the layers, a lane each, `decoder` the autoencoder's
    memory. `scale` is the share of noise with which frames from a camera last entered.

    `encoder`, `origin` and `video` are of streams that are open for video: the autoencoder's memory of the pictures,
    their clean latents while they are in flight, and what the way in and out goes on from.
    """

    seed: int
    stream: int
    kv: list[KVStore]
    latents: Latents
    flight: Latents
    residuals: list[Residuals]
    decoder: list[Tensor]
    encoder: list[Tensor] = field(default_factory=list[Tensor])
    origin: list[Latents] = field(default_factory=list[Latents])
    video: VideoState = field(default_factory=VideoState)
    levels: tuple[float, ...] = ()
    text: TextState = field(default_factory=TextState)
    drift: DriftState = field(default_factory=DriftState)
    epoch: int = 0
    chunk: int = 0
    cur: int = 0
    scene: int = 0
    switches: tuple[int, ...] = ()
    scale: float | None = None

    def snapshot(self, device: torch.device | str | None = None) -> Snapshot:
        """A copy that later chunks do not change, on `device`, or where the state lies."""
        return Snapshot({each.name: copied(getattr(self, each.name), device) for each in fields(self)})

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot of a stream of the same preset, model and size, on whatever device it lies.

        Raises:
            ValueError: it is another's; nothing has changed.
        """
        names, theirs = [each.name for each in fields(self)], snapshot.tree
        if missing := [name for name in names if name not in theirs]:
            raise ValueError(f"the snapshot lacks {', '.join(missing)}: another version made it, begin the film anew")
        for name in names:
            check(getattr(self, name), theirs[name], name)
        device = self.latents.ring.device
        for name in names:
            setattr(self, name, put_back(getattr(self, name), theirs[name], device))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of a StreamState between two chunks, by the names of its fields; it shares nothing with the stream."""

    tree: Mapping[str, Tree]

    def to(self, device: torch.device | str) -> Snapshot:
        """The same with its tensors on another device."""
        return Snapshot(moved(self.tree, device))

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return nbytes(self.tree)
