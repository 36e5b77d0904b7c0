"""Uploads: pictures and clips that somebody sent for render jobs to begin with, by the hash of their bytes.

A request names one and no file of this machine; its job gets a copy, so an upload may go when there are newer ones.
"""

from __future__ import annotations

import hashlib
import secrets
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel

from app.atomic import put
from app.errors import UsageMistake
from app.jobs.job import VideoRequest

LARGEST = 32 * 2**20
"""Bytes of one, which is what a request may have."""
MOST = 16
"""That are kept, the newest."""
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
_VIDEOS = (b"\x1a\x45\xdf\xa3", b"OggS", b"FLV\x01")


class Upload(BaseModel):
    """What was sent: `id` is what a request calls it, `kind` what a film makes of it."""

    id: str
    kind: str
    bytes: int


class Uploads:
    """Those in a folder; every method may be called from any thread.

    Args:
        folder: where they lie; made when the first one comes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, data: bytes) -> Upload:
        """Keep what was sent; the same bytes once.

        Raises:
            UsageMistake: it is neither a picture nor a video, by its first bytes; whoever renders reads the rest.
            OSError: the disk does not take it.
        """
        kind = _kind(data)
        if kind is None:
            raise UsageMistake("This is neither a picture nor a video. Send a PNG, a JPEG, a WebP, an MP4 or a WebM.")
        name = f"{kind}-{hashlib.sha256(data).hexdigest()}"
        self._folder.mkdir(exist_ok=True)
        half = self._folder / f".{secrets.token_hex(8)}"
        try:
            half.write_bytes(data)
            put(half, self._folder / name)
        finally:
            half.unlink(missing_ok=True)
        kept = sorted((path for path in self._folder.iterdir() if not path.name.startswith(".")), key=_age)
        for old in kept[:-MOST]:
            old.unlink(missing_ok=True)
        return Upload(id=name, kind=kind, bytes=len(data))

    def of(self, request: VideoRequest) -> Path | None:
        """The file that a request begins with, if it does.

        Raises:
            UsageMistake: it has gone, or never came.
        """
        if request.beginning is None:
            return None
        path = self._folder / request.beginning  # whose form was checked: no path
        if not path.is_file():
            raise UsageMistake("What this film is to begin with is not here any more. Send the picture or clip again.")
        return path


def _kind(data: bytes) -> str | None:
    if data.startswith(_PICTURES) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
        return "image"
    if data[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free") or data.startswith(_VIDEOS):
        return "extend"
    return "extend" if data[:4] == b"RIFF" and data[8:12] == b"AVI " else None


def _age(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0
