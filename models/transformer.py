"""What the loop asks of a denoising transformer, and how the rows of a pass are run through one.

Between the two lies the seam for everything that spreads a model over devices: a runner gets what goes into the layers
and gives back what comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from cache.layer import LayerMemory
from cache.layer_plan import EVERY, LayerPlan

TextKV = Sequence[tuple[Tensor, Tensor]]
"""Per layer: keys and values of the text, each [B, L, N, D]."""


class Transformer(Protocol):
    """A network that predicts the flow of latent frames beside a memory of others; CausalWanTransformer3DModel is one.

    Of its `config` the loop reads in_channels, num_layers, num_attention_heads and attention_head_dim.
    """

    @property
    def config(self) -> Mapping[str, Any]: ...

    @property
    def expects(self) -> tuple[torch.device, torch.dtype]:
        """Where latents and text have to be, and in which precision."""
        ...

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tokens for a latent of that size; ValueError if it cannot be cut."""
        ...

    def text_keys(self, prompt_embeds: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of a text [B, L, text_dim] for every layer."""
        ...

    def __call__(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        text_kv: TextKV,
        rotary: tuple[Tensor, Tensor],
        memory: Sequence[LayerMemory] | None = ...,
        *,
        layers: LayerPlan = ...,
        buffers: Sequence[Tensor] = ...,
    ) -> Tensor:
        """The flow [R, C, F, H, W], of no frame if `layers` asks for none; see CausalWanTransformer3DModel.forward."""
        ...


class Batch(NamedTuple):
    """Rows of latent frames that go through the layers together, stacked in the batch axis.

    Attributes:
        latents: [R, C, F, H, W].
        timestep: [R, F], 0..1000.
        text: keys and values of the text, a layer each.
        rotary: cos and sin of the queries.
        memory: what each layer attends to, and where it leaves its keys.
        layers: which of them run.
        buffers: residual streams [R, S, E] by number, as `layers` takes and leaves them.
    """

    latents: Tensor
    timestep: Tensor
    text: TextKV
    rotary: tuple[Tensor, Tensor]
    memory: Sequence[LayerMemory]
    layers: LayerPlan = EVERY
    buffers: Sequence[Tensor] = ()


class Runner(Protocol):
    """Runs what a pass needs through the layers; a parallel plan puts another one in its place."""

    def run(self, batches: Sequence[Batch]) -> Sequence[Tensor]:
        """The flow [R, C, F, H, W] of each batch; one that is still on its way is waited for when it is taken.

        Args:
            batches: of one pass: none needs another's result. They are in an order in which one process can run them:
                those of a row share the room for its own keys.
        """
        ...


class LocalRunner:
    """One after the other, in this process.

    Args:
        transformer: the model.
    """

    def __init__(self, transformer: Transformer) -> None:
        self._transformer = transformer

    def run(self, batches: Sequence[Batch]) -> list[Tensor]:
        return [self._transformer(*each[:5], layers=each.layers, buffers=each.buffers) for each in batches]
