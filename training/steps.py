"""Steps of the transformer's training: what each is drawn from, ahead of time on a card, and what is told of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from training.run import Clock
from training.windows import Batch


@dataclass(frozen=True, slots=True)
class Step:
    """What a step learns from, on the device."""

    batch: Batch
    noise: Tensor
    shake: Tensor
    tokens: Tensor


class Ahead:
    """Draws steps, the next one while this one is computed where `ahead` says so.

    A step is a function of its number; only what it is made of changes with the progress of the run, which a step
    ahead lags behind by one.
    """

    def __init__(self, draw: Callable[[int, float], Step], ahead: bool) -> None:
        self._draw, self._pool = draw, ThreadPoolExecutor(1) if ahead else None
        self._next: Future[Step] | None = None

    def take(self, clock: Clock) -> Step:
        """This step, and have the next one drawn."""
        if self._pool is None:
            return self._draw(clock.step, clock.progress)
        step = self._next.result() if self._next else self._draw(clock.step, clock.progress)
        self._next = self._pool.submit(self._draw, clock.step + 1, clock.progress)
        return step

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def means(seen: Sequence[tuple[Batch, Tensor, Tensor, Tensor]]) -> dict[str, float]:
    """Means of steps' losses and gradients, and of their error by noise level and by place in the window.

    Read off the device all at once: to read each step's would have the next one wait.
    """
    sums: dict[str, list[float]] = {}
    for batch, loss, norm, error in seen:
        sums.setdefault("loss", []).append(float(loss))
        sums.setdefault("grad", []).append(float(norm))
        if batch.forced and batch.chunk == 3:
            _collect(sums, batch, error.cpu())
    return {name: sum(values) / len(values) for name, values in sorted(sums.items())}


def _collect(sums: dict[str, list[float]], batch: Batch, error: Tensor) -> None:
    counted, sigma = batch.weight.cpu() > 0, batch.sigma.cpu()
    for name, where in (
        ("first", torch.arange(error.shape[1]) < batch.chunk),
        ("later", torch.arange(error.shape[1]) >= batch.chunk),
    ):
        for level, low, high in (("low", 0.0, 0.5), ("mid", 0.5, 0.85), ("high", 0.85, 1.01)):
            rows = counted & where & (sigma >= low) & (sigma < high)
            if rows.any():
                sums.setdefault(f"{name}_{level}", []).append(float(error[rows].mean()))
