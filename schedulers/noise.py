"""Noise that has an address: the same (seed, stream, frame, level, purpose) always gives the same numbers.

"The next randn" depends on who drew before; an address does not, so that one process, a pipeline of them, a
restart and a replay see the same film. Philox is counter-based and takes the hashed address as its key
(Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Address:
    """Where a draw belongs.

    Attributes:
        seed: of the whole take, any 64-bit integer.
        stream: which stream of the take; films side by side in a batch count on from it.
        frame: absolute latent frame.
        level: timestep (0..1000) the noise is for.
        purpose: what it is used for, such as "initial" or "renoise".
    """

    seed: int
    stream: int
    frame: int
    level: float
    purpose: str

    def key(self) -> int:
        """A 128-bit number that every process and machine computes alike (Python's hash() would not)."""
        try:
            # + 0.0 turns -0.0 into 0.0; the one field of variable length stands last
            fields = struct.pack("<qqqd", self.seed, self.stream, self.frame, float(self.level) + 0.0)
        except struct.error as error:
            raise ValueError(f"seed, stream and frame must be 64-bit integers, got {self}") from error
        digest = hashlib.blake2b(fields + self.purpose.encode(), digest_size=16, person=b"rivulet-noise")
        return int.from_bytes(digest.digest(), "little")


def uniform(address: Address) -> float:
    """One number from 0 to below 1 for a decision left to chance."""
    return float(np.random.Generator(np.random.Philox(key=address.key())).random())


class NoiseSource(Protocol):
    """Where the engine gets its noise from: one address a latent frame."""

    def frames(self, addresses: Sequence[Address], shape: Sequence[int]) -> Tensor:
        """Standard normal noise of `shape` = [B, C, H, W] for each address: [B, F, C, H, W], float32, CPU."""
        ...


class AddressedNoise:
    """Noise computed from addresses; it keeps no state."""

    def normal(self, address: Address, shape: Sequence[int]) -> Tensor:
        """One draw of any shape, float32 on the CPU.

        numpy promises its normal distribution per release, not for ever: equal numpy, equal numbers.
        """
        generator = np.random.Generator(np.random.Philox(key=address.key()))
        return torch.as_tensor(generator.standard_normal(tuple(shape), dtype=np.float32))

    def frames(self, addresses: Sequence[Address], shape: Sequence[int]) -> Tensor:
        """One latent frame [C, H, W] a draw, as [B, F, C, H, W]; film b is stream `address.stream + b`."""
        batch, *one = shape
        draws = [
            self.normal(replace(address, stream=address.stream + film), one)
            for film in range(batch)
            for address in addresses
        ]
        return torch.stack(draws).reshape(batch, len(addresses), *one)


class RecordedNoise:
    """Parity mode: feeds noise that another system drew.

    The first noise of a frame is looked up by its number, since a recording holds it in one piece; every
    other draw must come in the recorded order and shape.

    Args:
        draws: recorded draws in order, each [B * F, C, H, W], frames of a call flattened, batch major.
        initial: first noise of all generated frames, [B, F, C, H, W]; None if it is among `draws`.
        first_frame: absolute number of the first frame in `initial` (frames before it were given).
    """

    def __init__(self, draws: Iterable[Tensor], *, initial: Tensor | None = None, first_frame: int = 0) -> None:
        self._draws = list(draws)
        self._initial = initial
        self._first_frame = first_frame
        self.used = 0

    @property
    def left(self) -> int:
        """Recorded draws that nobody asked for yet."""
        return len(self._draws) - self.used

    def frames(self, addresses: Sequence[Address], shape: Sequence[int]) -> Tensor:
        """The next recorded draw as [B, F, C, H, W]; ValueError when exhausted or of another shape."""
        if self._initial is not None and addresses[0].purpose == "initial":
            return self._first_noise(addresses, shape)
        if self.used == len(self._draws):
            raise ValueError(f"all {len(self._draws)} recorded draws are used: {addresses[0]} has none")
        draw = self._draws[self.used]
        wanted = (shape[0] * len(addresses), *shape[1:])
        if tuple(draw.shape) != wanted:
            raise ValueError(f"recorded draw {self.used} has shape {tuple(draw.shape)}, the engine asks for {wanted}")
        self.used += 1
        return draw.reshape(shape[0], len(addresses), *shape[1:])

    def _first_noise(self, addresses: Sequence[Address], shape: Sequence[int]) -> Tensor:
        assert self._initial is not None
        frames = [address.frame - self._first_frame for address in addresses]
        recorded = self._initial.shape
        if min(frames) < 0 or max(frames) >= recorded[1]:
            raise ValueError(
                f"first noise is recorded for {recorded[1]} frames from {self._first_frame} on, "
                f"the engine asks for frames {addresses[0].frame}..{addresses[-1].frame}"
            )
        if (recorded[0], *recorded[2:]) != tuple(shape):
            raise ValueError(
                f"first noise is recorded as {tuple(recorded)}, the engine asks for frames of {tuple(shape)}"
            )
        return self._initial[:, frames]
