"""Stages of a model whose layers lie on several ranks: what one rank runs of a pass, and what it sends on.

Ranks agree on the integers of every pass, so a message is nothing but the residual stream, or the flow at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from models.transformer import Batch
from models.wan import CausalWanTransformer3DModel
from parallel.link import Link


def keep_layers(model: CausalWanTransformer3DModel, layers: range) -> None:
    """Let go of the weights of all other layers; those that stay are counted from 0."""
    if len(model.blocks) > len(layers):
        model.blocks = nn.ModuleList([model.blocks[layer] for layer in layers])


class StageRunner:
    """One rank's layers.

    Args:
        model: with no layers but its own.
        link: to the other ranks, in the order of the layers.
    """

    def __init__(self, model: CausalWanTransformer3DModel, link: Link) -> None:
        self._model, self._link = model, link

    def run(self, batches: Sequence[Batch]) -> list[Tensor]:
        """The flow of each batch, on every rank."""
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
        if link.rank < last:
            flows = [link.receive(batch.latents, last) for batch in batches if batch.layers.flow]
        coming = iter(flows)
        return [next(coming) if batch.layers.flow else batch.latents[:, :, :0] for batch in batches]

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
