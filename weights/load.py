"""Strict loading of checkpoints into a module class that the caller names.

Strict because a checkpoint that is short, foreign or of another shape must be a sentence and not a strange
film; and never `pickle`, because a weight file from the internet must not be able to run code.
"""

from __future__ import annotations

import inspect
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from weights.finite import must_be_finite
from weights.foreign import other_weights, refuse_foreign, refuse_quantised
from weights.header import read_header, read_shards
from weights.plain_files import CheckpointError, few, must_be_a_file, read_json, shown
from weights.remap import to_diffusers, unwrap_key
from weights.schema import validate

M = TypeVar("M", bound=nn.Module)

GENERATOR_KEYS = ("generator_ema", "generator", "model", "state_dict")
"""Where training scripts put the transformer inside a nested checkpoint, best first."""


_DTYPES = {
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


def load_component(
    cls: type[M],
    folder: str | Path,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    *,
    schema: type[BaseModel] | None = None,
    **arguments: Any,
) -> M:
    """Build `cls` from a folder's config.json and fill it from the folder's safetensors, exactly.

    Args:
        cls: an nn.Module class; its constructor takes config.json's entries (a leading `_` marks a note).
        folder: holds config.json and one `*.safetensors`, or shards with their `*.safetensors.index.json`.
        dtype: of the parameters; what `cls._keep_in_fp32_modules` names stays float32, as in diffusers.
        device: where the parameters go.
        schema: what config.json may say; None = whatever the constructor takes.
        **arguments: constructor arguments that config.json does not hold; they win over it.

    Returns:
        The module in eval mode, sharing no memory with the files (they may be replaced while it lives).

    Raises:
        FileNotFoundError: folder, config.json or weights are missing.
        CheckpointError: anything in them does not fit, or a number is not finite.
    """
    folder = Path(folder)
    config = check_component(cls, folder, schema, **arguments)
    files = _weight_files(folder)
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= read_tensors(file)
    model = _build(cls, config, folder / "config.json")
    return _fill(model, to_diffusers(tensors), files[0], dtype, device)


def check_component(
    build: Callable[..., nn.Module],
    folder: Path,
    schema: type[BaseModel] | None = None,
    *,
    twins: Mapping[str, str] | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    """Compare a folder's config.json with the headers of its weights, without allocating or reading any of them.

    Args:
        build: a class, or a function, that takes the config's entries and makes a module.
        folder: as in `load_component`.
        schema: as in `load_component`; it also bounds how long `build` may take.
        twins: second names of a shared parameter, which a file may hold too or instead, and the first ones.
        **arguments: as in `load_component`.

    Returns:
        The config with `arguments`.

    Raises:
        FileNotFoundError, CheckpointError: as `load_component`.
    """
    file = folder / "config.json"
    config = read_config(folder, build if isinstance(build, type) else None)
    refuse_quantised(file, config)
    if schema is not None:
        validate(schema, config, file)
    config |= arguments
    files = _weight_files(folder)
    outlines: dict[str, Tensor] = {}
    for each in files:
        outlines |= _outlines(each)
    for twin, name in (twins or {}).items():
        if twin in outlines:
            outlines.setdefault(name, outlines[twin])
            del outlines[twin]
    refuse_foreign(files[0], outlines)
    expected = _expected(build, config, file)
    for twin in twins or {}:
        expected.pop(twin, None)
    _compare(getattr(build, "__name__", "model"), expected, to_diffusers(outlines), files[0])
    return config


def load_generator(
    cls: type[M],
    path: str | Path,
    config: Mapping[str, Any] | str | Path,
    *,
    keys: tuple[str, ...] = GENERATOR_KEYS,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    schema: type[BaseModel] | None = None,
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
        schema: as in `load_component`.
    """
    path = Path(path)
    if isinstance(config, str | Path):
        config = read_config(Path(config), cls)
    if schema is not None:
        validate(schema, dict(config), path)
    tensors = to_diffusers(generator_tensors(path, keys))  # mapped, not read; a pickle has no header to ask before
    _compare(cls.__name__, _expected(cls, config, path), tensors, path)
    return _fill(_build(cls, config, path), tensors, path, dtype, device)


def generator_tensors(path: Path, keys: tuple[str, ...] = GENERATOR_KEYS) -> dict[str, Tensor]:
    """One generator's tensors under unwrapped names, original or diffusers' (see `load_generator`)."""
    content: Any = read_tensors(path) if path.suffix == ".safetensors" else read_pickle(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; use the file with the generator's weights.")
    nested = next((key for key in keys if isinstance(content.get(key), dict)), None)
    content = content if nested is None else content[nested]
    refuse_foreign(path, (str(key) for key in content))
    strangers = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if strangers or not content:
        raise CheckpointError(
            f"{path} holds {few(strangers) or 'nothing'} and no state dict under {few(keys, 4)}; "
            "name the entry that has the transformer."
        )
    tensors = {unwrap_key(str(key)): value for key, value in content.items()}
    if len(tensors) != len(content):
        raise CheckpointError(f"{path} names a tensor twice once wrappers are dropped; export it again unwrapped.")
    return tensors


def read_config(folder: Path, cls: type | None = None) -> dict[str, Any]:
    """config.json of a component's folder without its notes (`_class_name`, `_diffusers_version`).

    Args:
        folder: the component's.
        cls: the class that is to be built; a config that names another one is refused.
    """
    file = folder / "config.json"
    if not folder.is_dir():
        raise FileNotFoundError(f"No folder {folder}; check the path or the name of the model.")
    config = read_json(file, "give the folder of one component (transformer/ ...), or fetch it again")
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} holds no JSON object; fetch it again.")
    named = config.get("_class_name")
    ours = [] if cls is None else [each.__name__ for each in cls.__mro__]
    if ours and "_class_name" in config and named not in ours:
        raise CheckpointError(
            f"{file} describes {shown(named, 60)}, where {ours[0]} belongs; take the weights made for that class."
        )
    return {key: value for key, value in config.items() if not key.startswith("_")}


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of one safetensors file, mapped from disk."""
    must_be_a_file(file)
    try:
        with safe_open(str(file), framework="pt", device="cpu") as content:
            return {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, KeyError, AttributeError) as error:
        read_header(file)  # which knows more of what is wrong
        raise CheckpointError(
            f"{file} is no complete safetensors file ({shown(error)}, {file.stat().st_size} bytes); fetch it again."
        ) from error


def read_pickle(path: Path) -> Any:
    """A torch.save file read without running any code in it, mapped from disk where its format allows."""
    must_be_a_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (PermissionError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle can raise anything; every cause has the same cure
        reason = str(error).split("\n", 1)[0].split(". ", 1)[0]
        raise CheckpointError(
            f"{path} is damaged or holds more than tensors ({type(error).__name__}: {shown(reason)}, "
            f"{path.stat().st_size} bytes) and was not run; fetch it again or convert it to .safetensors."
        ) from error


def _outlines(file: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file as its header tells them, without numbers."""
    outlines: dict[str, Tensor] = {}
    header = read_header(file)
    refuse_quantised(file, header.texts)
    for name, entry in header.tensors.items():
        if entry.dtype not in _DTYPES:
            raise CheckpointError(
                f"{file} holds {shown(name)} as {entry.dtype}, which is not read here; take bf16 or fp16 weights."
            )
        outlines[name] = torch.empty(entry.shape, dtype=_DTYPES[entry.dtype], device="meta")
    return outlines


def _weight_files(folder: Path) -> list[Path]:
    """The one safetensors file of a folder, or every shard that its index names."""
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if indices:
        return [folder / name for name in read_shards(indices[0])]
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        other = other_weights(folder)
        found = f"{folder} holds {other} and no .safetensors file" if other else f"{folder} has no .safetensors file"
        raise FileNotFoundError(f"{found}; fetch the weights as safetensors, or convert them.")
    if len(files) > 1:
        raise CheckpointError(f"{folder} has {few(f.name for f in files)} and no index; leave the one that counts.")
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


def _build(build: Callable[..., M], config: Mapping[str, Any], source: Path) -> M:
    parameters = inspect.signature(build).parameters
    name = getattr(build, "__name__", "model")
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        unknown = sorted(set(config) - set(parameters))
        if unknown:
            raise CheckpointError(f"{source} sets {few(unknown)}, unknown to {name}; use weights made for that class.")
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    lacking = [
        key for key, p in parameters.items() if p.default is p.empty and p.kind not in several and key not in config
    ]
    if lacking:
        raise CheckpointError(f"{source} does not set {few(lacking)} of {name}; complete the config.")
    try:
        with _NoInit():
            return build(**config)
    except MemoryError:
        raise
    except Exception as error:  # constructors check little; whatever they stumble over stands in the config
        reason = shown(str(error).strip().split("\n", 1)[0].rstrip("."), 200)
        raise CheckpointError(
            f"{source} does not describe {name} ({type(error).__name__}: {reason}); restore the file, or fetch it "
            "again."
        ) from error


def _expected(build: Callable[..., nn.Module], config: Mapping[str, Any], source: Path) -> dict[str, Tensor]:
    """Names, types and shapes of what `build` makes of the config; on no device, so of any size."""
    with torch.device("meta"):
        return _build(build, config, source).state_dict()


def _compare(name: str, expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: Path) -> None:
    """Refuse tensors that are not those of a model, all that is wrong in one sentence."""
    complaints = [
        f"lacks {few(sorted(expected.keys() - tensors.keys()))}" if expected.keys() - tensors.keys() else "",
        f"has the unknown {few(sorted(tensors.keys() - expected.keys()))}" if tensors.keys() - expected.keys() else "",
        few(
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


def _fill(model: M, tensors: dict[str, Tensor], source: Path, dtype: torch.dtype, device: str | torch.device) -> M:
    expected = model.state_dict()
    keep = tuple(getattr(model, "_keep_in_fp32_modules", None) or ())
    values = {
        key: tensors[key].to(
            device=device, dtype=_target(key, expected[key], dtype, keep), copy=True
        )  # copy: the module must not live on a mapped file that somebody replaces
        for key in expected
    }
    must_be_finite(values.items(), source)
    model.load_state_dict(values, strict=True, assign=True)
    return model.to(device).eval()


def _target(key: str, value: Tensor, dtype: torch.dtype, keep: tuple[str, ...]) -> torch.dtype:
    if not value.is_floating_point():
        return value.dtype
    return torch.float32 if set(keep) & set(key.split(".")) and dtype.itemsize < 4 else dtype


def _fits(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and found.is_floating_point() == expected.is_floating_point()


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
