"""Strict loading of checkpoints into a module class that the caller names.

Strict because a checkpoint that is short, foreign or of another shape must be a sentence and not a strange
film; and never `pickle`, because a weight file from the internet must not be able to run code.
"""

from __future__ import annotations

import inspect
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from weights.remap import to_diffusers, unwrap_key

M = TypeVar("M", bound=nn.Module)

GENERATOR_KEYS = ("generator_ema", "generator", "model", "state_dict")
"""Where training scripts put the transformer inside a nested checkpoint, best first."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: the file, what is wrong with it, and one thing to do."""


def load_component(
    cls: type[M],
    folder: str | Path,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    **arguments: Any,
) -> M:
    """Build `cls` from a folder's config.json and fill it from the folder's safetensors, exactly.

    Args:
        cls: an nn.Module class; its constructor takes config.json's entries (a leading `_` marks a note).
        folder: holds config.json and one `*.safetensors`, or shards with their `*.safetensors.index.json`.
        dtype: of the parameters; what `cls._keep_in_fp32_modules` names stays float32, as in diffusers.
        device: where the parameters go.
        **arguments: constructor arguments that config.json does not hold; they win over it.

    Returns:
        The module in eval mode, sharing no memory with the files (they may be replaced while it lives).

    Raises:
        FileNotFoundError: folder, config.json or weights are missing.
        CheckpointError: anything in them does not fit.
    """
    folder = Path(folder)
    config = read_config(folder)
    files = _weight_files(folder)
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= read_tensors(file)
    return _fill(
        _build(cls, config | arguments, folder / "config.json"),
        to_diffusers(tensors),
        files[0],
        dtype,
        device,
    )


def load_generator(
    cls: type[M],
    path: str | Path,
    config: Mapping[str, Any] | str | Path,
    *,
    keys: tuple[str, ...] = GENERATOR_KEYS,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> M:
    """Fill `cls` from one released generator file: .pt as training scripts nest them, or .safetensors.

    Unwraps `{"generator_ema": {"model._fsdp_wrapped_module.blocks..."}}`, renames original Wan keys and then
    is as strict as `load_component`.

    Args:
        cls: a Wan transformer class with diffusers' parameter names.
        path: the file.
        config: constructor arguments, or a folder with config.json.
        keys: entries to look for in a nested file, in this order; the first that is there is taken.
        dtype: as in `load_component`.
        device: as in `load_component`.
    """
    path = Path(path)
    if isinstance(config, str | Path):
        config = read_config(Path(config))
    return _fill(_build(cls, config, path), to_diffusers(generator_tensors(path, keys)), path, dtype, device)


def generator_tensors(path: Path, keys: tuple[str, ...] = GENERATOR_KEYS) -> dict[str, Tensor]:
    """One generator's tensors under unwrapped names, original or diffusers' (see `load_generator`)."""
    content: Any = read_tensors(path) if path.suffix == ".safetensors" else read_pickle(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; use the file with the generator's weights.")
    nested = next((key for key in keys if isinstance(content.get(key), dict)), None)
    content = content if nested is None else content[nested]
    strangers = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if strangers or not content:
        raise CheckpointError(
            f"{path} holds {_few(strangers) or 'nothing'} and no state dict under {_few(keys, 4)}; "
            "name the entry that has the transformer."
        )
    tensors = {unwrap_key(str(key)): value for key, value in content.items()}
    if len(tensors) != len(content):
        raise CheckpointError(f"{path} names a tensor twice once wrappers are dropped; export it again unwrapped.")
    return tensors


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a component's folder without its notes (`_class_name`, `_diffusers_version`)."""
    file = folder / "config.json"
    if not folder.is_dir():
        raise FileNotFoundError(f"No folder {folder}; check the path or the name of the model.")
    if not file.is_file():
        raise FileNotFoundError(f"{folder} has no config.json; give the folder of one component (transformer/ ...).")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON ({error}); fetch it again.") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} holds no JSON object; fetch it again.")
    return {key: value for key, value in config.items() if not key.startswith("_")}


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of one safetensors file, mapped from disk."""
    _must_be_a_file(file)
    try:
        with safe_open(str(file), framework="pt", device="cpu") as content:
            return {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise CheckpointError(
            f"{file} is no complete safetensors file ({error}, {file.stat().st_size} bytes); fetch it again."
        ) from error


def read_pickle(path: Path) -> Any:
    """A torch.save file read without running any code in it, mapped from disk where its format allows."""
    _must_be_a_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (PermissionError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle can raise anything; every cause has the same cure
        reason = str(error).split("\n", 1)[0].split(". ", 1)[0]
        raise CheckpointError(
            f"{path} is damaged or holds more than tensors ({type(error).__name__}: {reason}, "
            f"{path.stat().st_size} bytes) and was not run; fetch it again or convert it to .safetensors."
        ) from error


def _must_be_a_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"No file {path}; check the path or fetch the weights.")


def _weight_files(folder: Path) -> list[Path]:
    """The one safetensors file of a folder, or every shard that its index names."""
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if indices:
        try:
            names = sorted(set(json.loads(indices[0].read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{indices[0]} is no index of safetensors shards; fetch it again.") from error
        return [folder / Path(str(name)).name for name in names]  # .name: an index must not point out of its folder
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} has no .safetensors file; fetch the weights or convert the .bin there.")
    if len(files) > 1:
        raise CheckpointError(f"{folder} has {_few(f.name for f in files)} and no index; leave the one that counts.")
    return files


class _NoInit(TorchFunctionMode):
    """Skips torch.nn.init: every parameter is about to be replaced, and 1.4e9 random numbers take seconds."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def _build(cls: type[M], config: Mapping[str, Any], source: Path) -> M:
    parameters = inspect.signature(cls).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        unknown = sorted(set(config) - set(parameters))
        if unknown:
            raise CheckpointError(
                f"{source} sets {_few(unknown)}, unknown to {cls.__name__}; use weights made for that class."
            )
    lacking = [name for name, p in parameters.items() if p.default is p.empty and name not in config]
    lacking = [
        n
        for n in lacking
        if parameters[n].kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    ]
    if lacking:
        raise CheckpointError(f"{source} does not set {_few(lacking)} of {cls.__name__}; complete the config.")
    with _NoInit():
        return cls(**config)


def _fill(model: M, tensors: dict[str, Tensor], source: Path, dtype: torch.dtype, device: str | torch.device) -> M:
    expected = model.state_dict()
    name = type(model).__name__
    complaints = [
        f"lacks {_few(sorted(expected.keys() - tensors.keys()))}" if expected.keys() - tensors.keys() else "",
        f"has the unknown {_few(sorted(tensors.keys() - expected.keys()))}" if tensors.keys() - expected.keys() else "",
        _few(
            f"{key} as {_kind(tensors[key])} where {_kind(value)} belongs"
            for key, value in expected.items()
            if key in tensors and not _fits(tensors[key], value)
        ),
    ]
    if any(complaints):
        raise CheckpointError(
            f"{source} does not fit {name}: {'; '.join(c for c in complaints if c)}. "
            "Check that its config.json belongs to these weights."
        )
    keep = tuple(getattr(model, "_keep_in_fp32_modules", None) or ())
    model.load_state_dict(
        {
            key: tensors[key].to(
                device=device, dtype=_target(key, expected[key], dtype, keep), copy=True
            )  # copy: the module must not live on a mapped file that somebody replaces
            for key in expected
        },
        strict=True,
        assign=True,
    )
    return model.to(device).eval()


def _target(key: str, value: Tensor, dtype: torch.dtype, keep: tuple[str, ...]) -> torch.dtype:
    if not value.is_floating_point():
        return value.dtype
    return torch.float32 if set(keep) & set(key.split(".")) and dtype.itemsize < 4 else dtype


def _fits(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and found.is_floating_point() == expected.is_floating_point()


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _few(names: Any, show: int = 3) -> str:
    """The first names and how many more: `a, b, c and 12 more`."""
    names = [str(name) for name in names]
    rest = len(names) - show
    return ", ".join(names[:show]) + (f" and {rest} more" if rest > 0 else "")
