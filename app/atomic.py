"""Write a text file whole or not at all: a kill or a full disk leaves what was there before."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 with plain line ends, safe from a power cut, in one rename.

    Raises:
        OSError: it cannot be written; an older file of that name is still there.
    """
    half = path.absolute().with_name(f".{path.name}.tmp")
    try:
        with half.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        put(half, path)
    finally:
        half.unlink(missing_ok=True)


def put(half: Path, path: Path) -> None:
    """Give a finished file its name, safe from a power cut: what it makes superfluous may be deleted afterwards.

    Raises:
        OSError: it cannot be renamed.
    """
    half.replace(path)
    with suppress(OSError):  # not every system lets a folder be opened
        folder = os.open(path.absolute().parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def file_hash(path: Path) -> str:
    """sha256 of every byte of a file; "" where there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
