"""What one layer of the model gets to see and fill: the border between memory and attention, in plain tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class LayerMemory(NamedTuple):
    """What one layer attends to, as plain tensors that the pass writes its own part of.

    `keys` and `values` are [B, K, N, D]: remembered frames first (keys already rotated), then room for the pass's
    own tokens from `own` on. `staged_keys` and `staged_values` [B, S, N, D] take what the pass produced, keys
    un-rotated, where that has to wait until the pass is over; `leave`, called with both after the attention, puts what
    need not wait where it belongs. `first` is the first of its own tokens that the pass attends to. `bias` [K] is added
    to the logits. `observe` is called with the rotated queries before they attend, where content decides what stays.
    `fill`, called before anything else, brings what is remembered into `keys` and `values` where layers share them, and
    is told whether tokens that the pass chooses are there already. `scope` names, for each frame of the queries, those
    of the pass's own frames that it sees beside what is remembered; None: all.
    """

    keys: Tensor
    values: Tensor
    staged_keys: Tensor | None
    staged_values: Tensor | None
    own: int
    first: int = 0
    bias: Tensor | None = None
    observe: Callable[[Tensor], None] | None = None
    fill: Callable[[bool], None] | None = None
    leave: Callable[[Tensor, Tensor], None] | None = None
    scope: tuple[tuple[int, ...], ...] | None = None

    def read_only(self) -> LayerMemory:
        """The same keys for a pass that leaves nothing behind, such as the one without the prompt."""
        return self._replace(staged_keys=None, staged_values=None, observe=None, leave=None)
