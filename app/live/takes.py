"""Takes of a live film: the prompt in force begun under other seeds, each a clip to choose from.

A take is the beginning of a film of its own: whoever starts one with its seed sees the clip, then what comes after
it. Chunks are made one by one where a preview would be, and the film that plays knows nothing of them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING

from app.live.film import LiveFilm
from app.loading.live import LiveStream
from app.record.session_log import ChunkControls

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TAKES, CHUNKS = 4, 2
"""Seeds that are tried, and chunks of each: a second and a third of the embedded model's film."""


@dataclass(slots=True)
class _Take:
    controls: ChunkControls
    stream: LiveStream | None = None
    pictures: list[NDArray[np.uint8]] = field(default_factory=lambda: list["NDArray[np.uint8]"]())


class Takes:
    """Of one session; what is asked for anew takes the place of what waits.

    Args:
        film: whose prompt, settings and model they have.
        done: called with the pixels, uint8 RGB [T, H, W, 3], of each and its seed.
    """

    def __init__(self, film: LiveFilm, done: Callable[[NDArray[np.uint8], int], None]) -> None:
        self._film, self._done = film, done
        self._lock = Lock()
        self._waiting: list[_Take] = []

    @property
    def wait(self) -> bool:
        """Whether some wait."""
        return bool(self._waiting)

    def ask(self) -> None:
        """Begin with four new ones; on any thread."""
        seeds = {secrets.randbelow(2**31) for _ in range(TAKES)}
        while len(seeds) < TAKES:
            seeds.add(secrets.randbelow(2**31))
        with self._lock:
            self._waiting = [_Take(self._film.beginning(seed)) for seed in seeds]

    def forget(self) -> None:
        """Make none of those that wait."""
        with self._lock:
            self._waiting = []

    def make(self) -> None:
        """One chunk of the first that waits; on the engine thread.

        Raises:
            ValueError: the model cannot read the prompt.
        """
        with self._lock:
            take = self._waiting[0] if self._waiting else None
        if take is None:
            return
        take.stream = take.stream or self._film.model.new_stream(take.controls.seed, take.controls.knobs)
        pixels = take.stream.next_chunk(take.controls.for_stream).pixels
        assert pixels is not None  # live films are decoded
        take.pictures.append(pixels)
        if len(take.pictures) < CHUNKS:
            return
        with self._lock:
            wanted = take in self._waiting
            self._waiting = [other for other in self._waiting if other is not take]
        if wanted:
            import numpy as np

            self._done(np.concatenate(take.pictures), take.controls.seed)
