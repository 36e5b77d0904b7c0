"""Models of files that lie on this disk: what a path is, told by keys and headers and never by a file's name.

A single transformer (original, ComfyUI, GGUF, a training script's .pt), the original Wan folder, or ComfyUI's
`models/diffusion_models`: the parts that are not in it are looked for where these tools keep them, and else are the
catalogue's, which lie in the Hugging Face cache or are fetched when they are asked for.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from weights.catalog import MODELS, ModelSpec, WeightSpec
from weights.catalog import Kind as WeightKind
from weights.foreign import describe_file, refuse_foreign
from weights.gguf_file import read_gguf_header
from weights.header import form_of, read_header
from weights.plain_files import CheckpointError, few, read_json
from weights.shapes import Kind, Shapes, kind_of

_ENDINGS = (".safetensors", ".gguf", ".pt", ".pth", ".ckpt", ".bin")
_HEADED = (".safetensors", ".gguf")
_BESIDE: dict[Kind, tuple[str, ...]] = {"autoencoder": ("vae",), "text_encoder": ("text_encoders", "clip")}
"""ComfyUI's folders beside `diffusion_models` and `unet`."""
_TOKENIZERS = ("google/umt5-xxl", "tokenizer")
_OWNERS = "the owner's: a local file"
_LAYOUT = "transformer/, autoencoder/ or vae/, and text_encoder/ in it"


def local_model(path: Path) -> ModelSpec:
    """The model in a folder, or around one file with a transformer.

    Raises:
        ValueError: there is no transformer; the sentence says what there is instead.
        CheckpointError: a file is damaged, or in a form that is not read.
    """
    if path.is_dir():
        if os.path.lexists(path / "transformer" / "config.json"):  # whoever reads it tells what is wrong with it
            return _diffusers_folder(path)
        return _original_folder(path)
    if not path.is_file():
        raise ValueError(f"{path} is no file and no folder: give a model's folder, or one of {', '.join(MODELS)}.")
    shapes = shapes_in(path)
    kind = kind_of(shapes)
    if kind != "transformer":
        what = _said(kind) or describe_file(path)
        raise ValueError(
            f"{path} is {what}, and a model is a file with a Wan transformer or a folder with {_LAYOUT}: give such a "
            f"file or folder, or one of {', '.join(MODELS)}."
        )
    refuse_foreign(path, shapes)
    return _around(path, path.stem, shapes)


def shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a file's tensors as it spells them, without reading numbers.

    Raises:
        FileNotFoundError, CheckpointError: it is missing, damaged, or holds more than tensors.
    """
    form = form_of(path)
    if form == "gguf":
        return {name: entry.shape for name, entry in read_gguf_header(path).items()}
    if form == "safetensors":
        return {name: entry.shape for name, entry in read_header(path).tensors.items()}
    from weights.stored import stored_pickle  # torch, which takes seconds

    return {name: stored.shape for name, stored in stored_pickle(path).items()}


def part_in(folder: Path, kind: Kind, channels: int | None = None) -> Path | None:
    """The one file in a folder that holds such a network; None where there is none, or several.

    Args:
        folder: need not exist.
        kind: of the network.
        channels: of the latents, for an autoencoder.
    """
    found = [path for path in _files(folder, _HEADED) if _is(path, kind, channels)]
    return found[0] if len(found) == 1 else None


def _diffusers_folder(folder: Path) -> ModelSpec:
    def part(kind: WeightKind) -> WeightSpec:
        return WeightSpec(kind, kind, str(folder / kind), "the owner's: a local folder", "local")

    name = folder.resolve().name
    return ModelSpec(name, str(folder), part("transformer"), part("autoencoder"), part("text_encoder"))


def _original_folder(folder: Path) -> ModelSpec:
    """Of the layout of Wan-AI's own repositories: all files in one folder."""
    files = _files(folder, _ENDINGS)
    index = next(iter(sorted(folder.glob("*.safetensors.index.json"))), None)
    shards: set[str] = set()
    transformer: list[Path] = []
    shapes: Shapes = {}
    if index is not None:
        listed = read_json(index)
        names = listed.get("weight_map") if isinstance(listed, dict) else None
        if isinstance(names, dict) and kind_of(names) == "transformer":
            shards = {str(name) for name in names.values()}
            transformer = [folder]
            shapes = {name: shape for file in files if file.name in shards for name, shape in shapes_in(file).items()}
    others: dict[Kind, list[Path]] = {}
    for file in files:
        if file.name in shards:
            continue
        found = shapes_in(file)
        kind = kind_of(found)
        if kind == "transformer":
            transformer.append(file)
            shapes = found
        elif kind is not None:
            others.setdefault(kind, []).append(file)
    if len(transformer) != 1:
        what = f"several transformers ({few(path.name for path in transformer)})" if transformer else "no transformer"
        raise ValueError(
            f"The folder {folder} has {what} and no transformer/config.json: give a folder with {_LAYOUT}, a file "
            f"with a transformer, or one of {', '.join(MODELS)}."
        )
    spec = _around(transformer[0], folder.resolve().name, shapes)
    for kind in _BESIDE:
        if len(here := others.get(kind, [])) == 1:
            spec = replace(spec, **{kind: _local(here[0], kind)})  # pyright: ignore[reportArgumentType]
    for place in _TOKENIZERS:
        if (folder / place / "tokenizer.json").is_file() or (folder / place / "spiece.model").is_file():
            spec = replace(spec, tokenizer=WeightSpec(place, "tokenizer", str(folder / place), _OWNERS, "local"))
            break
    return spec


def _around(path: Path, name: str, shapes: Shapes) -> ModelSpec:
    """A transformer with the other parts from beside it, or the catalogue's."""
    embedding = next((shape for key, shape in shapes.items() if key.endswith("patch_embedding.weight")), (0, 16))
    channels = embedding[1] if len(embedding) > 1 else 16
    base = MODELS["longlive-2-5b" if channels == 48 else "wan-1.3b"]
    spec = replace(
        base,
        name=name,
        about=str(path),
        transformer=WeightSpec(name, "transformer", str(path), _OWNERS, "local", bare=path.is_dir()),
        lora=None,
        config={},
    )
    root = (path if path.is_dir() else path.parent).parent
    for kind, folders in _BESIDE.items():
        for folder in folders:
            found = part_in(root / folder, kind, channels if kind == "autoencoder" else None)
            if found is not None:
                spec = replace(spec, **{kind: _local(found, kind)})  # pyright: ignore[reportArgumentType]
    return spec


def _local(path: Path, kind: str) -> WeightSpec:
    return WeightSpec(path.stem, kind, str(path), _OWNERS, "local")  # pyright: ignore[reportArgumentType]


def _files(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in endings and path.is_file())


def _is(path: Path, kind: Kind, channels: int | None) -> bool:
    try:
        shapes = shapes_in(path)
    except (CheckpointError, OSError):
        return False  # somebody else's file; nobody asked for it
    if kind_of(shapes) != kind:
        return False
    if channels is None:
        return True
    latents = next((shape for key, shape in shapes.items() if key.endswith(("conv2.bias", "post_quant_conv.bias"))), ())
    return latents == (channels,)


def _said(kind: Kind | None) -> str:
    return {
        "lora": "a LoRA (--lora takes it)",
        "autoencoder": "a Wan autoencoder (--vae takes it)",
        "tiny_autoencoder": "a tiny autoencoder (--vae takes it)",
        "text_encoder": "a text encoder",
    }.get(kind or "", "")
