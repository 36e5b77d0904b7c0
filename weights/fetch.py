"""From a catalogue entry to a path on this disk, with a download (weights/hub.py) where that is allowed.

Downloads go to the Hugging Face cache or to the folder that the user names, never into this package:
`weights/` is code. What ships with Rivulet or lies in a local folder never touches the network.
"""

from __future__ import annotations

import hashlib
import logging
import shlex
import time
from collections.abc import Callable
from pathlib import Path

from weights.catalog import MODELS, WeightSpec
from weights.header import read_shards
from weights.plain_files import CheckpointError

_TELL_SECONDS = 5.0
_log = logging.getLogger(__name__)

COMPONENT = ("*.json", "*.safetensors", "*.model", "*.txt")
"""What of a component's folder may be needed."""


def fetch(
    spec: WeightSpec,
    models_dir: str | Path | None = None,
    *,
    offline: bool = False,
    licence_accepted: bool = False,
    report: Callable[[str, int, int, float], object] | None = None,
) -> Path:
    """The file or folder that holds the weights, downloaded first where it is not here yet.

    Args:
        spec: an entry of weights/catalog.py.
        models_dir: folder for downloads, one sub-folder a repository; None = the Hugging Face cache.
        offline: never download.
        licence_accepted: a person has accepted `spec.licence`; a download needs it where `spec.licence_tick`.
        report: told a file, bytes done, bytes in all and bytes a second; None: the log is.

    Raises:
        FileNotFoundError: not here, and `offline`, or the download failed.
        PermissionError: the licence has to be accepted first.
        CheckpointError: the file is not the one that the catalogue knows (sha256).
    """
    if spec.where != "hub":
        path = Path(spec.file)
        if not path.exists():
            raise FileNotFoundError(f"{spec.name} should be at {path}; install Rivulet again or check the folder.")
        return path
    path = here(spec, models_dir)
    if path is None:
        if offline:
            raise FileNotFoundError(
                f"{spec.name} is not on this machine (looked in {_target(spec, models_dir)}); fetch it with "
                f"{pull_command(spec, models_dir)}, or copy {spec.file} there from {spec.page}."
            )
        from weights.hub import HuggingFace, pull

        path = pull(
            spec,
            None if models_dir is None else Path(models_dir),
            HuggingFace(),
            licence_accepted=licence_accepted,
            report=report or Told(),
        )
    if spec.sha256 is not None and path.is_file():
        found = sha256_of(path)
        if found != spec.sha256:
            raise CheckpointError(
                f"{path} is not the {spec.name} that the catalogue knows (sha256 {found[:12]}..., expected "
                f"{spec.sha256[:12]}...); delete it and fetch it again."
            )
    return path


class Told:
    """Writes to the log how far a download is, every few seconds."""

    def __init__(self) -> None:
        self._at = float("-inf")

    def __call__(self, path: str, done: int, total: int, rate: float) -> None:
        now = time.monotonic()
        if now - self._at < _TELL_SECONDS and done < total:
            return
        self._at = now
        left = f", {(total - done) / rate:.0f} s left" if rate and total > done else ""
        _log.warning("%s: %.2f of %.2f GB, %.1f MB/s%s", path, done / 1e9, total / 1e9, rate / 1e6, left)


def pull_command(spec: WeightSpec, models_dir: str | Path | None) -> str:
    """The command that fetches the model that these weights are of."""
    name = next((name for name, model in MODELS.items() if spec in model.weights), spec.name)
    to = "" if models_dir is None else f" --models_dir {shlex.quote(str(models_dir))}"
    tick = f" --accept_licence {name}" if spec.licence_tick else ""
    return f"rivulet models pull {name}{to}{tick}"


def _target(spec: WeightSpec, models_dir: str | Path | None) -> str:
    return str(Path(models_dir) / spec.repo) if models_dir is not None else "the Hugging Face cache"


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
