"""What the loop computes from its state and keeps between passes; it can be made anew, so no snapshot holds it."""

from __future__ import annotations

import torch
from torch import Tensor

from cache.rope import rotary_tables
from pipelines.conditioning import TextState
from pipelines.engine import Engine

LayerKeys = list[tuple[Tensor, Tensor]]
"""Per layer: keys and values of a text, each [B, L, N, D]."""

_TABLES_KEPT = 4
"""The passes of a chunk ask for one or two sets of positions over and over."""


class TextKeys:
    """Text keys of the version in force and of the empty prompt, made once each."""

    def __init__(self, engine: Engine, batch: int) -> None:
        self._engine, self._batch = engine, batch
        self._known: tuple[int, LayerKeys] | None = None
        self._bare: LayerKeys | None = None

    def reset(self) -> None:
        """Versions may mean other texts from now on."""
        self._known = None

    def of(self, text: TextState, rows: int = 1) -> LayerKeys:
        """Of the text in force, for so many rows in one batch."""
        if self._known is None or self._known[0] != text.version:
            assert text.embeds is not None  # a prompt comes before the first pass
            self._known = text.version, self._keys(text.embeds)
        return _for_rows(self._known[1], rows)

    def without_prompt(self, rows: int = 1) -> LayerKeys:
        """Of the empty prompt, for guidance."""
        if self._bare is None:
            self._bare = self._keys(self._engine.conditioner.embed("").to(*self._engine.transformer.expects))
        return _for_rows(self._bare, rows)

    def _keys(self, embeds: Tensor) -> LayerKeys:
        embeds = embeds.expand(self._batch, -1, -1) if embeds.shape[0] == 1 else embeds
        return self._engine.transformer.text_keys(embeds)


def _for_rows(keys: LayerKeys, rows: int) -> LayerKeys:
    if rows == 1:
        return keys
    return [(k.expand(rows, *k.shape).flatten(0, 1), v.expand(rows, *v.shape).flatten(0, 1)) for k, v in keys]


class RotaryTables:
    """Cosine and sine of the last few sets of query positions.

    Args:
        grid: rows and columns of tokens in a frame.
        head_dim: channels of one attention head.
        device: where the tables go.
        dtype: of the model.
    """

    def __init__(self, grid: tuple[int, int], head_dim: int, device: torch.device, dtype: torch.dtype) -> None:
        self._grid, self._head_dim, self._device = grid, head_dim, device
        self._dtype = torch.promote_types(dtype, torch.float32)
        self._known: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    def of(self, rows: tuple[tuple[int, ...], ...], batch: int) -> tuple[Tensor, Tensor]:
        """For rows of frames at these positions: [F * T, D / 2] if all stand alike, or [rows * batch, F * T, D / 2]."""
        if len(set(rows)) == 1:
            return self._table(rows[0])
        tables = [self._table(positions) for positions in rows]
        cos, sin = (torch.stack(part).repeat_interleave(batch, 0) for part in zip(*tables, strict=True))
        return cos, sin

    def _table(self, positions: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        if positions not in self._known:
            while len(self._known) >= _TABLES_KEPT:
                del self._known[next(iter(self._known))]
            self._known[positions] = rotary_tables(
                positions, *self._grid, self._head_dim, device=self._device, dtype=self._dtype
            )
        return self._known[positions]
