"""Which tokens of the past stay: chosen in every layer by content, in the middle of the pass that asks.

A selection knows of every remembered token where it came from, keeps the last frames' queries, and carries out a
policy's Prune: score, take the best, close ranks, all on the device. How many are kept is an integer that the
policy decided, so nothing here waits for a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cache.companion import Companion
from cache.kv_shape import KVShape
from cache.rope import rotary_tables_at, rotate
from cache.slots import Change, Choose, Put
from cache.storage import Storage
from cache.types import TokenScorer

FRAME, ROW, COLUMN, USES = range(4)


class Selection(Companion):
    """Token-level bookkeeping of one store of keys.

    `index` [layers, B, capacity, T, 4] says of each remembered token its frame, row, column and how often it was
    chosen; `queries` [layers, B, keep_q, N, D] are the rotated queries of the last frames, summed over each frame's
    tokens: whole, they would be 575 MB at 1.3B and 480p, and scores that add logits up need no more.

    Args:
        scorer: judges the tokens.
        storage: of the store.
        shape: its sizes.
        device: where it lies.
        dtype: of its keys and values.
    """

    def __init__(
        self, scorer: TokenScorer, storage: Storage, shape: KVShape, device: torch.device, dtype: torch.dtype
    ) -> None:
        s, self._scorer, self._storage = shape, scorer, storage
        raster = torch.arange(s.tokens, device=device, dtype=torch.int32)
        self._grid = torch.stack([torch.zeros_like(raster), raster // s.columns, raster % s.columns, raster * 0], dim=1)
        self.index = torch.zeros((s.layers, s.batch, s.capacity, s.tokens, 4), dtype=torch.int32, device=device)
        self._dtype = torch.promote_types(dtype, torch.float32)  # sums of a thousand tokens need it
        queries = (s.layers, s.batch, scorer.keep_q, s.heads, s.head_dim)
        self.queries = torch.zeros(queries, dtype=self._dtype, device=device)
        self._candidates: tuple[int, ...] = ()
        self._kept: tuple[int, ...] = ()

    def reset(self) -> None:
        """Forget the queries; what is written from now on is indexed anew."""
        self.queries.zero_()
        self.staged()

    def changed(self, change: Change) -> None:
        match change:
            case Put(frame, _, place):
                self.index[:, :, place].copy_(self._grid)
                self.index[:, :, place, :, FRAME] = frame
            case Choose(candidates, kept):
                if self._candidates:
                    raise ValueError(
                        "the memory was asked to prune twice before a pass: prune once, over all candidates"
                    )
                self._candidates, self._kept = candidates, kept
            case _:
                pass

    def staged(self) -> None:
        """Nothing is to be chosen any more."""
        self._candidates, self._kept = (), ()

    def restored(self, data: Mapping[str, Any], places: Sequence[int]) -> None:
        self.staged()

    @property
    def coming(self) -> tuple[int, ...]:
        """Places whose tokens are chosen in the coming pass."""
        return self._kept

    def tables(self, layers: slice, place: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine [layers, B, T, D / 2] of the tokens at `place`, each at the frame it came from."""
        return self._tables(self.index[layers, :, place])

    def _tables(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return rotary_tables_at(index[..., :USES], self.queries.shape[-1], dtype=self._dtype)

    def observe(self, layer: int, queries: Tensor, view_keys: Tensor, view_values: Tensor) -> None:
        """Called in a layer with the pass's rotated queries [B, S, N, D], before its attention.

        Args:
            layer: which.
            queries: of the pass.
            view_keys: where the rotated keys of the chosen tokens go, [B, kept * T, N, D].
            view_values: where their values go.
        """
        self._keep_queries(layer, queries)
        if not self._candidates:
            return
        layers, candidates = slice(layer, layer + 1), self._candidates
        # Numbers that the host knows stay there: an index tensor would have to be sent to the device, and waited for.
        held = torch.stack([self._storage.read(place, layers)[:, 0] for place in candidates], dim=2).flatten(2, 3)
        keys, values = held.unbind()
        index = torch.stack([self.index[layer][:, place] for place in candidates], dim=1).flatten(1, 2)
        rotated = rotate(keys, *self._tables(index))
        scores = self._scorer.score(layer, self.queries[layer], rotated, values, index[..., USES])
        tokens = self._grid.shape[0]
        count = len(self._kept) * tokens
        chosen = scores.topk(count, dim=1).indices.sort(dim=1).values

        def take(x: Tensor) -> Tensor:
            where = chosen.reshape(*chosen.shape, *(1,) * (x.ndim - 2)).expand(-1, -1, *x.shape[2:])
            return x.gather(1, where)

        index = take(index)
        index[..., USES] += 1
        kept = torch.stack([take(keys), take(values)])
        view_keys.copy_(take(rotated))
        view_values.copy_(kept[1])
        for number, place in enumerate(self._kept):
            part = slice(number * tokens, (number + 1) * tokens)
            self._storage.write(place, kept[:, None, :, part], layers)
            self.index[layer][:, place].copy_(index[:, part])

    def _keep_queries(self, layer: int, queries: Tensor) -> None:
        by_frame = torch.unflatten(queries, 1, (-1, self._grid.shape[0]))
        frames = by_frame.sum(dim=2, dtype=self._dtype)
        kept = torch.cat([self.queries[layer], frames], dim=1)
        self.queries[layer].copy_(kept[:, kept.shape[1] - self.queries.shape[2] :])

    def tensors(self) -> dict[str, Tensor]:
        """All that a snapshot has to hold."""
        return {"index": self.index, "queries": self.queries}
