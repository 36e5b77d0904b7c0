"""Where the way of a video through a stream stands: a part of the stream's state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class VideoState:
    """Counts are in pixel frames, pictures uint8 [H, W, 3].

    Attributes:
        at: the latent frame of the film with which the video begins; above 0 the encoder saw a picture before it.
        entered: frames handed in.
        shown: frames given back.
        ended: the last chunk was not full, so that nothing can follow it.
        share: of noise, of the last chunk worked on; its controller goes on from it.
        reference: the last frame worked on.
        picture: the last frame given back.
        skipped: chunks left out in a row.
        quiet: what changed in the quiet blocks of the last chunks, for the filter.
    """

    at: int = 0
    entered: int = 0
    shown: int = 0
    ended: bool = False
    share: float | None = None
    reference: NDArray[Any] | None = None
    picture: NDArray[Any] | None = None
    skipped: int = 0
    quiet: tuple[float, ...] = ()
