"""What render jobs take of the disk, and whether there is room for more."""

import shutil
from contextlib import suppress
from pathlib import Path

LEAST_FREE = 500_000_000
"""Bytes of the disk that no render may take."""


def no_room(folder: Path, *, taken: int, most: int) -> str:
    """What is wrong with the disk, if something is: jobs take more than `most` bytes, or little is free."""
    if taken > most:
        return f"Render jobs take {taken / 1e9:.1f} of the {most / 1e9:.1f} GB that they may."
    free = shutil.disk_usage(folder).free
    return f"Only {free / 1e9:.1f} GB of the disk are free." if free < LEAST_FREE else ""


def size_of(folder: Path) -> int:
    """Bytes of everything in a folder."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # a render renames and removes as we look
            total += path.stat().st_size
    return total
