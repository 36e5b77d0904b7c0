"""How a picture of any size becomes one of the model's size: cropped, padded or stretched, and turned upright."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.config.readers import FitKind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Orientation:
    """How stored pixels become an upright picture: rows and columns change places first, then either is reversed."""

    transposed: bool = False
    mirrored: bool = False
    upended: bool = False

    def upright(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn a picture [H, W, 3]; a view, where nothing has to be copied."""
        if self.transposed:
            pixels = pixels.swapaxes(0, 1)
        if self.mirrored:
            pixels = pixels[:, ::-1]
        return pixels[::-1] if self.upended else pixels

    def turned(self, degrees: int) -> Orientation:
        """The same, and then turned clockwise by 0, 90, 180 or 270 degrees."""
        transposed, mirrored, upended = self.transposed, self.mirrored, self.upended
        for _ in range(degrees // 90 % 4):  # a quarter turn clockwise transposes and then mirrors
            transposed, mirrored, upended = not transposed, not upended, mirrored
        return Orientation(transposed, mirrored, upended)


@dataclass(frozen=True, slots=True)
class Fit:
    """The model's size, and how another one becomes it.

    Attributes:
        height: of the picture that comes out, in pixels.
        width: likewise.
        how: crop fills it and cuts off what stands out, pad shows all of it between black bars, stretch distorts.
        turn: clockwise, in degrees (0, 90, 180, 270), beside what a file says of its own rotation.
    """

    height: int
    width: int
    how: FitKind = "crop"
    turn: int = 0

    def scaled(self, height: float, width: float) -> tuple[int, int]:
        """To which size an upright picture of `height` x `width` square pixels is scaled, before `place`."""
        if self.how == "stretch":
            return self.height, self.width
        ratios = self.height / height, self.width / width
        by = max(ratios) if self.how == "crop" else min(ratios)
        return max(1, round(height * by)), max(1, round(width * by))

    def place(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Cut or pad a scaled picture [h, w, 3] in its middle to [height, width, 3], contiguous."""
        import numpy as np

        height, width = pixels.shape[:2]
        top, left = (height - self.height) // 2, (width - self.width) // 2
        if top >= 0 and left >= 0:
            return np.ascontiguousarray(pixels[top : top + self.height, left : left + self.width])
        whole = np.zeros((self.height, self.width, 3), np.uint8)
        top, left = max(0, -top), max(0, -left)
        whole[top : top + height, left : left + width] = pixels
        return whole
