"""Which tokens of the past stay: chosen in every layer by content, in the middle of the pass that asks.

A selection knows of every remembered token where it came from, keeps the last frames' queries, and carries out a
policy's Prune: score, take the best, close ranks, all on the device. How many are kept is an integer that the
policy decided, so nothing here waits for a number.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cache.rope import rotary_tables_at, rotate
from cache.types import TokenScorer

FRAME, ROW, COLUMN, USES = range(4)


def gathered(frames: Tensor, places: Sequence[int]) -> Tensor:
    """The tokens of the frames at `places` of [B, capacity, T, ...], [B, len(places) * T, ...].

    Numbers that the host knows stay there: an index tensor would have to be sent to the device, and waited for.
    """
    return torch.stack([frames[:, place] for place in places], dim=1).flatten(1, 2)


class Selection:
    """Token-level bookkeeping of one store of keys.

    `index` [layers, B, capacity, T, 4] says of each remembered token its frame, row, column and how often it was
    chosen; `queries` [layers, B, keep_q, N, D] are the rotated queries of the last frames, summed over each frame's
    tokens: whole, they would be 575 MB at 1.3B and 480p, and scores that add logits up need no more.

    Args:
        scorer: judges the tokens.
        keys: the store's allocation, [layers, B, capacity, T, N, D].
        values: the same.
        columns: tokens in a row of a frame.
    """

    def __init__(self, scorer: TokenScorer, keys: Tensor, values: Tensor, columns: int) -> None:
        layers, batch, capacity, tokens, heads, head_dim = keys.shape
        self._scorer, self._keys, self._values = scorer, keys, values
        device = keys.device
        raster = torch.arange(tokens, device=device, dtype=torch.int32)
        self._grid = torch.stack([torch.zeros_like(raster), raster // columns, raster % columns, raster * 0], dim=1)
        self.index = torch.zeros((layers, batch, capacity, tokens, 4), dtype=torch.int32, device=device)
        self._dtype = torch.promote_types(keys.dtype, torch.float32)  # sums of a thousand tokens need it
        self.queries = torch.zeros((layers, batch, scorer.keep_q, heads, head_dim), dtype=self._dtype, device=device)
        self._candidates: tuple[int, ...] = ()
        self._kept: tuple[int, ...] = ()

    def reset(self) -> None:
        """Forget the queries; what is written from now on is indexed anew."""
        self.queries.zero_()
        self.done()

    def written(self, place: int, frame: int) -> None:
        """A whole frame now lies at `place`."""
        self.index[:, :, place].copy_(self._grid)
        self.index[:, :, place, :, FRAME] = frame

    def ask(self, candidates: Sequence[int], keep: int) -> None:
        """In the coming pass, keep the best tokens of the frames at `candidates`, in the first `keep` of these."""
        if self._candidates:
            raise ValueError("the memory was asked to prune twice before a pass: prune once, over all candidates")
        self._candidates = tuple(candidates)
        self._kept = self._candidates[:keep]

    def done(self) -> None:
        """The pass is over."""
        self._candidates, self._kept = (), ()

    @property
    def coming(self) -> tuple[int, ...]:
        """Places whose tokens are chosen in the coming pass."""
        return self._kept

    def tables(self, layers: slice, place: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine [layers, B, T, D / 2] of the tokens at `place`, each at the frame it came from."""
        return self._tables(self.index[layers, :, place])

    def _tables(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return rotary_tables_at(index[..., :USES], self._keys.shape[-1], dtype=self._dtype)

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
        keys, values, index = (gathered(x[layer], self._candidates) for x in (self._keys, self._values, self.index))
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
        view_keys.copy_(take(rotated))
        view_values.copy_(take(values))
        for store, kept in ((self._keys, take(keys)), (self._values, take(values)), (self.index, index)):
            for place, frame in zip(self._kept, kept.unflatten(1, (-1, tokens)).unbind(1), strict=True):
                store[layer][:, place].copy_(frame)

    def _keep_queries(self, layer: int, queries: Tensor) -> None:
        frames = queries.unflatten(1, (-1, self._grid.shape[0])).sum(dim=2, dtype=self._dtype)
        kept = torch.cat([self.queries[layer], frames], dim=1)
        self.queries[layer].copy_(kept[:, kept.shape[1] - self.queries.shape[2] :])

    def tensors(self) -> dict[str, Tensor]:
        """All that a snapshot has to hold."""
        return {"index": self.index, "queries": self.queries}
