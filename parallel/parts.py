"""Parts of a memory: what of a copy of all lanes belongs to one rank's share, and all ranks' parts put together again.

A snapshot is therefore the same whatever the number of ranks it was taken under, and is read back under any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from parallel.share import Share

Tree = Any


class _Axes(NamedTuple):
    """Where layers, places and heads stand in a tensor; None: it has no such axis."""

    layers: int
    places: int | None
    heads: int | None


_AXES: Mapping[str, _Axes] = {
    "keys": _Axes(0, 2, 4),
    "values": _Axes(0, 2, 4),
    "codes": _Axes(1, 3, 5),
    "low": _Axes(0, 2, 4),
    "key_step": _Axes(0, 2, 4),
    "value_step": _Axes(0, 2, 4),
    "index": _Axes(0, 2, None),
    "queries": _Axes(0, None, 3),
}
_MEANS = _Axes(1, None, 4)
_OF_CONTENT = ("index", "queries")
"""What only a store with a scorer of tokens has."""
_NOTHING: Mapping[str, Tree] = {"entries": (), "places": (), "free": (), "scores": (), "means": {}}


def part_of(lanes: Sequence[Mapping[str, Tree]], share: Share) -> tuple[Mapping[str, Tree], ...]:
    """Of copies of all lanes' memory, as cache/kv.py names what is in one, those of a share."""
    return tuple(_narrowed(lane, share) if at in share.lanes else _empty(lane, share) for at, lane in enumerate(lanes))


def joined(parts: Sequence[Sequence[Mapping[str, Tree]]], shares: Sequence[Share]) -> tuple[Mapping[str, Tree], ...]:
    """Copies of all lanes' memory from those of every rank, by rank."""
    out: list[Mapping[str, Tree]] = []
    for lane in range(len(parts[0])):
        held = [(share, part[lane]) for share, part in zip(shares, parts, strict=True) if lane in share.lanes]
        out.append(_put_together([part for _, part in held], [share for share, _ in held]))
    return tuple(out)


def _narrowed(lane: Mapping[str, Tree], share: Share) -> dict[str, Tree]:
    def of(tensor: Tensor, axes: _Axes) -> Tensor:
        tensor = tensor.narrow(axes.layers, share.layers.start, len(share.layers))
        return tensor if axes.heads is None else tensor.narrow(axes.heads, share.heads.start, len(share.heads))

    return _changed(lane, of)


def _empty(lane: Mapping[str, Tree], share: Share) -> dict[str, Tree]:
    """What a store of no places holds: nothing, in tensors of no size."""
    narrow = _narrowed(lane, share)
    held = {name: each for name, each in narrow.items() if isinstance(each, Tensor) and name not in _OF_CONTENT}
    return {**{name: each.narrow(_axes(name).places or 0, 0, 0) for name, each in held.items()}, **_NOTHING}


def _put_together(parts: Sequence[Mapping[str, Tree]], shares: Sequence[Share]) -> dict[str, Tree]:
    if all((share.layers, share.heads) == (shares[0].layers, shares[0].heads) for share in shares):
        return dict(parts[0])  # one rank's, or the same on all of them
    by_layers = len({share.layers for share in shares}) > 1

    def of(name: str, tensors: Sequence[Tensor], axes: _Axes) -> Tensor:
        axis = axes.layers if by_layers else axes.heads
        return tensors[0] if axis is None else torch.cat([each.to(tensors[0].device) for each in tensors], axis)

    out: dict[str, Tree] = {}
    for name, first in parts[0].items():
        if name == "means":
            kept = cast("Mapping[str, Tensor]", first)
            out[name] = {at: of(name, [part[name][at] for part in parts], _MEANS) for at in kept}
        else:
            whole = isinstance(first, Tensor)
            out[name] = of(name, [part[name] for part in parts], _axes(name)) if whole else first
    return out


def _changed(lane: Mapping[str, Tree], change: Any) -> dict[str, Tree]:
    out: dict[str, Tree] = {}
    for name, each in lane.items():
        if name == "means":
            out[name] = {at: change(mean, _MEANS) for at, mean in each.items()}
        else:
            out[name] = change(each, _axes(name)) if isinstance(each, Tensor) else each
    return out


def places_axis(name: str) -> int:
    """Where the places of frames stand in a tensor of a storage, by its name."""
    axis = _axes(name).places
    assert axis is not None  # a storage holds frames
    return axis


def _axes(name: str) -> _Axes:
    if name not in _AXES:
        raise ValueError(f"memory holds {name!r}, and nothing says how ranks share it: add it to parallel/parts.py")
    return _AXES[name]
