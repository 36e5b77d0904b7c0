"""The header of a safetensors file: names, types and shapes of its tensors, known before a byte of them is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from weights.foreign import what_begins_with
from weights.plain_files import CheckpointError, must_be_a_file, parse_json, read_json, shown

ITEM_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits of a number of each type that the format knows."""
MOST_HEADER, MOST_TENSORS = 16 * 2**20, 100_000
"""Bytes and tensors; some thirty times those of the largest video models, and read within a second."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor as the header tells it: its type (a key of ITEM_BITS), its shape and its first byte in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def numbers(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """All tensors of a file by name, and the texts that its writer added."""

    tensors: Mapping[str, Entry]
    texts: Mapping[str, str]


def form_of(path: Path) -> Literal["gguf", "safetensors", "pickle"]:
    """How a file with tensors is written, by its first bytes; what is none of the others is read as a pickle.

    Raises:
        FileNotFoundError: nothing is there.
        CheckpointError: it is no file.
    """
    must_be_a_file(path, "check the path or fetch the weights")
    with path.open("rb") as file:
        head = file.read(9)
    if head.startswith(b"GGUF"):
        return "gguf"
    return "safetensors" if head[8:9] == b"{" or path.suffix == ".safetensors" else "pickle"


def read_header(path: Path) -> Header:
    """The header of a safetensors file, every tensor's bytes checked to lie inside the file.

    Raises:
        FileNotFoundError: nothing is there.
        CheckpointError: it is no file, no safetensors file, or cut off.
    """
    size = must_be_a_file(path, "check the path or fetch the weights")
    with path.open("rb") as file:
        head = file.read(64)
        file.seek(8)
        length = int.from_bytes(head[:8], "little")
        data = file.read(length) if 8 + length <= size and length <= MOST_HEADER else b""
    try:
        if size < 8 or len(data) != length:
            raise ValueError("its header is longer than the file, or than any" if size >= 8 else "it has no header")
        return _header(parse_json(data), 8 + length, size)
    except ValueError as error:
        reason = what_begins_with(head)
        raise CheckpointError(
            f"{path} is no complete safetensors file ({f'it is {reason}' if reason else shown(error)}; {size} bytes); "
            f"fetch it again{', as bf16 or fp16 safetensors' if reason else ''}."
        ) from error


def read_shards(index: Path) -> list[str]:
    """File names of the shards that a `*.safetensors.index.json` lists; they lie beside it.

    Raises:
        CheckpointError: it is no such index.
    """
    content = read_json(index)
    shards = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise CheckpointError(f"{index} is no index of safetensors shards; fetch it again.")
    return sorted({Path(name).name for name in shards.values()})  # .name: it must not point out of its folder


def _header(content: Any, begin: int, size: int) -> Header:
    """The entries of a file of that size whose numbers begin there, or ValueError."""
    if not isinstance(content, dict):
        raise ValueError("its header is no JSON object")
    entries = cast("dict[str, Any]", content)
    texts = entries.pop("__metadata__", {})
    if not isinstance(texts, dict) or not all(isinstance(value, str) for value in texts.values()):
        raise ValueError("its __metadata__ holds more than texts")
    if len(entries) > MOST_TENSORS:
        raise ValueError(f"it names {len(entries)} tensors, more than any model has")
    return Header({name: _entry(name, value, begin, size) for name, value in entries.items()}, texts)


def _entry(name: str, value: Any, begin: int, size: int) -> Entry:
    try:
        dtype, shape, (start, end) = value["dtype"], value["shape"], value["data_offsets"]
        whole = all(type(side) is int and side >= 0 for side in (*shape, start, end))
        bits = ITEM_BITS[dtype] * math.prod(shape) if whole else -1
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"its entry {shown(name, 60)!r} is damaged") from None
    if bits < 0 or (bits + 7) // 8 != end - start:
        raise ValueError(f"its entry {shown(name, 60)!r} is damaged")
    if begin + end > size:
        raise ValueError(f"{shown(name, 60)!r} ends {begin + end - size} bytes behind its end")
    return Entry(dtype, tuple(shape), begin + start)
