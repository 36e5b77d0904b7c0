"""The weights on this disk: what is here and how large, whether it is whole, and how it gets in and out by hand."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from weights.catalog import MODELS, ModelSpec, WeightSpec
from weights.foreign import refuse_foreign
from weights.header import form_of, read_header
from weights.here import here, is_folder, sha256_of
from weights.hub import hub_cache, known_checksums
from weights.local import shapes_in
from weights.plain_files import CheckpointError, few
from weights.shapes import kind_of

State = Literal["here", "part", "away"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of one set of weights: `sound` None where there is no checksum to prove it by."""

    spec: WeightSpec
    sound: bool | None
    told: str


def place_of(spec: WeightSpec, models_dir: Path | None) -> Path | None:
    """Where weights are on this disk; None = they are not."""
    if spec.where != "hub":
        path = Path(spec.file)
        return path if path.exists() else None
    return here(spec, models_dir)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(each.stat().st_size for each in files)


def state_of(model: ModelSpec, models_dir: Path | None) -> State:
    """Whether all, some or none of a model's weights are here."""
    found = [place_of(spec, models_dir) is not None for spec in model.weights]
    own = place_of(model.transformer, models_dir) is not None
    return "here" if all(found) else "part" if own or (any(found) and model.lora is not None and found[1]) else "away"


def verify(spec: WeightSpec, models_dir: Path | None) -> Finding:
    """Read weights that are here and hold them against their checksums, or at least against their headers."""
    place = place_of(spec, models_dir)
    if place is None:
        return Finding(spec, False, "not here")
    known = known_checksums(spec, models_dir) if spec.where == "hub" else {}
    if spec.sha256 is not None and place.is_file():
        known[place] = spec.sha256
    wrong = [path.name for path, sha in known.items() if not path.is_file() or sha256_of(path) != sha]
    if wrong:
        return Finding(spec, False, f"{few(wrong)} is not what was fetched: remove it and pull it again")
    try:
        for file in _weights_in(place):
            if form_of(file) == "safetensors":
                read_header(file)
            elif file.suffix in (".pt", ".pth", ".gguf"):
                shapes_in(file)
    except CheckpointError as error:
        return Finding(spec, False, str(error))
    if known:
        return Finding(
            spec, True, f"sha256 of {len(known)} {'file' if len(known) == 1 else 'files'} as the hub told it"
        )
    return Finding(spec, None, "headers whole; no checksum is known")


def take_in(path: Path, model: ModelSpec, models_dir: Path) -> tuple[WeightSpec, Path]:
    """Put a file or a component's folder that a person has where a model of the catalogue looks for it.

    A file is linked where the disk allows it and copied otherwise; what it is, its tensors say.

    Args:
        path: a file, or a folder with config.json.
        model: that it belongs to.
        models_dir: folder for downloads.

    Returns:
        What it was taken for, and where it is now.

    Raises:
        CheckpointError: it is damaged, no part of that model, or there is one already.
    """
    spec = _part_for(path, model)
    target = models_dir / spec.repo / spec.file
    if target.exists():
        raise CheckpointError(f"{target} is there already; remove it first: rivulet models remove {model.name}.")
    part = target.with_name(f".{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if path.is_dir():
            shutil.copytree(path, part, copy_function=_link)
        else:
            _link(path, part)
        part.rename(target)
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)
    return spec, target


def removable(model: ModelSpec, models_dir: Path | None) -> Iterator[tuple[WeightSpec, Path]]:
    """Weights of a model that are here and that no other model here needs."""
    others = [other for name, other in MODELS.items() if name != model.name]
    kept = {part for other in others if state_of(other, models_dir) != "away" for part in other.weights}
    for spec in model.weights:
        place = place_of(spec, models_dir)
        if spec.where == "hub" and place is not None and spec not in kept:
            yield spec, place


def remove(spec: WeightSpec, models_dir: Path | None) -> None:
    """Delete weights that are here; of the Hugging Face cache also what they were links to."""
    place = place_of(spec, models_dir)
    if place is None or spec.where != "hub":
        return
    root = hub_cache() if models_dir is None else models_dir
    if not place.is_relative_to(root):
        raise CheckpointError(f"{place} lies outside {root}; delete it by hand.")
    files = [place] if not place.is_dir() else [each for each in place.rglob("*") if not each.is_dir()]
    for file in files:
        if file.is_symlink():
            blob = file.resolve()
            if blob.is_relative_to(root):
                blob.unlink(missing_ok=True)
        file.unlink()
    if place.is_dir():
        shutil.rmtree(place)


def _weights_in(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    return [each for each in sorted(place.iterdir()) if each.suffix in (".safetensors", ".gguf", ".pt", ".pth")]


def _part_for(path: Path, model: ModelSpec) -> WeightSpec:
    """The entry of a model that a path can be."""
    files = _weights_in(path) if path.is_dir() else [path]
    shapes = {name: shape for file in files for name, shape in shapes_in(file).items()}
    tokenizer = path.is_dir() and ((path / "tokenizer.json").is_file() or (path / "spiece.model").is_file())
    kind = "tokenizer" if tokenizer and not shapes else kind_of(shapes)
    if kind in ("transformer", "autoencoder", "text_encoder"):
        refuse_foreign(path, shapes)
    spec = next((each for each in model.weights if each.kind == kind and each.where == "hub"), None)
    if spec is None:
        raise CheckpointError(
            f"{path} is {'nothing that is known here' if kind is None else f'a {kind}'}, which {model.name} does not "
            "take; give one of its parts: " + ", ".join(f"{each.kind} ({each.file})" for each in model.weights) + "."
        )
    if is_folder(spec) != path.is_dir():
        want = "a folder with config.json" if is_folder(spec) else "a single file"
        raise CheckpointError(
            f"{path} is {'a folder' if path.is_dir() else 'a file'}, and {model.name} keeps its {kind} as {want}; it "
            f"can be used without being imported: {'--vae' if kind == 'autoencoder' else '--model'} {path}."
        )
    return spec


def _link(source: str | Path, target: str | Path) -> None:
    try:
        Path(target).hardlink_to(Path(source).resolve())
    except OSError:
        shutil.copyfile(source, target)
