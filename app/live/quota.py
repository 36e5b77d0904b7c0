"""Disk quota of the live films: how much their folders hold, and which give way when there is no room.

Films that nobody has open go first, the oldest before the others: at first only the copies from which they can go on,
then their folders with logs and saved files. A film that plays loses nothing; what it wanted to write is refused.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Set
from contextlib import suppress
from pathlib import Path
from threading import Lock

from app.errors import UsageMistake
from app.live.checkpoint import forget_checkpoint, is_session_id

SHARES = 4
"""What one film saves may be a quarter; the copy from which it goes on may be more."""
HALVES = (".*.tmp", ".*.part", ".*.part.mp4")
"""Names under which files grow until they are whole."""
_SCAN_SECONDS = 60.0


class NoRoom(UsageMistake):
    """The quota is used up; the text, for people, says by what."""


class Quota:
    """Of one server; for the threads that write, which wait for the disk anyway.

    Args:
        root: a folder a film lies in it.
        limit: bytes that all of them may take together.
        open_films: names of films that are open.
    """

    def __init__(self, root: Path, limit: int, open_films: Callable[[], Set[str]]) -> None:
        self._root, self.limit, self._open_films = root, limit, open_films
        self._lock = Lock()
        self._sizes: dict[str, int] = {}
        self._written: set[str] = set()  # since all were measured
        self._scanned_at: float | None = None

    @property
    def used(self) -> int:
        """Bytes that the films held when they were last measured; never waits for a disk."""
        return sum(list(self._sizes.values()))

    def room(self, film: str, size: int, *, copy: bool = False) -> None:
        """See to it that a film can write so many bytes more; `copy`: not of what it saves but of itself.

        Raises:
            NoRoom: not even without all that nobody has open, or the film holds its share already.
        """
        with self._lock:
            open_films = self._open_films() | {film}
            self._written.add(film)
            self._measure(open_films)
            share = self.limit // SHARES
            if not copy and self._sizes.get(film, 0) + size > share:
                raise NoRoom(f"The files of this film have reached {_mb(share)}, a quarter of --live_disk.")
            if self.used + size > self.limit:
                self._make_room(size, open_films)
            if self.used + size > self.limit:
                raise NoRoom(f"The films that are open hold all of the {_mb(self.limit)} of --live_disk.")

    def keep(self) -> None:
        """Measure, and let go of what is too much by now."""
        with self._lock:
            open_films = self._open_films()
            self._measure(open_films)
            self._make_room(0, open_films)

    def _make_room(self, size: int, open_films: Set[str]) -> None:
        left = sorted((name for name in self._sizes if name not in open_films), key=self._left_at)
        for give_up in (forget_checkpoint, shutil.rmtree):
            for name in left:
                if self.used + size <= self.limit:
                    return
                with suppress(OSError):  # another process was first; what is still there is measured again
                    give_up(self._root / name)
                self._measure_one(name)

    def _measure(self, open_films: Set[str]) -> None:
        now = time.monotonic()
        if self._scanned_at is None or now - self._scanned_at >= _SCAN_SECONDS:
            self._scanned_at, self._sizes, self._written = now, {}, set(open_films)
            for folder in _folders(self._root):
                self._measure_one(folder.name)
        else:
            for name in open_films | self._written:
                self._measure_one(name)

    def _measure_one(self, name: str) -> None:
        size = size_of(self._root / name)
        if size:
            self._sizes[name] = size
        else:
            self._sizes.pop(name, None)

    def _left_at(self, name: str) -> float:
        times = [0.0]
        for file in _files(self._root / name):
            with suppress(OSError):
                times.append(file.stat().st_mtime)
        return max(times)


def size_of(folder: Path) -> int:
    """Bytes that the files of a folder take on the disk."""
    size = 0
    for file in _files(folder):
        with suppress(OSError):  # it went meanwhile
            found = file.lstat()
            size += max(found.st_size, 512 * getattr(found, "st_blocks", 0))
    return size


def clear_halves(root: Path, open_films: Set[str]) -> None:
    """Remove what a kill has left half written; a recording's `.part.mp4` plays, so that stays."""
    for folder in _folders(root):
        if folder.name not in open_films:
            for pattern in HALVES:
                for half in folder.glob(pattern):
                    half.unlink(missing_ok=True)


def _folders(root: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from (each for each in root.iterdir() if is_session_id(each.name) and not each.is_symlink())


def _files(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _mb(size: int) -> str:
    return f"{size / 10**9:.3g} GB" if size >= 10**9 else f"{size / 10**6:.3g} MB"
