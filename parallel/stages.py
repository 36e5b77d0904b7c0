"""Stages of a model whose layers lie on several ranks: what one rank runs of a pass, and what it sends on.

Ranks agree on the integers of every pass, so a message is nothing but the residual stream, or the flow at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn

from models.transformer import Batch
from models.wan import CausalWanTransformer3DModel
from parallel.link import Link


def keep_layers(model: CausalWanTransformer3DModel, layers: range) -> None:
    """Let go of the weights of all other layers; those that stay are counted from 0."""
    if len(model.blocks) > len(layers):
        model.blocks = nn.ModuleList([model.blocks[layer] for layer in layers])


class Coming(Sequence[Tensor]):
    """Flows that the last rank sends in order, each waited for when it is taken.

    Args:
        link: to the other ranks.
        like: tensors of their shapes; an empty one stands for a flow that nobody asked for, and none comes.
    """

    def __init__(self, link: Link, like: Sequence[Tensor]) -> None:
        self._flows: list[tuple[Tensor, list[Any]]] = []
        for each in like:
            room = torch.empty_like(each, memory_format=torch.contiguous_format)
            self._flows.append((room, link.expect(room, link.size - 1) if room.numel() else []))
        self._link = link

    def __len__(self) -> int:
        return len(self._flows)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Tensor]: ...

    def __getitem__(self, index: int | slice) -> Tensor | Sequence[Tensor]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        flow, works = self._flows[index]
        self._link.wait(works)
        works.clear()
        return flow


class StageRunner:
    """One rank's layers.

    Args:
        model: with no layers but its own.
        link: to the other ranks, in the order of the layers.
    """

    def __init__(self, model: CausalWanTransformer3DModel, link: Link) -> None:
        self._model, self._link = model, link

    def run(self, batches: Sequence[Batch]) -> Sequence[Tensor]:
        """The flow of each batch, on every rank; those of the last rank are waited for one by one."""
        link, last = self._link, self._link.size - 1
        flows: list[Tensor] = []
        for batch in batches:
            hidden, times = self._enter(batch)
            if link.rank:
                hidden = link.receive(hidden, link.rank - 1)
            memory, layers = batch.memory, batch.layers
            hidden = self._model.through(hidden, times[1], batch.text, batch.rotary, memory, layers=layers)
            if link.rank < last:
                link.send("residual streams", hidden, link.rank + 1)
            elif layers.flow:
                flow = self._model.unpatched(self._model.head(hidden, times[0]), batch.latents.shape).contiguous()
                for rank in range(last):
                    link.send("flows", flow, rank)
                flows.append(flow)
        if link.rank == last:
            coming = iter(flows)
            return [next(coming) if batch.layers.flow else batch.latents[:, :, :0] for batch in batches]
        return Coming(link, [batch.latents if batch.layers.flow else batch.latents[:, :, :0] for batch in batches])

    def _enter(self, batch: Batch) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """What enters our first layer, or room of that size, and the embedded timesteps."""
        model = self._model
        if self._link.rank:
            rows, columns = model.grid(*batch.latents.shape[-2:])
            width = model.config["num_attention_heads"] * model.config["attention_head_dim"]
            tokens = batch.latents.shape[2] * rows * columns
            hidden = batch.latents.new_empty((len(batch.latents), tokens, width))
        else:
            hidden = model.embed(batch.latents)
        return hidden, model.embed_time(batch.timestep, hidden)
