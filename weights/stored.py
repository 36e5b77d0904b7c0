"""Stored tensors: what a checkpoint holds by name, type and shape, each one read from the disk when it is asked for.

A model is filled tensor by tensor, so that loading needs the memory of the model and of its largest tensor, not of
model and file. Nothing is mapped: a mapped file counts as memory, and its owner may replace it while a film runs.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from weights.gguf_file import ggml_name, read_gguf_header
from weights.header import read_header
from weights.plain_files import CheckpointError, few, must_be_a_file, shown

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
"""Types of safetensors that weights are read in."""
NESTED = ("generator_ema", "generator", "model", "state_dict")
"""Where training scripts put the transformer inside a nested checkpoint, best first."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of a file.

    `dtype` and `shape` are those of what `read` returns: a tensor on the CPU with memory of its own. `place` orders
    tensors as they lie on the disk, `size` is what they take there in bytes.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    place: tuple[str, int] = ("", 0)
    size: int = 0

    @property
    def outline(self) -> Tensor:
        """The same tensor without numbers."""
        return torch.empty(self.shape, dtype=self.dtype, device="meta")


Tensors = dict[str, Stored]


def stored_safetensors(file: Path) -> tuple[Tensors, Mapping[str, str]]:
    """The tensors of a safetensors file, and the texts of its header.

    Raises:
        FileNotFoundError: nothing is there.
        CheckpointError: it is none, or has a tensor of a type that is not read.
    """
    header = read_header(file)
    tensors: Tensors = {}
    for name, entry in header.tensors.items():
        if entry.dtype not in DTYPES:
            raise CheckpointError(
                f"{file} holds {shown(name)} as {entry.dtype}, which is not read here; take bf16 or fp16 weights."
            )
        tensors[name] = _in_file(file, entry.start, DTYPES[entry.dtype], entry.shape)
    return tensors, header.texts


def stored_pickle(path: Path, keys: tuple[str, ...] = NESTED) -> Tensors:
    """The tensors of a torch.save file, flat or under the first of `keys` that it has; no code in it is run.

    Raises:
        FileNotFoundError: nothing is there.
        CheckpointError: it is damaged, holds more than tensors, or has none there.
    """
    content = read_pickle(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; use the file with the generator's weights.")
    nested = next((key for key in keys if isinstance(content.get(key), dict)), None)
    entries: Any = content if nested is None else content[nested]
    strangers = [key for key, value in entries.items() if not isinstance(value, Tensor)]
    if strangers or not entries:
        raise CheckpointError(
            f"{path} holds {few(strangers) or 'nothing'} and no state dict under {few(keys, 4)}; "
            "name the entry that has the transformer."
        )
    return {str(name): _of_pickle(path, str(name), value) for name, value in entries.items()}


def stored_gguf(path: Path) -> Tensors:
    """The tensors of a GGUF file; quantised ones become float32 when they are read, by diffusers' arithmetic.

    Raises:
        FileNotFoundError: nothing is there.
        CheckpointError: it is damaged, or has a type that diffusers does not read.
        ValueError: the package gguf is not installed.
    """
    tensors: Tensors = {}
    unread: list[str] = []
    plain = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
    for name, entry in read_gguf_header(path).items():
        kind = ggml_name(entry.kind)
        if kind in plain:
            tensors[name] = _in_file(path, entry.start, plain[kind], entry.shape)
        elif not _dequantises(kind):
            unread.append(f"{name} as {kind}")
        else:
            bytes_ = _in_file(path, entry.start, torch.uint8, (entry.bytes,))
            read = _dequantised(bytes_, kind, entry.shape)
            tensors[name] = Stored(torch.float32, entry.shape, read, bytes_.place, entry.bytes)
    if unread:
        raise CheckpointError(
            f"{path} holds {few(unread)} ({len(unread)} tensors), which diffusers does not read; take a file of type "
            "Q8_0, Q6_K, Q5_K or Q4_K."
        )
    return tensors


def read_pickle(path: Path) -> Any:
    """A torch.save file without running any code in it; of a zip the tensors are outlines, read by `stored_pickle`."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    must_be_a_file(path)
    try:
        if not zipfile.is_zipfile(path):
            return torch.load(path, map_location="cpu", weights_only=True)
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("its parts are compressed")
        with FakeTensorMode():
            return torch.load(path, weights_only=True)
    except (PermissionError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle can raise anything; every cause has the same cure
        reason = str(error).split("\n", 1)[0].split(". ", 1)[0]
        raise CheckpointError(
            f"{path} is damaged or holds more than tensors ({type(error).__name__}: {shown(reason)}, "
            f"{path.stat().st_size} bytes) and was not run; fetch it again or convert it to .safetensors."
        ) from error


def from_pickle(path: Path, name: str, value: Tensor) -> Tensor:
    """The numbers of a tensor that `read_pickle` returned."""
    return _of_pickle(path, name, value).read()


def _of_pickle(path: Path, name: str, value: Tensor) -> Stored:
    storage = value.untyped_storage()
    begin: int | None = getattr(storage, "_checkpoint_offset", None)
    if begin is None:  # an old file, read whole
        return Stored(value.dtype, tuple(value.shape), lambda: value.detach().clone(), (str(path), 0), value.nbytes)
    if begin + storage.nbytes() > path.stat().st_size:
        raise CheckpointError(f"{path} is damaged: {shown(name)} ends behind the file; fetch it again.")
    first = begin + int(value.storage_offset()) * value.dtype.itemsize
    if value.is_contiguous() and first + value.nbytes <= begin + storage.nbytes():
        return _in_file(path, first, value.dtype, tuple(value.shape))
    last = value.storage_offset() + sum((n - 1) * step for n, step in zip(value.shape, value.stride(), strict=True))
    if value.numel() and (last + 1) * value.dtype.itemsize > storage.nbytes():
        raise CheckpointError(f"{path} is damaged: {shown(name)} is larger than its numbers; fetch it again.")
    whole = _in_file(path, begin, value.dtype, (storage.nbytes() // value.dtype.itemsize,))
    shape, stride, offset = tuple(value.shape), value.stride(), value.storage_offset()
    return Stored(
        value.dtype,
        shape,
        lambda: torch.as_strided(whole.read(), shape, stride, offset).contiguous(),
        whole.place,
        value.nbytes,
    )


def _in_file(file: Path, start: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Stored:
    size = dtype.itemsize
    for side in shape:
        size *= side

    def read() -> Tensor:
        tensor = torch.empty(shape, dtype=dtype)
        view = memoryview(cast("Any", tensor.reshape(-1).view(torch.uint8).numpy()))
        with file.open("rb", buffering=0) as stream:
            stream.seek(start)
            done = 0
            while done < size:
                got = stream.readinto(view[done:])
                if not got:
                    raise CheckpointError(f"{file} became shorter while it was read; fetch it again.")
                done += got
        return tensor

    return Stored(dtype, shape, read, (str(file), start), size)


def _dequantises(kind: str) -> bool:
    return any(each.name == kind for each in _diffusers_gguf().SUPPORTED_GGUF_QUANT_TYPES)


def _dequantised(stored: Stored, kind: str, shape: tuple[int, ...]) -> Callable[[], Tensor]:
    def read() -> Tensor:
        gguf = _diffusers_gguf()
        which = next(each for each in gguf.SUPPORTED_GGUF_QUANT_TYPES if each.name == kind)
        block, size = gguf.GGML_QUANT_SIZES[which]
        # Told to use float32: diffusers' own call leaves the scales in float16 and rounds their products to it.
        numbers = gguf.dequantize_functions[which](stored.read().reshape(-1, size), block, size, torch.float32)
        return numbers.to(torch.float32).reshape(shape)

    return read


def _diffusers_gguf() -> Any:
    from importlib.util import find_spec

    if find_spec("gguf") is None:
        raise ValueError("A GGUF file needs the package gguf, not installed here; run: pip install -e '.[gguf]'")
    from diffusers.quantizers.gguf import utils

    return utils
