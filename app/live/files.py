"""Files of live films: the disk's thread, saves and quota that the engines of one server share.

Whatever is written of a film goes through one thread, so what one engine has parked is written before another reads it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Set
from pathlib import Path

from app.live.quota import Quota, clear_halves
from app.live.saves import Saves
from app.live.worker import Worker


class LiveFiles:
    """Of one server.

    Args:
        folder: a folder a film lies in it.
        live_memory: bytes for what is being saved, half of what `--live_memory` gives.
        live_disk: bytes for all folders together.

    Attributes:
        disk: writes logs and copies of films; `saves` makes files of them, `quota` is what they may take.
    """

    def __init__(self, folder: Path, live_memory: int, live_disk: int) -> None:
        self._folder = folder
        self.disk = Worker("rivulet-disk")
        self.saves = Saves(live_memory // 2)
        self.quota = Quota(folder, live_disk, self.open_films)
        self._engines: list[Callable[[], Set[str]]] = []

    def add(self, films: Callable[[], Set[str]]) -> None:
        """An engine more, and how to learn which films it has or is asked for."""
        self._engines.append(films)

    def remove(self, films: Callable[[], Set[str]]) -> None:
        """And one less."""
        self._engines.remove(films)

    def open_films(self) -> set[str]:
        """Those that somebody has or asks for, and of which something is still being made."""
        return {name for films in list(self._engines) for name in films()} | self.saves.films

    def metrics(self) -> dict[str, float]:
        """Figures for a dashboard."""
        return {
            "saves_pending": self.saves.under_way,
            "disk_bytes": self.quota.used,
            "disk_limit_bytes": self.quota.limit,
        }

    def close(self, end: float, *, ended: bool) -> bool:
        """Have written what waits, until `end` on the monotonic clock; `ended`: those who give have.

        False: something was left, of which no half files stay.
        """
        for close in (self.disk.close, self.saves.close):
            ended = close(max(0.0, end - time.monotonic())) and ended
        if not ended:
            clear_halves(self._folder, set())
        return ended
