"""The header of a GGUF file: names, types and shapes of its tensors, read within bounds and without its numbers.

The format is ggml's (docs/gguf.md of ggml-org/ggml, versions 2 and 3). Files of Wan hold the original names; a shape of
five sides, which older tools cannot write, stands in the key `comfy.gguf.orig_shape.NAME`.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from weights.plain_files import CheckpointError, must_be_a_file, shown

MOST_KEYS, MOST_TENSORS, MOST_TEXT, MOST_SIDES, MOST_ARRAY = 4096, 100_000, 2**20, 8, 2**22
"""Bounds of a header; a tokenizer's word list is the largest array there is."""

_BLOCKS: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
}
"""ggml's types: name, numbers in a block, bytes of a block."""
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class GGUFEntry:
    """One tensor: ggml's number of its type, its shape as torch says it, its first byte and its bytes in the file."""

    kind: int
    shape: tuple[int, ...]
    start: int
    bytes: int


def ggml_name(kind: int) -> str:
    """ggml's name of a type."""
    return _BLOCKS[kind][0]


def read_gguf_header(path: Path) -> dict[str, GGUFEntry]:
    """The tensors of a GGUF file by name, every one checked to lie inside the file.

    Raises:
        FileNotFoundError: nothing is there.
        CheckpointError: it is no such file, damaged, or cut off.
    """
    size = must_be_a_file(path, "check the path or fetch the weights")
    try:
        with path.open("rb") as file:
            return _Reader(file, size).tensors()
    except (ValueError, struct.error) as error:
        raise CheckpointError(
            f"{path} is no complete GGUF file ({shown(error)}; {size} bytes); fetch it again."
        ) from error


class _Reader:
    """Numbers and texts of a header in their order; ValueError where it cannot be one."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size

    def tensors(self) -> dict[str, GGUFEntry]:
        if self._bytes(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        version = self._number("I")
        if version not in (2, 3):
            raise ValueError(f"its version is {version}, and 2 and 3 are read here")
        count, keys = self._number("Q"), self._number("Q")
        if count > MOST_TENSORS or keys > MOST_KEYS:
            raise ValueError(f"it names {count} tensors and {keys} keys, more than any model has")
        values: dict[str, Any] = {}
        for _ in range(keys):
            name = self._text()
            values[name] = self._value(self._number("I"))
        told = [self._tensor() for _ in range(count)]
        alignment = values.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 2**16:
            raise ValueError("its alignment is none")
        begin = -(-self._file.tell() // alignment) * alignment
        found: dict[str, GGUFEntry] = {}
        for name, shape, kind, offset in told:
            block, size = _BLOCKS[kind][1:]
            numbers = math.prod(shape)
            if numbers % block or (shape and shape[-1] % block):
                raise ValueError(f"{shown(name, 60)!r} is no whole number of blocks")
            length = numbers // block * size
            if begin + offset + length > self._size:
                raise ValueError(f"{shown(name, 60)!r} ends behind its end")
            if name in found:
                raise ValueError(f"it names {shown(name, 60)!r} twice")
            known = values.get(f"comfy.gguf.orig_shape.{name}")
            if isinstance(known, list):
                if not all(isinstance(side, int) and side >= 0 for side in known) or math.prod(known) != numbers:
                    raise ValueError(f"{shown(name, 60)!r} has another number of values than its shape")
                shape = tuple(known)
            found[name] = GGUFEntry(kind, shape, begin + offset, length)
        return found

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name, sides = self._text(), self._number("I")
        if sides > MOST_SIDES:
            raise ValueError(f"{shown(name, 60)!r} has {sides} sides")
        shape = tuple(reversed([self._number("Q") for _ in range(sides)]))  # ggml's first side is the innermost
        kind, offset = self._number("I"), self._number("Q")
        if kind not in _BLOCKS:
            raise ValueError(f"{shown(name, 60)!r} has the unknown type {kind}")
        return name, shape, kind, offset

    def _value(self, kind: int, depth: int = 0) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _TEXT:
            return self._text()
        if kind != _ARRAY or depth:
            raise ValueError(f"a key has the unknown type {kind}")
        inner, count = self._number("I"), self._number("Q")
        if count > MOST_ARRAY:
            raise ValueError(f"a key has {count} values")
        if inner in _SCALARS:
            return list(
                struct.unpack(f"<{count}{_SCALARS[inner]}", self._bytes(count * struct.calcsize(_SCALARS[inner])))
            )
        return [self._value(inner, depth + 1) for _ in range(count)]

    def _text(self) -> str:
        length = self._number("Q")
        if length > MOST_TEXT:
            raise ValueError(f"a text of it has {length} bytes")
        return self._bytes(length).decode("utf-8", "replace")

    def _number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self._bytes(struct.calcsize(form)))[0]

    def _bytes(self, count: int) -> bytes:
        if self._file.tell() + count > self._size:
            raise ValueError("it is cut off")
        return self._file.read(count)
