"""What entered one layer, kept for every remembered frame, so that a replay can begin there instead of at the latents.

How far such a shortened replay moved the keys of its first layer says whether the layers it left out had to be run as
well; the number travels to the host while the chunk is made and is read at the next one's start.
"""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor

from cache.layer import Entrance


class Entering:
    """Inputs of the layer below `from_layer`: they determine its own keys, and it is the first to run.

    `first` is the first layer whose keys the pass in hand writes. `moved` is what `look_back` found, until a pass runs.

    Args:
        from_layer: the first layer whose keys a shortened replay writes; 0 = replays are whole, and nothing is kept.
        keys: the store's allocation, [layers, B, capacity, T, N, D].
        own: latent frames of the longest pass.
    """

    def __init__(self, from_layer: int, keys: Tensor, own: int) -> None:
        layers, batch, capacity, tokens, heads, head_dim = keys.shape
        if not 0 <= from_layer < max(1, layers):
            raise ValueError(f"a shortened replay begins at layer 1 to {layers - 1} of this model, not {from_layer}")
        self._from_layer, self._size, self._tokens = from_layer, capacity, tokens
        kept = from_layer > 0
        self._inputs = keys.new_zeros(batch, kept * capacity, tokens, heads * head_dim)
        self._staged = keys.new_zeros(batch, kept * own * tokens, heads * head_dim)
        self._sums = keys.new_zeros(2, dtype=torch.float32)
        cuda = kept and keys.device.type == "cuda"
        self._host = torch.zeros(2, pin_memory=cuda)
        self._arrives = torch.cuda.Event() if cuda else None
        self.reset()

    def reset(self) -> None:
        """Nothing was compared."""
        self._sums.zero_()
        self._compared = self._sent = False
        self.first, self.moved = 0, None

    def entrance(self, frames: range, first: int) -> Entrance | None:
        """For a pass of `frames` that writes layers from `first` on: where it leaves or takes what enters the layer."""
        if first not in (0, self._from_layer):
            raise ValueError(f"the memory keeps nothing to begin a replay from layer {first} on: replay all layers")
        self.first, self.moved = first, None
        if not self._from_layer:
            return None
        if not first:
            return Entrance(self._from_layer - 1, self._staged[:, : len(frames) * self._tokens])
        index = torch.tensor([frame % self._size for frame in frames], device=self._inputs.device)
        return Entrance(first - 1, self._inputs.index_select(1, index).flatten(1, 2), begins=True)

    def written(self, frame: int, tokens: slice, place: int, keys: Tensor, staged: Tensor) -> None:
        """The pass's `tokens` are remembered as `frame`, their `staged` keys in place of the `keys` at `place`."""
        if self.first:
            before, after = keys[self.first][:, place], staged[self.first][:, tokens]
            self._sums += torch.stack([(after - before).float().square().sum(), before.float().square().sum()])
            self._compared = True
        elif self._from_layer:
            self._inputs[:, frame % self._size].copy_(self._staged[:, tokens])

    def send(self) -> None:
        """The pass is over: let what was compared travel."""
        if self._compared:
            self._host.copy_(self._sums, non_blocking=True)
            if self._arrives is not None:
                self._arrives.record()
            self._compared, self._sent = False, True

    def look_back(self) -> bool:
        """Read, once, what the last shortened replay found: the root of its keys' squared change over their squares."""
        if not self._sent:
            return False
        if self._arrives is not None:
            self._arrives.synchronize()
        change, size = self._host.tolist()
        self.reset()
        self.moved = sqrt(change / size) if size else None
        return self.moved is not None

    def tensors(self) -> dict[str, Tensor]:
        """What lasts from chunk to chunk."""
        return {"entering": self._inputs, "moved": self._sums} if self._from_layer else {}

    def restored(self) -> None:
        """The tensors are a snapshot's."""
        self._host.copy_(self._sums)
        self._compared, self._sent, self.first, self.moved = False, True, 0, None
