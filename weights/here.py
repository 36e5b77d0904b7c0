"""Where a catalogue's weights lie on this disk once they have been fetched, and what says that they are whole."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path

from weights.catalog import MODELS, WeightSpec
from weights.header import read_shards

COMPONENT = ("*.json", "*.safetensors", "*.model", "*.txt")
"""What of a component's folder may be needed."""


def pull_command(spec: WeightSpec, models_dir: str | Path | None) -> str:
    """The command that fetches the model that these weights are of."""
    name = next((name for name, model in MODELS.items() if spec in model.weights), spec.name)
    to = "" if models_dir is None else f" --models_dir {shlex.quote(str(models_dir))}"
    tick = f" --accept_licence {name}" if spec.licence_tick else ""
    return f"rivulet models pull {name}{to}{tick}"


def sha256_of(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_folder(spec: WeightSpec) -> bool:
    """Whether weights are a component's folder and no single file."""
    return Path(spec.file).suffix == ""


def here(spec: WeightSpec, models_dir: str | Path | None) -> Path | None:
    """The weights where a finished download left them, without asking the network; None = not all here."""
    marker = spec.file
    if is_folder(spec):
        marker += "/tokenizer_config.json" if spec.kind == "tokenizer" else "/config.json"
    if models_dir is not None:
        found = Path(models_dir) / spec.repo / marker
        path = found if found.is_file() else None
    else:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(spec.repo, marker)
        path = Path(cached) if isinstance(cached, str) else None
    if path is None or not is_folder(spec):
        return path
    return path.parent if spec.kind == "tokenizer" or _complete(path.parent) else None


def _complete(folder: Path) -> bool:
    """Whether a component's weights are all there: a download that was cut off leaves config.json alone."""
    index = next(folder.glob("*.safetensors.index.json"), None)
    if index is None:
        return any(folder.glob("*.safetensors"))
    return all((folder / name).is_file() for name in read_shards(index))
