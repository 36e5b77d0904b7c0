"""From a catalogue entry to a path on this disk, with a download where that is allowed.

Downloads go to the Hugging Face cache or to the folder that the user names, never into this package:
`weights/` is code. What ships with Rivulet or lies in a local folder never touches the network.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from weights.catalog import WeightSpec
from weights.header import read_shards
from weights.plain_files import CheckpointError

COMPONENT = ("*.json", "*.safetensors", "*.model", "*.txt")
"""What of a component's folder may be needed."""


def fetch(
    spec: WeightSpec,
    models_dir: str | Path | None = None,
    *,
    offline: bool = False,
    licence_accepted: bool = False,
) -> Path:
    """The file or folder that holds the weights, downloaded first where it is not here yet.

    Args:
        spec: an entry of weights/catalog.py.
        models_dir: folder for downloads, one sub-folder a repository; None = the Hugging Face cache.
        offline: never download.
        licence_accepted: a person has accepted `spec.licence`; a download needs it where `spec.licence_tick`.

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
                f"{spec.name} is not on this machine (looked in {_target(spec, models_dir)}); run once "
                f"without --offline or copy {spec.file} there from {spec.page}."
            )
        if spec.licence_tick and not licence_accepted:
            raise PermissionError(
                f"{spec.name} asks for your consent before a download (licence: {spec.licence}); read "
                f"{spec.page} and, if you accept it, add --accept_licence {spec.name}."
            )
        path = _download(spec, models_dir)
    if spec.sha256 is not None and path.is_file():
        found = sha256_of(path)
        if found != spec.sha256:
            raise CheckpointError(
                f"{path} is not the {spec.name} that the catalogue knows (sha256 {found[:12]}..., expected "
                f"{spec.sha256[:12]}...); delete it and fetch it again."
            )
    return path


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


def _download(spec: WeightSpec, models_dir: str | Path | None) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    local = None if models_dir is None else Path(models_dir) / spec.repo
    try:
        if is_folder(spec):
            patterns = [f"{spec.file}/{pattern}" for pattern in COMPONENT]
            return Path(snapshot_download(spec.repo, local_dir=local, allow_patterns=patterns)) / spec.file
        return Path(hf_hub_download(spec.repo, spec.file, local_dir=local))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise FileNotFoundError(
            f"{spec.name} could not be fetched from {spec.page} ({type(error).__name__}: {reason}); "
            f"check the network, or copy {spec.file} to {_target(spec, models_dir)}."
        ) from error
