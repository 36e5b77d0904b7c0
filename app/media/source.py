"""What video is read from: a file, a camera, a screen. Each is opened, read picture by picture, and closed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OPEN_SECONDS = 10.0
"""A source that is not open by then, or a live one that has sent nothing for so long, is given up."""


class SourceLost(Exception):
    """A source that ended before its film did; the text is a clause on what happened, without a full stop."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture, uint8 RGB [H, W, 3] in the size that was asked for, and its time in the source, in seconds."""

    pixels: NDArray[np.uint8]
    seconds: float


class VideoSource(Protocol):
    """Where pictures come from. All calls come from one thread, the reader's, which may wait in any of them."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    def open(self) -> None:
        """Get ready to read.

        Raises:
            UsageMistake: it is missing, busy, denied, or no video; one sentence and one action.
        """
        ...

    def read(self) -> Picture | None:
        """The next picture; None where there are no more.

        Raises:
            SourceLost: it broke off.
        """
        ...

    def close(self) -> None:
        """Let go of file or device; also where it was never opened."""
        ...
