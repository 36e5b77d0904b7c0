"""PNG files that know the data they were drawn from, so that a test can tell when one is stale.

Two versions of a drawing library give two files for one plot; what must not differ is the data.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

KEY = "Data-SHA256"


def digest(data: Any) -> str:
    """Of anything that JSON can hold, as it comes out of a file."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def save_figure(picture: Image.Image, path: Path, data: Any) -> None:
    """Write a picture in at most 256 colours with the digest of its data."""
    info = PngInfo()
    info.add_text(KEY, digest(data))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.convert("RGB").quantize(256).save(path, optimize=True, pnginfo=info)


def drawn_from(path: Path) -> str | None:
    """The digest in a picture; None without one."""
    with Image.open(path) as picture:
        return picture.info.get(KEY)
