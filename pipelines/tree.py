"""State as one tree of tensors and plain data: copied, checked against another, put back, moved, counted.

A leaf is a number, a string, None, a tensor or an array; a node is a tuple, a list, a mapping with strings for keys, a
frozen dataclass, or something that keeps its tensors where they are (`Held`). A copy holds no `Held` any more, only
mappings; read from a file it holds no dataclass either. Putting it back makes both again, of what is there to compare
with, so whatever of a stream changes is part of every copy as soon as it is a field of its state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, Protocol, TypeGuard, cast

import numpy as np
import torch
from torch import Tensor

Tree = Any
"""Any of the above; the functions here raise TypeError for anything else."""


class Held(Protocol):
    """State in tensors that stay where they are, with some data beside them; no dataclass."""

    def tensors(self) -> dict[str, Tensor]:
        """The tensors themselves; their names and shapes never change."""
        ...

    def data(self) -> dict[str, Tree]:
        """What else there is, under names of its own."""
        ...

    def restored(self, data: Mapping[str, Tree]) -> None:
        """The tensors were written over, and `data` goes with them; its tensors may be kept."""
        ...


_LEAF = (bool, int, float, str, type(None), Tensor, np.ndarray)
_PLAIN = (*_LEAF, tuple, list, dict)


def copied(tree: Tree, device: torch.device | str | None = None) -> Tree:
    """A copy that shares no tensor with the tree; arrays are shared, because nobody writes to them.

    Its tensors are made on `device` (None: where they lie), so that a full card needs no room for a second one.
    """

    def copy(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.clone() if device is None else leaf.to(device, copy=True)

    return mapped(tree, copy)


def moved(tree: Tree, device: torch.device | str) -> Tree:
    """The tree with its tensors on another device; those that are there already are shared."""
    return mapped(tree, lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf)


def nbytes(tree: Tree) -> int:
    """Bytes of all tensors and arrays."""
    return sum(leaf.nbytes for leaf in leaves(tree) if isinstance(leaf, Tensor | np.ndarray))


def _is_held(tree: Tree) -> TypeGuard[Held]:
    """Asked of every node of every snapshot, and a Protocol is slow to ask."""
    return not isinstance(tree, _PLAIN) and callable(getattr(tree, "restored", None))


def mapped(tree: Tree, change: Callable[[Any], Any]) -> Tree:
    """The tree with every leaf changed; a `Held` becomes a mapping."""
    if isinstance(tree, _LEAF):
        return change(tree)
    if isinstance(tree, tuple | list):
        return tuple(mapped(part, change) for part in cast("tuple[Tree, ...]", tree))
    if isinstance(tree, Mapping):
        return {name: mapped(part, change) for name, part in cast("Mapping[str, Tree]", tree).items()}
    if is_dataclass(tree) and not isinstance(tree, type):
        parts = {each.name: getattr(tree, each.name) for each in fields(tree)}
        changed = {name: mapped(part, change) for name, part in parts.items()}
        return tree if all(changed[name] is part for name, part in parts.items()) else replace(tree, **changed)
    if _is_held(tree):
        return {name: mapped(part, change) for name, part in (tree.tensors() | tree.data()).items()}
    raise TypeError(f"state holds tensors and plain data, not {type(tree).__name__}")


def leaves(tree: Tree) -> Iterator[Any]:
    """Every leaf, in order."""
    found: list[Any] = []
    mapped(tree, found.append)
    return iter(found)


def check(ours: Tree, theirs: Tree, where: str) -> None:
    """Raise ValueError unless a copy can be put back into what is there; nothing is changed.

    A list has as many parts as there are now, and its tensors their sizes; a tuple, or a tensor by itself, is replaced.
    """
    if _is_held(ours):
        tensors = ours.tensors()
        _check_names({*tensors, *ours.data()}, theirs, where)
        for name, tensor in tensors.items():
            _check_tensor(tensor, theirs[name], f"{where}.{name}")
    elif isinstance(ours, list):
        parts = cast("list[Tree]", ours)
        if not isinstance(theirs, tuple | list) or len(cast("list[Tree]", theirs)) != len(parts):
            raise _foreign(where, _said(theirs), _said(ours))
        for number, (part, other) in enumerate(zip(parts, cast("list[Tree]", theirs), strict=True)):
            if isinstance(part, Tensor):
                _check_tensor(part, other, f"{where}.{number}")
            else:
                check(part, other, f"{where}.{number}")
    elif is_dataclass(ours) and type(theirs) is not type(ours):
        _check_names({each.name for each in fields(ours)}, theirs, where)


def _check_names(ours: set[str], theirs: Tree, where: str) -> None:
    if not isinstance(theirs, Mapping) or ours != set(cast("Mapping[str, Tree]", theirs)):
        raise _foreign(where, _said(theirs), ", ".join(sorted(ours)))


def _check_tensor(ours: Tensor, theirs: Tree, where: str) -> None:
    if not isinstance(theirs, Tensor) or (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
        raise _foreign(where, _said(theirs), _said(ours))


def _said(tree: Tree) -> str:
    if isinstance(tree, Tensor):
        return f"{str(tree.dtype).removeprefix('torch.')} {list(tree.shape)}"
    if isinstance(tree, Mapping):
        return ", ".join(sorted(cast("Mapping[str, Tree]", tree)))
    return f"{len(cast('list[Tree]', tree))} parts" if isinstance(tree, tuple | list) else type(tree).__name__


def _foreign(where: str, theirs: str, ours: str) -> ValueError:
    return ValueError(
        f"the snapshot's {where} is {theirs}, this stream's is {ours}: restore it into a stream of the same preset, "
        "model, size and precision"
    )


def put_back(ours: Tree, theirs: Tree, device: torch.device) -> Tree:
    """What a copy says, in the form of what is there: `Held` keep their tensors, the rest is made anew.

    Args:
        ours: what is there, and was checked.
        theirs: a copy, wherever its tensors are; it stays as it is.
        device: where a tensor goes for which there is none yet.
    """
    if _is_held(ours):
        tensors = ours.tensors()
        for name, tensor in tensors.items():
            tensor.copy_(theirs[name])
        ours.restored({name: put_back(None, part, device) for name, part in theirs.items() if name not in tensors})
        return ours
    if isinstance(ours, list):
        return [put_back(part, other, device) for part, other in zip(cast("list[Tree]", ours), theirs, strict=True)]
    if is_dataclass(ours) and not isinstance(ours, type):
        names = [each.name for each in fields(ours)]
        if not isinstance(theirs, Mapping):
            theirs = {name: getattr(theirs, name) for name in names}
        parts = cast("Mapping[str, Tree]", theirs)
        return type(ours)(**{name: put_back(getattr(ours, name), parts[name], device) for name in names})
    place = ours.device if isinstance(ours, Tensor) else device
    return mapped(theirs, lambda leaf: leaf.to(place, copy=True) if isinstance(leaf, Tensor) else leaf)
