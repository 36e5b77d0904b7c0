"""Strict loading of checkpoints into a module class that the caller names.

Strict because a checkpoint that is short, foreign or of another shape must be a sentence and not a strange
film; and never `pickle`, because a weight file from the internet must not be able to run code.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from weights.finite import must_be_finite
from weights.foreign import other_weights, refuse_foreign, refuse_quantised
from weights.header import form_of, read_shards
from weights.plain_files import CheckpointError, few, read_json, shown
from weights.remap import to_diffusers, unwrapped
from weights.scaled import unscaled
from weights.schema import validate
from weights.stored import NESTED, Tensors, stored_gguf, stored_pickle, stored_safetensors

M = TypeVar("M", bound=nn.Module)

GENERATOR_KEYS = NESTED
"""Where training scripts put the transformer inside a nested checkpoint, best first."""


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
        folder: holds config.json and one `*.safetensors`, or shards with their `*.safetensors.index.json`, or one GGUF.
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
    model = _build(cls, config, folder / "config.json")
    return _fill(model, _folder_tensors(files), files[0], dtype, device)


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
    tensors = _one_name(_folder_tensors(files), twins)
    expected = _expected(build, config, file)
    for twin in twins or {}:
        expected.pop(twin, None)
    _compare(getattr(build, "__name__", "model"), expected, _outlines(tensors), files[0])
    return config


def load_file(
    build: Callable[..., M],
    path: str | Path,
    config: Mapping[str, Any] | str | Path,
    *,
    keys: tuple[str, ...] = GENERATOR_KEYS,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    schema: type[BaseModel] | None = None,
    spell: Callable[[Tensors], Tensors] = dict,
    twins: Mapping[str, str] | None = None,
) -> M:
    """Fill a module from a file, .pt as training scripts nest them, .safetensors or .gguf, or from a folder of shards.

    Unwraps `{"generator_ema": {"model._fsdp_wrapped_module.blocks..."}}` and ComfyUI's prefix, takes scales of fp8 into
    the weights, renames original Wan keys and then is as strict as `load_component`.

    Args:
        build: a class, or a function, that takes the config's entries and makes a module; for a Wan transformer with
            diffusers' parameter names.
        path: the file, or a folder whose config.json is not the class's own.
        config: constructor arguments, or a folder with config.json.
        keys: entries to look for in a nested file, in this order; the first that is there is taken.
        dtype: as in `load_component`.
        device: as in `load_component`.
        schema: as in `load_component`.
        spell: renames what the file holds to the names of `build`, where `to_diffusers` does not.
        twins: as in `check_component`.
    """
    path = Path(path)
    if isinstance(config, str | Path):
        config = read_config(Path(config), build if isinstance(build, type) else None)
    if schema is not None:
        validate(schema, dict(config), path)
    tensors = _one_name(spell(tensors_of(path, keys)), twins)
    expected = _expected(build, config, path)
    for twin in twins or {}:
        expected.pop(twin, None)
    _compare(getattr(build, "__name__", "model"), expected, _outlines(tensors), path)
    return _fill(_build(build, config, path), tensors, path, dtype, device, twins)


def tensors_of(path: Path, keys: tuple[str, ...] = GENERATOR_KEYS) -> Tensors:
    """What a file, or a folder's shards, hold under diffusers' names: unwrapped, unscaled; nothing is read yet."""
    return _folder_tensors(_weight_files(path)) if path.is_dir() else _named(path, stored_file(path, keys))


def stored_file(path: Path, keys: tuple[str, ...] = GENERATOR_KEYS) -> Tensors:
    """The tensors of one file as it spells them; what it is, its first bytes say.

    Raises:
        FileNotFoundError: nothing is there.
        CheckpointError: it is no file with tensors, or its header says that it is quantised.
    """
    form = form_of(path)
    if form == "gguf":
        return stored_gguf(path)
    if form == "safetensors":
        tensors, texts = stored_safetensors(path)
        refuse_quantised(path, texts)
        return tensors
    return stored_pickle(path, keys)


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


def _named(source: Path, tensors: Tensors) -> Tensors:
    """Under diffusers' names, scales taken in; CheckpointError for names that are no model's."""
    bare = unwrapped(tensors)
    if len(bare) != len(tensors):
        raise CheckpointError(f"{source} names a tensor twice once wrappers are dropped; export it again unwrapped.")
    bare = unscaled(bare, source)
    refuse_foreign(source, bare)
    return to_diffusers(bare)


def _folder_tensors(files: list[Path]) -> Tensors:
    tensors: Tensors = {}
    for file in files:
        found = stored_file(file)
        twice = sorted(found.keys() & tensors.keys())
        if twice:
            raise CheckpointError(f"{file} holds {few(twice)} again, as another shard does; fetch the folder again.")
        tensors |= found
    return _named(files[0], tensors)


def _one_name(tensors: Tensors, twins: Mapping[str, str] | None) -> Tensors:
    """Without second names of a shared parameter."""
    tensors = dict(tensors)
    for twin, name in (twins or {}).items():
        if twin in tensors:
            tensors.setdefault(name, tensors[twin])
            del tensors[twin]
    return tensors


def _outlines(tensors: Tensors) -> dict[str, Tensor]:
    return {name: stored.outline for name, stored in tensors.items()}


def _weight_files(folder: Path) -> list[Path]:
    """The one safetensors or GGUF file of a folder, or every shard that its index names."""
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if indices:
        return [folder / name for name in read_shards(indices[0])]
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.gguf"))
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


def _fill(
    model: M,
    tensors: Tensors,
    source: Path,
    dtype: torch.dtype,
    device: str | torch.device,
    twins: Mapping[str, str] | None = None,
) -> M:
    """Read tensor after tensor as they lie on the disk, each freed before the next one but for what the model keeps."""
    expected = model.state_dict()
    keep = tuple(getattr(model, "_keep_in_fp32_modules", None) or ())
    values: dict[str, Tensor] = {}

    def read() -> Iterator[tuple[str, Tensor]]:
        wanted = sorted(expected.keys() - (twins or {}).keys(), key=lambda name: tensors[name].place)
        for key in wanted:
            values[key] = tensors[key].read().to(device=device, dtype=_target(key, expected[key], dtype, keep))
            yield key, values[key]

    must_be_finite(read(), source)
    model.load_state_dict({**values, **{twin: values[name] for twin, name in (twins or {}).items()}}, assign=True)
    return model.to(device).eval()


def _target(key: str, value: Tensor, dtype: torch.dtype, keep: tuple[str, ...]) -> torch.dtype:
    if not value.is_floating_point():
        return value.dtype
    return torch.float32 if set(keep) & set(key.split(".")) and dtype.itemsize < 4 else dtype


def _fits(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and found.is_floating_point() == expected.is_floating_point()


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
