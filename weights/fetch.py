"""From a catalogue entry to a path on this disk, with a download (weights/hub.py) where that is allowed.

Downloads go to the Hugging Face cache or to the folder that the user names, never into this package:
`weights/` is code. What ships with Rivulet or lies in a local folder never touches the network.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from weights.catalog import WeightSpec
from weights.here import here, pull_command, sha256_of
from weights.plain_files import CheckpointError

_TELL_SECONDS = 5.0
_log = logging.getLogger(__name__)


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


def _target(spec: WeightSpec, models_dir: str | Path | None) -> str:
    return str(Path(models_dir) / spec.repo) if models_dir is not None else "the Hugging Face cache"
