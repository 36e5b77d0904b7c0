"""Downloads from a hub: what a set of weights consists of there, whether it fits on the disk, and the transfer itself.

What came before a cut stays, and the next try goes on from there. What is fetched is checked against the sha256 that
the hub names, and the checksums stay beside it, so that `rivulet models verify` needs no network.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from weights.catalog import WeightSpec
from weights.here import COMPONENT, here, is_folder, pull_command, sha256_of
from weights.plain_files import CheckpointError, read_json

SPARE = 2**28
"""Bytes that a download leaves free: a full disk stops more than the download."""
Report = Callable[[str, int, int, float], object]
"""Told a file, bytes done, bytes in all and bytes a second."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository: its path there, its bytes, and its sha256 where the hub knows it."""

    path: str
    size: int
    sha256: str | None


class Hub(Protocol):
    """A place that repositories are fetched from."""

    def files(self, repo: str) -> Sequence[RemoteFile]:
        """All files of a repository; OSError where it cannot be asked."""
        ...

    def fetch(self, repo: str, path: str, folder: Path | None, report: Report) -> Path:
        """Bring one file, to `folder` or the hub's own cache; OSError where it cannot be had."""
        ...


@dataclass(frozen=True, slots=True)
class HuggingFace:
    """huggingface.co, or a mirror of it.

    Attributes:
        endpoint: address of a mirror; None = HF_ENDPOINT, or huggingface.co.
    """

    endpoint: str | None = None

    def files(self, repo: str) -> Sequence[RemoteFile]:
        from huggingface_hub import HfApi

        found = HfApi(endpoint=self.endpoint).model_info(repo, files_metadata=True).siblings or []
        return [
            RemoteFile(each.rfilename, each.size or 0, None if each.lfs is None else each.lfs.sha256) for each in found
        ]

    def fetch(self, repo: str, path: str, folder: Path | None, report: Report) -> Path:
        from filelock import FileLock
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
        from huggingface_hub.file_download import http_get, repo_folder_name
        from huggingface_hub.utils import build_hf_headers

        url, headers = hf_hub_url(repo, path, endpoint=self.endpoint), build_hf_headers()
        facts = get_hf_file_metadata(url, endpoint=self.endpoint)
        etag = str(facts.etag)
        if folder is None:
            target = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo, repo_type="model"), "blobs", etag)
        else:
            target = folder / path
        # Its own transfer throws away what came when it is cut; a part of ours is named after the file's version.
        part = target.with_name(f".{target.name[:80]}.{etag[:16]}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        bar: Any = _bar_for(path, report)
        with FileLock(part.with_suffix(".lock"), timeout=0), part.open("ab") as file:
            http_get(
                url,
                file,
                resume_size=part.stat().st_size,
                headers=headers,
                expected_size=facts.size,
                tqdm_class=bar,
            )
        part.replace(target)
        part.with_suffix(".lock").unlink(missing_ok=True)
        if folder is not None:
            return target
        return Path(hf_hub_download(repo, path, endpoint=self.endpoint))  # which finds it, and links it into its tree


def wanted(spec: WeightSpec, files: Sequence[RemoteFile]) -> list[RemoteFile]:
    """The files of a repository that a set of weights consists of.

    Raises:
        CheckpointError: it has none of them.
    """
    if is_folder(spec):
        found = [
            each
            for each in files
            if PurePosixPath(each.path).parent == PurePosixPath(spec.file)
            and any(PurePosixPath(each.path).match(pattern) for pattern in COMPONENT)
        ]
    else:
        found = [each for each in files if each.path == spec.file]
    if not found:
        raise CheckpointError(
            f"{spec.repo} has no {spec.file}; look at {spec.page}, and give what is there with --model or --vae."
        )
    return found


def pull(
    spec: WeightSpec,
    models_dir: Path | None,
    hub: Hub,
    *,
    licence_accepted: bool,
    report: Report = lambda *_: None,
) -> Path:
    """Bring a set of weights here, whole and checked, or not at all.

    Args:
        spec: of the catalogue.
        models_dir: folder for downloads; None = the Hugging Face cache.
        hub: where from.
        licence_accepted: a person has accepted its licence.
        report: told how far it is.

    Returns:
        Where they are, as `weights.fetch.fetch` finds them.

    Raises:
        PermissionError: the licence has to be accepted first.
        FileNotFoundError: the hub cannot be reached, or does not give them.
        CheckpointError: the disk is too small, or a file is not what the hub says it is.
    """
    if (place := here(spec, models_dir)) is not None:
        return place
    if spec.licence_tick and not licence_accepted:
        raise PermissionError(
            f"{spec.name} asks for your consent before a download (licence: {spec.licence}); read {spec.page} and, if "
            f"you accept it, add --accept_licence {spec.name}, or fetch it first: {pull_command(spec, models_dir)}."
        )
    root = None if models_dir is None else models_dir / spec.repo
    try:
        files = wanted(spec, hub.files(spec.repo))
        must_have_room(spec.name, [each for each in files if not _done(root, each)], models_dir)
        for each in files:
            if _done(root, each):
                continue
            found = hub.fetch(spec.repo, each.path, root, report)
            if each.sha256 is not None and sha256_of(found) != each.sha256:
                found.unlink()
                raise CheckpointError(
                    f"{each.path} came with other bytes than the hub told (sha256 {each.sha256[:9]}...) and "
                    "was thrown away; fetch it again."
                )
    except CheckpointError:
        raise
    except Exception as error:  # of the hub, the network or the disk; all are told alike
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise FileNotFoundError(
            f"{spec.name} could not be fetched from {spec.page} ({type(error).__name__}: {reason}); what came so far "
            f"stays: try again with {pull_command(spec, models_dir)}, where --endpoint names a mirror."
        ) from error
    if root is not None:
        _note(spec, root, files)
    place = here(spec, models_dir)
    if place is None:
        raise CheckpointError(f"{spec.repo} does not hold all of {spec.file}; look at {spec.page}.")
    return place


def must_have_room(name: str, files: Sequence[RemoteFile], models_dir: Path | None) -> None:
    """CheckpointError where the disk is too small for files that are to come."""
    needed = sum(each.size for each in files)
    folder = hub_cache() if models_dir is None else models_dir
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed and needed + SPARE > free:
        raise CheckpointError(
            f"{name} needs {needed / 1e9:.1f} GB on the disk of {folder}, which has {free / 1e9:.1f} GB free; make "
            "room, or give another folder with --models_dir."
        )


def hub_cache() -> Path:
    """Where the Hugging Face cache is."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def known_checksums(spec: WeightSpec, models_dir: Path | None) -> dict[Path, str]:
    """sha256 of the files of a set of weights that is here, where the hub told it when they came."""
    place = here(spec, models_dir)
    if place is None:
        return {}
    if models_dir is not None:
        note = _note_of(spec, models_dir / spec.repo)
        told: Any = read_json(note) if note.is_file() else {}
        return {models_dir / spec.repo / path: str(sha) for path, sha in told.items() if isinstance(sha, str)}
    files = [place] if place.is_file() else sorted(place.iterdir())
    names = {file: file.resolve().name for file in files}  # the cache calls large files by their checksum
    return {file: name for file, name in names.items() if len(name) == 64}


def pull_line(spec: WeightSpec, models_dir: Path | None, endpoint: str | None = None) -> str:
    """The command of huggingface_hub that fetches the same."""
    what = f"--include {shlex.quote(spec.file + '/*')}" if is_folder(spec) else shlex.quote(spec.file)
    to = "" if models_dir is None else f" --local-dir {shlex.quote(str(models_dir / spec.repo))}"
    mirror = "" if endpoint is None else f"HF_ENDPOINT={shlex.quote(endpoint)} "
    return f"{mirror}hf download {spec.repo} {what}{to}"


def _done(root: Path | None, file: RemoteFile) -> bool:
    """Whether a file is here already; a cut one lies elsewhere, and the cache looks for itself."""
    return root is not None and (root / file.path).is_file() and (root / file.path).stat().st_size == file.size


def _note_of(spec: WeightSpec, root: Path) -> Path:
    return root / ".rivulet" / f"{spec.name}.json"


def _note(spec: WeightSpec, root: Path, files: Sequence[RemoteFile]) -> None:
    note = _note_of(spec, root)
    note.parent.mkdir(parents=True, exist_ok=True)
    part = note.with_suffix(".part")
    part.write_text(json.dumps({each.path: each.sha256 for each in files}, indent=1))
    part.replace(note)


def _bar_for(path: str, report: Report) -> type:
    from tqdm.std import tqdm

    class Told(tqdm):  # pyright: ignore[reportMissingTypeArgument, reportUntypedBaseClass]
        """What huggingface_hub takes for a progress bar, and a report for us."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": False, "mininterval": 0.5})

        def display(self, msg: str | None = None, pos: int | None = None) -> Any:
            told = self.format_dict
            report(path, int(told["n"]), int(told["total"] or 0), float(told["rate"] or 0))
            return True

    return Told
