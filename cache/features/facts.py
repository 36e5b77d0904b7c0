"""What was found out about a model once, for the feature caches that go by it; integers and a few numbers.

`rivulet profile` measures it and writes it beside the model (pipelines/feature_profile.py). The corrections that belong
to it are tensors, one row a number of `of_level` or `of_clean`; a plan names them by these.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Facts:
    """Attributes:
    layers: of the model.
    levels: timesteps of a chunk's passes, falling, that it was profiled at.
    computed: which passes are computed, a row for every chunk of a period.
    background: layers whose attention lies on what stays as it is.
    coefficients: of the polynomial from the change of the first layer's input to that of the flow, highest first.
    first: layers that are always computed; the corrections of levels are of what those behind them add.
    """

    layers: int
    levels: tuple[float, ...]
    computed: tuple[tuple[bool, ...], ...] = ()
    background: tuple[int, ...] = ()
    coefficients: tuple[float, ...] = ()
    first: int = 1

    def of_level(self, source: int, target: int) -> int:
        """Number of the correction that makes the features of pass `target` of those of pass `source` of a chunk."""
        return source * len(self.levels) + target

    def of_clean(self, layer: int) -> int:
        """Number of the correction of a layer's features, from the last denoising pass to the clean one."""
        return len(self.levels) ** 2 + layer

    @property
    def corrections(self) -> int:
        """How many there are."""
        return self.of_clean(self.layers)
